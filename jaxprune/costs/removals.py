"""Removals: steps from one allowed width of a group to the next, and the order they are made in.

A removal takes one channel, or several where widths are multiples, or as many of each group where
groups have equal widths. Within a group the least important channels go first. So whatever removals
are made first, the widths are allowed.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprune.costs import within_groups
from jaxprune.costs.limits import Allowed


class Removals(NamedTuple):
    """All removals that the limits allow, those of a group in a row, the first to be made first.

    Attributes:
      of_place: int32 [N]: entry `first channel of the group + rank within the group` is the removal
        that takes this channel; -1 where the limits forbid to keep it, R where it always stays.
      channels: int32 [R], how many channels each removal takes.
      groups: int32 [R], the first of the groups that each removal narrows.
    """

    of_place: np.ndarray
    channels: np.ndarray
    groups: np.ndarray

    @property
    def total(self) -> int:
        """How many there are, R."""
        return len(self.groups)


@functools.lru_cache(maxsize=16)
def removals(allowed: Allowed) -> Removals:
    """The removals that lead from the greatest allowed widths to the least."""
    number: dict[int, int] = {}  # of each leader: its first removal
    groups: list[int] = []
    for g, leader in enumerate(allowed.leaders):
        if leader == g:
            number[g] = len(groups)
            groups += [g] * (len(allowed.widths[g]) - 1)
    places = []
    for size, widths, leader in zip(allowed.sizes, allowed.widths, allowed.leaders, strict=True):
        # How many of the allowed widths, from the greatest on, keep the channel of each rank.
        kept_by = np.searchsorted(size - np.array(widths), np.arange(size), side="right")
        place = number[leader] + kept_by - 1
        places.append(
            np.where(kept_by == 0, -1, np.where(kept_by == len(widths), len(groups), place))
        )
    of_place = np.concatenate(places).astype(np.int32)
    taken = of_place[(of_place >= 0) & (of_place < len(groups))]
    channels = np.bincount(taken, minlength=len(groups)).astype(np.int32)
    return Removals(of_place, channels, np.array(groups, np.int32))


def turns(allowed: Allowed, rank: Any, worth: Any) -> Any:
    """When each channel goes if the removals worth least are made first, ties in their order.

    A removal is worth the mean of what its channels are.

    Args:
      allowed: which widths the groups may have.
      rank: int32 [N], of each channel within its group, 0 goes first.
      worth: float32 [N], which does not fall with the rank within a group; infinity goes last. Of
        numpy arrays everything is computed by numpy, otherwise by JAX, inside jit too.

    Returns:
      int32 [N]: n if the n-th removal takes the channel, from 1 on; 0 if the limits forbid to keep
      it; R + 1 if it always stays.
    """
    of_place, channels, groups = removals(allowed)
    count = len(groups)
    first = np.cumsum(allowed.sizes) - np.asarray(allowed.sizes)
    xp = np if isinstance(worth, np.ndarray) else jnp
    removal = xp.asarray(of_place)[first[within_groups.index(allowed.sizes)] + rank]
    taken = (
        np.bincount(removal + 1, worth, count + 2)
        if isinstance(worth, np.ndarray)
        else jnp.zeros(count + 2, jnp.float32).at[removal + 1].add(worth)
    )
    mean = taken[1:-1] / channels
    if count and channels.max() > 1:  # rounding must not turn round the order within a group
        mean = mean[xp.lexsort((mean, xp.asarray(groups)))]
    position = xp.argsort(xp.argsort(mean, stable=True)).astype(np.int32)
    of_removal = xp.concatenate([position + 1, xp.array([count + 1, 0], np.int32)])
    return of_removal[removal]  # -1 is the last entry
