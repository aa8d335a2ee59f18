"""Random pruning: filters go in random order until the budget is met.

One random mask is the weakest baseline there is. As a search method it samples many and keeps the
best, which any cleverer search has to beat with the same number of candidates.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.search import rounds
from jaxprune.search.baselines import candidates
from jaxprune.search.baselines.removal import least_removal
from jaxprune.search.envs import filterwise
from jaxprune.search.problem import Archive, Problem, SearchResult, best
from jaxprune.search.ranges import AT_LEAST_ONE, require


def random_mask(problem: Problem, key: Array) -> Array:
    """Removes filters of the whole network in random order, until the budget is just met.

    All orders are equally likely, but for the one filter of each group that always stays, which is
    the last of its group in the order.

    Args:
        problem: the pruning problem.
        key: PRNG key, consumed.

    Returns:
        The mask, uint8 `[N]`, 1 = kept; one filter fewer removed in this order breaks the budget.

    Raises:
        ValueError: the budget cannot be met even with one filter in each group.
    """
    rules = filterwise.rules(problem)
    order = jax.random.permutation(key, rules.num_filters)
    return least_removal(problem, order.astype(jnp.float32))


@dataclass(frozen=True)
class Config:
    """Settings of the random search."""

    candidates: int = 64
    """Random masks in all."""

    batch: int = 8
    """Masks evaluated together."""

    def __post_init__(self) -> None:
        require(self, AT_LEAST_ONE, "candidates", "batch")


class State(NamedTuple):
    """The state of the search.

    Attributes:
        archive: the candidates found so far.
        iteration: number of updates made, int32 `[]`.
        key: PRNG key for what is still to come, uint32 `[2]`.
    """

    archive: Archive
    iteration: np.int32
    key: Array


def init(config: Config, problem: Problem, key: Array) -> State:
    """The state before any candidate was evaluated."""
    del config
    return State(candidates.empty(problem.structure.num_channels), np.int32(0), key)


def finished(config: Config, state: State) -> bool:
    """Whether all candidates were evaluated."""
    return len(state.archive.cost) >= config.candidates


def update(config: Config, problem: Problem, state: State) -> tuple[State, dict[str, float]]:
    """Draws and evaluates one batch of masks, or the rest if less than a batch is missing."""
    key, *mask_keys = jax.random.split(state.key, config.batch + 1)
    missing = config.candidates - len(state.archive.cost)
    masks = jnp.stack([random_mask(problem, mask_key) for mask_key in mask_keys[:missing]])
    archive = candidates.extend(state.archive, problem, masks)
    state = State(archive, np.int32(state.iteration + 1), key)
    return state, {
        "iteration": int(state.iteration),
        "episodes": len(archive.cost),
        "candidates": len(archive.cost),
        "best_accuracy": candidates.best_validation(archive, problem.budget),
    }


def search(
    config: Config,
    problem: Problem,
    key: Array,
    *,
    state: State | None = None,
    progress: Callable[[State, dict[str, float]], None] | None = None,
) -> SearchResult:
    """The best of many random masks, by validation accuracy.

    Args:
        config: the settings.
        problem: what to prune and to which budget.
        key: PRNG key; unused when a state is given, which carries its own.
        state: where to go on; by default the beginning. A resumed search ends bit for bit like an
            uninterrupted one.
        progress: called with the state and the metrics after each update.

    Returns:
        The best candidate and all of them in the archive.

    Raises:
        ValueError: the budget cannot be met even with one filter in each group.
    """
    state = rounds.play(
        functools.partial(update, config, problem),
        functools.partial(finished, config),
        init(config, problem, key) if state is None else state,
        progress=progress,
    )
    archive = state.archive
    mask = archive.masks[best(archive, problem.budget)]
    return SearchResult(mask, archive, episodes=len(archive.cost), state=state)
