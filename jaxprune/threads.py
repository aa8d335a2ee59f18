"""Work of a CPU that is divided among threads.

Small networks, and pieces of networks, leave cores idle when they are computed one after another,
each on all cores: XLA divides a small product badly, and a convolution of a large map not at all.
"""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from jaxprune import devices

MOST = 8
"""Threads that work at once: each has arrays of its own, and Python runs in one at a time."""

J = TypeVar("J")
R = TypeVar("R")


@functools.cache
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="jaxprune")


def each(function: Callable[[J], R], jobs: Sequence[J]) -> list[R]:
    """What a function makes of each job, as many at once as there are cores, begun in their order.

    A job must not come here itself: it would wait for threads that wait for it.
    """
    count = min(devices.cores(), MOST)
    if min(count, len(jobs)) < 2:
        return list(map(function, jobs))
    return list(_pool(count).map(function, jobs))
