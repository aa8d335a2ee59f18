"""Blocks of filters that are removed together, so that games need not grow with the network.

The filters of a group are put in the order of their importance. The most important one stays; the
others form blocks from the least important upwards, of equal size but for the last.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DECISIONS = 64
"""About how many removals a game should take at most, from the dense network to the budget."""

LARGEST = 255
"""Filters of a block: what is left of one is counted in a byte."""

_STEPS = 256
"""Sizes that are tried: this many parts of a group."""


class Blocks(NamedTuple):
    """A partition of `N` filters into `U` blocks, which lie group by group, the first to go first.

    Attributes:
        sizes: number of blocks of each group.
        filters: number of filters of each block, `[U]`.
        block: the block of each filter, `[N]`.
        place: each filter's place in its block, `[N]`; 0 is the most important.
    """

    sizes: tuple[int, ...]
    filters: tuple[int, ...]
    block: tuple[int, ...]
    place: tuple[int, ...]


def partition(sizes: Sequence[int], importance: np.ndarray, filters: Sequence[int]) -> Blocks:
    """The blocks of so many filters in each group.

    Args:
        sizes: number of filters of each group.
        importance: `[N]`; equal filters go by their index.
        filters: filters of a block, for each group.
    """
    block, place = np.zeros(sum(sizes), int), np.zeros(sum(sizes), int)
    counts: list[list[int]] = []
    first, blocks = 0, 0
    for size, wanted in zip(sizes, filters, strict=True):
        order = first + np.argsort(importance[first : first + size], kind="stable")
        parts = [order[i : min(i + wanted, size - 1)] for i in range(0, size - 1, wanted)]
        parts.append(order[-1:])
        for number, part in enumerate(parts):
            block[part] = blocks + number
            place[part] = np.arange(len(part))[::-1]
        counts.append([len(part) for part in parts])
        first, blocks = first + size, blocks + len(parts)
    return Blocks(
        sizes=tuple(map(len, counts)),
        filters=tuple(count for group in counts for count in group),
        block=tuple(block.tolist()),
        place=tuple(place.tolist()),
    )


def chosen(block: int | str, sizes: Sequence[int], removed: Sequence[int]) -> list[int] | None:
    """How many filters a block of each group has; None where every filter is on its own.

    Args:
        block: so many in all groups; "auto": the same part of each group, the least with which a
            game that removes `removed` takes at most `DECISIONS` removals, or about as many where
            there are more groups than that.
        sizes: number of filters of each group.
        removed: how many filters of each group a typical game removes.
    """
    if block == 1:
        return None
    if block != "auto":
        return [min(int(block), max(size - 1, 1)) for size in sizes]
    if sum(removed) <= DECISIONS:
        return None
    groups = np.asarray(sizes)
    wanted = np.ones_like(groups)
    for step in range(1, _STEPS + 1):
        wanted = np.clip(-(-groups * step // _STEPS), 1, LARGEST)
        if np.sum(-(-np.asarray(removed) // wanted)) <= DECISIONS:
            break
    return wanted.tolist()
