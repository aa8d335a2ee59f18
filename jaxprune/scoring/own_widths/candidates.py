"""Candidates by the masks of their groups, which are told apart by numbers."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxprune.scoring.own_widths.widths import Selection, select

MOST = 1024
"""Masks of a group that are remembered."""


class Choice(NamedTuple):
    """A mask of a group.

    Attributes:
      key: how many channels it keeps, and its number: equal masks have the same.
      selection: what is computed of the group.
      ordered: whether it is 1 for the most important channels and 0 for the others.
    """

    key: tuple[int, int]
    selection: Selection
    ordered: bool


class Candidate(NamedTuple):
    """A candidate: what its masks are, of each group."""

    choices: tuple[Choice, ...]

    @property
    def key(self) -> tuple[tuple[int, int], ...]:
        """What candidates are sorted by: those that agree on the first groups follow each other."""
        return tuple(choice.key for choice in self.choices)

    @property
    def selections(self) -> tuple[Selection, ...]:
        """What is computed of each group."""
        return tuple(choice.selection for choice in self.choices)

    def agrees(self, other: "Candidate", groups: Sequence[int]) -> bool:
        """Whether the masks of some groups are the same."""
        return all(self.choices[group].key == other.choices[group].key for group in groups)


class Choices:
    """The masks of a group.

    Args:
      order: int [size], its channels, the most important first; None if that is not known.
    """

    def __init__(self, order: np.ndarray | None):
        self.order = order
        self.by_order = False
        """Whether the channels of an ordered mask are computed in this order."""
        self._known: dict[bytes, Choice] = {}
        self._numbers = itertools.count()

    def find(self, mask: np.ndarray) -> Choice:
        """The choice of a mask [size]."""
        name = mask.tobytes()
        found = self._known.get(name)
        if found is None:
            if len(self._known) == MOST:
                self._known.clear()
            found = self._known[name] = self._new(mask)
        return found

    def _new(self, mask: np.ndarray) -> Choice:
        selection = select(mask)
        count, ordered = len(selection.kept), False
        if self.order is not None:
            ordered = bool((mask[self.order[:count]] == 1).all())
            if ordered and self.by_order:
                selection = selection._replace(there=self.order[: len(selection.there)])
        return Choice((count, next(self._numbers)), selection, ordered)


def read(groups: Sequence[Choices], masks: np.ndarray, ends: np.ndarray) -> list[Candidate]:
    """The candidates of masks [K, N].

    Args:
      groups: the masks of each group.
      masks: float32.
      ends: where each group ends.
    """
    parts = zip(groups, np.split(masks, ends[:-1], axis=1), strict=True)
    columns = [[choices.find(mask) for mask in column] for choices, column in parts]
    return [Candidate(row) for row in zip(*columns, strict=True)]
