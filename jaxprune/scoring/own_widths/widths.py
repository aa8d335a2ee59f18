"""Which channels of each group a candidate computes with: those that it keeps, and some more.

Widths are rounded up to a few sizes, so that few shapes are compiled. What is added are removed
channels, whose masks stay zero.
"""

from typing import NamedTuple

import numpy as np

COARSEST = 32
STEPS = ((32, 4), (64, 8), (256, 16))
"""The steps of a group's sizes, for groups of at most so many channels; larger ones have the
coarsest. So a group of 64 or more has 8 to 16 sizes, or more if it has over 512 channels."""


def rounded(width: int, size: int) -> int:
    """The least of a group's sizes that is no smaller than a width.

    They are multiples of a power of two, because vector instructions take so many numbers at once:
    XLA convolves 32 channels faster than 29.

    Args:
      width: how many channels are kept.
      size: how many the group has.
    """
    step = next((step for largest, step in STEPS if size <= largest), COARSEST)
    return min(size, -(-width // step) * step)


class Selection(NamedTuple):
    """Some channels of a group.

    Attributes:
      mask: float32 [size], what each channel of the group is multiplied by.
      kept: int64 [n], the channels whose mask is not zero, ascending.
      there: int64 [m], the channels that are computed, ascending: the kept ones among them.
      whole: whether these are all.
    """

    mask: np.ndarray
    kept: np.ndarray
    there: np.ndarray
    whole: bool


def select(mask: np.ndarray, *, whole: bool = False) -> Selection:
    """The channels to compute for a mask [size]; all if `whole`.

    They are those that it keeps, and as many others as make a size of the group.
    """
    kept = np.flatnonzero(mask)
    count = len(mask) if whole else rounded(len(kept), len(mask))
    chosen = np.zeros(len(mask), bool)
    chosen[kept] = True
    chosen[np.flatnonzero(mask == 0)[: count - len(kept)]] = True
    there = np.flatnonzero(chosen)
    return Selection(mask, kept, there, len(there) == len(mask))
