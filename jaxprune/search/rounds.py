"""The loop that every method's `search` runs."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

S = TypeVar("S")


def play(
    update: Callable[[S], tuple[S, dict[str, Any]]],
    finished: Callable[[S], bool],
    state: S,
    *,
    progress: Callable[[S, dict[str, Any]], None] | None = None,
    seconds: float | None = None,
) -> S:
    """Updates a state until it is finished.

    Args:
        update: state -> next state and metrics.
        finished: whether a state is the last one.
        state: where to begin.
        progress: called with the state and the metrics after each update.
        seconds: stop after the update that passes this time; None: only when finished.

    Returns:
        The last state.
    """
    started = time.monotonic()
    while not finished(state):
        state, metrics = update(state)
        if progress is not None:
            progress(state, metrics)
        if seconds is not None and time.monotonic() - started > seconds:
            break
    return state
