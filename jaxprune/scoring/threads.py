"""Work of a CPU that is divided among threads.

Small networks, and pieces of networks, leave cores idle when they are computed one after another,
each on all cores: XLA divides a small product badly, and a convolution of a large map not at all.
"""

import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from jaxprune.scoring import devices

MOST = 8
"""Threads that work at once: each has arrays of its own, and Python runs in one at a time."""

J = TypeVar("J")
R = TypeVar("R")


@functools.cache
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="jaxprune")


class Abandoned(Exception):
    """Nobody waits for what this thread does."""


_abandoned = threading.Event()


def each(function: Callable[[J], R], jobs: Sequence[J]) -> list[R]:
    """What a function makes of each job, as many at once as there are cores, begun in their order.

    If one fails, or the caller is interrupted, jobs that have not begun are left, and those that
    have end where they next call `go_on`. A job must not come here itself: it would wait for
    threads that wait for it.
    """
    count = min(devices.cores(), MOST)
    if min(count, len(jobs)) < 2:
        return list(map(function, jobs))
    futures = [_pool(count).submit(function, job) for job in jobs]
    try:
        return [future.result() for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        _abandoned.set()
        try:
            wait(futures)
        finally:
            _abandoned.clear()
        raise


def go_on() -> None:
    """To be called by long jobs now and then.

    Raises:
      Abandoned: this is a job of `each`, and its caller was interrupted.
    """
    if _abandoned.is_set() and threading.current_thread() is not threading.main_thread():
        raise Abandoned
