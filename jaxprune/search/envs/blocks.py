"""Blocks of filters that are removed together, so that games need not grow with the network.

The filters of a group are put in the order of their importance, and go by removals: of one filter,
or from one allowed width to the next where the widths are limited. The removals of a group form
blocks, of equal size but for the last. A last block holds what always stays. Groups that must have
equal widths are one here: their removals take filters of all of them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune.costs import within_groups
from jaxprune.costs.limits import Allowed
from jaxprune.costs.removals import removals

DECISIONS = 64
"""About how many decisions a game should take at most, from the dense network to the budget."""

LARGEST = 255
"""Removals of a block: what is left of one is counted in a byte."""

_STEPS = 256
"""Sizes that are tried: this many parts of a group."""


class Blocks(NamedTuple):
    """A partition of `N` filters into `U` blocks, which lie group by group, the first to go first.

    Attributes:
        sizes: number of blocks of each group.
        removals: number of removals of each block, `[U]`; 1 for what always stays.
        block: the block of each filter, `[N]`.
        place: of each filter, how many removals of its block come after the one that takes it,
            `[N]`: it is there while more of them are left. `LARGEST` for one that never is.
    """

    sizes: tuple[int, ...]
    removals: tuple[int, ...]
    block: tuple[int, ...]
    place: tuple[int, ...]


def partition(allowed: Allowed, importance: Any, at_once: Sequence[int]) -> Blocks:
    """The blocks of so many removals in each group.

    Args:
        allowed: the widths that the groups of filters may have.
        importance: `[N]`; equal filters go by their index.
        at_once: removals of a block, for each of `allowed.sets`.
    """
    block, place, last = [], [], np.zeros(len(allowed.sizes), int)
    sizes: list[int] = []
    counts: list[int] = []
    for groups, wanted in zip(allowed.sets, at_once, strict=True):
        steps = np.arange(len(allowed.widths[groups[0]]) - 1)
        lengths = np.bincount(steps // wanted)
        block.append(len(counts) + steps // wanted)
        place.append(lengths[steps // wanted] - 1 - steps % wanted)
        last[groups] = len(counts) + len(lengths)
        sizes.append(len(lengths) + 1)
        counts += [*lengths.tolist(), 1]
    group, first = within_groups.index(allowed.sizes), np.cumsum(allowed.sizes) - allowed.sizes
    taken_by = removals(allowed).of_place[
        first[group] + np.asarray(within_groups.rank(allowed.sizes, importance))
    ]
    stays, never = taken_by == removals(allowed).total, taken_by < 0
    number = np.where(stays | never, 0, taken_by)
    blocks = np.where(stays | never, last[group], np.append(np.concatenate(block), 0)[number])
    places = np.where(stays, 0, np.append(np.concatenate(place), 0)[number])
    return Blocks(
        sizes=tuple(sizes),
        removals=tuple(counts),
        block=tuple(blocks.tolist()),
        place=tuple(np.where(never, LARGEST, places).tolist()),
    )


def chosen(block: int | str, sizes: Sequence[int], removed: Sequence[int]) -> list[int] | None:
    """How many removals a block of each group has; None where every filter is on its own.

    Args:
        block: so many in all groups; "auto": the same part of each group, the least with which a
            game that removes `removed` takes at most `DECISIONS` decisions, or about as many where
            there are more groups than that.
        sizes: number of widths that each group may have: of filters, without limits.
        removed: how many removals a typical game makes in each group.
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
