"""Which channels of each group a candidate computes: those that it keeps, and a few more.

Widths are rounded up to a few sizes, so that few shapes are compiled. The channels that are added
are removed ones, whose masks stay zero.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

COARSEST = 32
STEPS = ((32, 4), (64, 8), (256, 16))
"""(largest size of a group, step between its widths); larger groups have the coarsest step. A group
of 64 or more thus has 8 to 16 widths, and more only above 512 channels."""

REMEMBERED = 1024
"""Masks of a group that are remembered."""


class Choice(NamedTuple):
    """What a candidate does with one group.

    Attributes:
      mask: float32 [size], what each channel is multiplied by.
      kept: how many channels it keeps, those whose mask is not zero.
      computed: int64 [m], the channels that are computed: the kept ones and some others.
      number: equal masks of a group have the same number.
      ordered: whether the mask is 1 for the most important channels and 0 for the others.
    """

    mask: np.ndarray
    kept: int
    computed: np.ndarray
    number: int = 0
    ordered: bool = False

    @property
    def whole(self) -> bool:
        """Whether all channels are computed."""
        return len(self.computed) == len(self.mask)

    @property
    def key(self) -> tuple[int, int]:
        """Equal for equal masks; candidates are sorted by it."""
        return self.kept, self.number


Candidate = tuple[Choice, ...]
"""What a candidate does with each group."""


def rounded(width: int, size: int) -> int:
    """The smallest width in use that is at least `width`.

    Widths are multiples of a power of two, because vector instructions take so many numbers at
    once: XLA convolves 32 channels faster than 29.

    Args:
      width: how many channels are kept.
      size: how many the group has.
    """
    step = next((step for largest, step in STEPS if size <= largest), COARSEST)
    return min(size, -(-width // step) * step)


def choose(mask: np.ndarray, *, whole: bool = False) -> Choice:
    """The channels to compute for a mask [size], ascending; all if `whole`."""
    chosen = mask != 0
    kept = int(chosen.sum())
    extra = (len(mask) if whole else rounded(kept, len(mask))) - kept
    chosen[np.flatnonzero(~chosen)[:extra]] = True
    return Choice(mask, kept, np.flatnonzero(chosen))


class Choices:
    """The choices of one group.

    Args:
      order: int [size], its channels, the most important first; None if that is not known.
      whole: whether all channels are always computed.
    """

    def __init__(self, order: np.ndarray | None, *, whole: bool):
        self.order, self._whole = order, whole
        self.by_order = False
        """Whether the channels of an ordered mask are computed in this order."""
        self._known: dict[bytes, Choice] = {}
        self._numbers = itertools.count()

    def find(self, mask: np.ndarray) -> Choice:
        """The choice for a mask [size]."""
        name = mask.tobytes()
        found = self._known.get(name)
        if found is None:
            if len(self._known) == REMEMBERED:
                self._known.clear()
            found = self._known[name] = self._new(mask)
        return found

    def _new(self, mask: np.ndarray) -> Choice:
        found = choose(mask, whole=self._whole)._replace(number=next(self._numbers))
        if self.order is None or not (mask[self.order[: found.kept]] == 1).all():
            return found
        computed = self.order[: len(found.computed)] if self.by_order else found.computed
        return found._replace(computed=computed, ordered=True)


def candidates(groups: Sequence[Choices], masks: np.ndarray, ends: np.ndarray) -> list[Candidate]:
    """The candidates of masks.

    Args:
      groups: the choices of each group.
      masks: float32 [K, N].
      ends: where the channels of each group end.
    """
    parts = zip(groups, np.split(masks, ends[:-1], axis=1), strict=True)
    return list(zip(*(map(choices.find, part) for choices, part in parts), strict=True))


def agree(one: Candidate, other: Candidate, groups: Sequence[int]) -> bool:
    """Whether two candidates have the same masks of some groups."""
    return all(one[group].key == other[group].key for group in groups)
