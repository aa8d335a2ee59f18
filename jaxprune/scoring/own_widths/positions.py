"""Where the channels of a candidate lie in its arrays, and its masks there."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxprune.scoring.own_widths.stages import Stages
from jaxprune.scoring.own_widths.widths import Selection, select


class Positions:
    """The positions along axes that a candidate's arrays have, and its masks there.

    Args:
      staged: the network in pieces.
      known: the entries of the vector of all masks (`joints.Slots`).
      selections: what the candidate computes of each group.
      shared: {group: the channels of its arrays, in the order of their axis; None: as they are},
        of the groups whose arrays have all channels, whatever the candidate.
    """

    def __init__(
        self,
        staged: Stages,
        known: Any,
        selections: Sequence[Selection],
        shared: Mapping[int, np.ndarray | None],
    ):
        self._staged, self._slots = staged, known
        self._own = tuple(
            select(one.mask, whole=True) if group in staged.pinned else one
            for group, one in enumerate(selections)
        )
        self._shared = shared
        self._found: dict[tuple[int, bool], np.ndarray | None] = {}
        self._vector: Any = None

    def index(self, pattern: int, *, own: bool = False) -> np.ndarray | None:
        """The positions along an axis; None: all, in their order.

        Args:
          pattern: the number of the axis's pattern.
          own: those that the candidate needs, and not those that its arrays have.
        """
        key = pattern, own
        if key not in self._found:
            self._found[key] = self._positions(pattern, own)
        return self._found[key]

    def _positions(self, pattern: int, own: bool) -> np.ndarray | None:
        entries, groups, alone = self._staged.patterns[pattern]
        if alone is not None:
            if not own and alone in self._shared:
                return self._shared[alone]
            whole = self._own[alone].whole or (not own and alone in self._staged.held)
            return None if whole else self._own[alone].there
        parts = [np.zeros(len(one.mask), bool) for one in self._own]
        for group in groups:
            whole = not own and (group in self._staged.held or group in self._shared)
            parts[group][slice(None) if whole else self._own[group].there] = True
        there = self._slots.extend(np.concatenate([[True], *parts]), np)[entries]
        return None if there.all() else np.flatnonzero(there)

    def mask(self, pattern: int, index: np.ndarray | None) -> np.ndarray:
        """The masks of some positions along an axis; float32."""
        entries, _, alone = self._staged.patterns[pattern]
        if alone is not None:
            whole = self._own[alone].mask
        else:
            if self._vector is None:
                first = np.concatenate([np.ones(1, np.float32), *(one.mask for one in self._own)])
                self._vector = self._slots.extend(first, np)
            whole = self._vector[entries]
        return whole if index is None else whole[index]

    def count(self, pattern: int) -> int:
        """How many positions along an axis there are."""
        index = self.index(pattern)
        return len(self._staged.patterns[pattern].entries) if index is None else len(index)
