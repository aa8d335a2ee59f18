"""Magnitude pruning: the filters with the smallest weights go first.

"Pruning Filters for Efficient ConvNets" (Li et al., ICLR 2017) removes the filters with the
smallest L1 norms. Two orders of removal are compared here: the same fraction of every group
(`uniform_l1`), and one ranking of all groups (`global_l1`). The names say L1 because it is a
`Problem`'s default importance; both use whatever importance it has.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.costs import within_groups
from jaxprune.search import rounds
from jaxprune.search.baselines import candidates
from jaxprune.search.baselines.removal import least_removal
from jaxprune.search.envs import filterwise
from jaxprune.search.problem import Archive, Problem, SearchResult, best


def uniform_l1(problem: Problem) -> Array:
    """Removes the same fraction of every group, the least important filters first.

    Each group's part is rounded to the nearest filter; at least one stays. The least removal that
    meets the budget is taken: of the groups whose part would be rounded up at the same fraction,
    only as many lose a filter as are needed.

    Args:
        problem: the pruning problem.

    Returns:
        The mask, uint8 `[N]`, 1 = kept.

    Raises:
        ValueError: the budget cannot be met even with one filter in each group.
    """
    rules = filterwise.rules(problem)
    rank = within_groups.rank(rules.sizes, problem.importance)
    return least_removal(problem, (rank + 0.5) / within_groups.size(rules.sizes))


def global_l1(problem: Problem) -> Array:
    """Removes the least important filters of the whole network, at least one of each group stays.

    The importance is divided by the mean of its group first: the norms of different layers are not
    comparable as they are.

    Args:
        problem: the pruning problem.

    Returns:
        The mask, uint8 `[N]`, 1 = kept.

    Raises:
        ValueError: the budget cannot be met even with one filter in each group.
    """
    rules = filterwise.rules(problem)
    return least_removal(problem, relative_importance(rules, problem.importance))


def relative_importance(rules: filterwise.Rules, importance: Array) -> Array:
    """The importance of each filter divided by the mean of its group, float32 `[N]`.

    A group whose filters are all of no importance stays at zero.
    """
    return within_groups.relative(rules.sizes, importance)


@dataclass(frozen=True)
class Config:
    """Settings of magnitude pruning: there are none."""


class State(NamedTuple):
    """The state of the search.

    Attributes:
        archive: the candidates found so far.
        iteration: number of updates made, int32 `[]`.
        key: PRNG key, uint32 `[2]`; unused, since nothing is random.
    """

    archive: Archive
    iteration: np.int32
    key: Array


def init(config: Config, problem: Problem, key: Array) -> State:
    """The state before any candidate was evaluated."""
    del config
    return State(candidates.empty(problem.structure.num_channels), np.int32(0), key)


def finished(config: Config, state: State) -> bool:
    """Whether both candidates were evaluated."""
    del config
    return int(state.iteration) > 0


def update(config: Config, problem: Problem, state: State) -> tuple[State, dict[str, float]]:
    """Evaluates the uniform and the global candidate."""
    del config
    masks = jnp.stack([uniform_l1(problem), global_l1(problem)])
    archive = candidates.extend(state.archive, problem, masks)
    state = State(archive, np.int32(state.iteration + 1), state.key)
    return state, {
        "iteration": int(state.iteration),
        "episodes": len(archive.cost),
        "candidates": len(archive.cost),
        "best_accuracy": candidates.best_validation(archive, problem.budget),
        "uniform_accuracy": float(archive.validation[0]),
        "global_accuracy": float(archive.validation[1]),
    }


def search(
    config: Config,
    problem: Problem,
    key: Array,
    *,
    state: State | None = None,
    progress: Callable[[State, dict[str, float]], None] | None = None,
) -> SearchResult:
    """The better of uniform and global magnitude pruning, by validation accuracy.

    Args:
        config: the settings.
        problem: what to prune and to which budget.
        key: PRNG key, kept in the state; the result does not depend on it.
        state: where to go on; by default the beginning.
        progress: called with the state and the metrics after each update.

    Returns:
        The better candidate and both in the archive.

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
