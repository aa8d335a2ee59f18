"""Work of a CPU that is divided among threads.

Small networks, and pieces of networks, leave cores idle when they are computed one after another,
each on all cores: XLA divides a small product badly, and a convolution of a large map not at all.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from jaxprune import devices

MOST = 8
"""Threads that work at once: each has arrays of its own, and Python runs in one at a time."""

J = TypeVar("J")
R = TypeVar("R")


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MOST, thread_name_prefix="jaxprune")


def divided(work: Callable[[J], float], jobs: Sequence[J], count: int) -> list[Sequence[J]]:
    """Jobs in at most `count` parts of about the same work, in their order; none is empty.

    Args:
      work: the work of a job, above 0.
      jobs: the jobs; at least one.
      count: how many parts are wanted.
    """
    amounts = np.array([work(job) for job in jobs])
    middles = np.cumsum(amounts) - amounts / 2
    part = np.floor(middles / amounts.sum() * count)
    edges = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(jobs)]
    return [jobs[first:last] for first, last in itertools.pairwise(edges)]


def each_part(
    function: Callable[[Sequence[J]], R], work: Callable[[J], float], jobs: Sequence[J]
) -> Iterator[R]:
    """What a function makes of parts of the jobs, each in a thread: as many as there are cores."""
    parts = divided(work, jobs, min(devices.cores(), MOST))
    return map(function, parts) if len(parts) == 1 else _pool().map(function, parts)


def each(function: Callable[[J], R], jobs: Sequence[J]) -> list[R]:
    """What a function makes of each job, as many at once as there are cores; for long jobs."""
    count = min(devices.cores(), MOST, len(jobs))
    if count < 2:
        return list(map(function, jobs))
    with ThreadPoolExecutor(count, thread_name_prefix="jaxprune") as pool:
        return list(pool.map(function, jobs))
