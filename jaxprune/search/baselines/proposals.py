"""Searches that propose masks and score them: what they share."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from jaxprune.search import rounds
from jaxprune.search.baselines import candidates
from jaxprune.search.problem import Archive, Problem, SearchResult, best


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


def init(config: Any, problem: Problem, key: Array) -> State:
    """The state before any candidate was evaluated."""
    del config
    return State(candidates.empty(problem.structure.num_channels), np.int32(0), key)


def update(
    propose: Callable[[Any, Problem, State], tuple[Array, Array]],
    config: Any,
    problem: Problem,
    state: State,
) -> tuple[State, dict[str, Any]]:
    """Proposes and evaluates one batch of masks.

    Args:
        propose: `(config, problem, state)` -> masks `[K, N]`, and the PRNG key for what is still to
            come.
        config: the settings.
        problem: what to prune and to which budget.
        state: the state after the previous batch.
    """
    masks, key = propose(config, problem, state)
    archive = candidates.extend(state.archive, problem, masks)
    state = State(archive, np.int32(state.iteration + 1), key)
    return state, {
        "iteration": int(state.iteration),
        "episodes": len(archive.cost),
        "candidates": len(archive.cost),
        "best_accuracy": candidates.best_validation(archive, problem.budget),
    }


def search(
    update: Callable[[Any, Problem, Any], tuple[Any, dict[str, Any]]],
    finished: Callable[[Any, Any], bool],
    config: Any,
    problem: Problem,
    key: Array,
    *,
    state: Any = None,
    progress: Callable[[Any, dict[str, Any]], None] | None = None,
    init: Callable[[Any, Problem, Array], Any] = init,
) -> SearchResult:
    """The best of all proposed masks, by validation accuracy.

    Args:
        update: evaluates one batch of masks.
        finished: whether all were evaluated.
        config: the settings.
        problem: what to prune and to which budget.
        key: PRNG key; unused when a state is given, which carries its own.
        state: where to go on; by default the beginning. A resumed search ends bit for bit like an
            uninterrupted one.
        progress: called with the state and the metrics after each update.
        init: the state at the beginning, which has an archive; by default `init`.

    Returns:
        The best candidate and all of them in the archive.

    Raises:
        ValueError: the budget cannot be met even at the least allowed widths.
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
