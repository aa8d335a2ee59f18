"""Which channels a candidate's arrays have along their axes, and its masks there."""

from collections.abc import Mapping

import numpy as np

from jaxprune.scoring.own_widths.pieces import Pieces
from jaxprune.scoring.own_widths.widths import Candidate


class Layout:
    """The positions along the axes of one candidate's arrays, by the numbers of their patterns.

    Args:
      network: the network in pieces.
      candidate: what it computes of each group.
      shared: {group: the order of the channels along an axis; None: as they are} for groups whose
        arrays are the same for all candidates and have all channels.
    """

    def __init__(
        self, network: Pieces, candidate: Candidate, shared: Mapping[int, np.ndarray | None]
    ):
        self._network, self._candidate, self._shared = network, candidate, shared
        self._found: dict[tuple[int, bool], np.ndarray | None] = {}
        self._vector: np.ndarray | None = None

    def index(self, pattern: int, *, needed: bool = False) -> np.ndarray | None:
        """The positions along an axis; None: all, in their order.

        Args:
          pattern: the axis's pattern.
          needed: those that the candidate needs rather than those that its arrays have.
        """
        key = pattern, needed
        if key not in self._found:
            self._found[key] = self._index(pattern, needed)
        return self._found[key]

    def _index(self, pattern: int, needed: bool) -> np.ndarray | None:
        entries, groups, alone = self._network.patterns[pattern]
        if alone is not None:
            if not needed and (alone in self._shared or alone in self._network.held):
                return self._shared.get(alone)
            choice = self._candidate[alone]
            return None if choice.whole else choice.computed
        full = set() if needed else self._network.held | set(self._shared)
        parts = [np.zeros(len(one.mask), bool) for one in self._candidate]
        for group in groups:
            computed = slice(None) if group in full else self._candidate[group].computed
            parts[group][computed] = True
        there = self._network.slots.extend(np.concatenate([[True], *parts]), np)[entries]
        return None if there.all() else np.flatnonzero(there)

    def mask(self, pattern: int, index: np.ndarray | None) -> np.ndarray:
        """The masks of some positions along an axis; float32."""
        entries, _, alone = self._network.patterns[pattern]
        if alone is not None:
            whole = self._candidate[alone].mask
        else:
            if self._vector is None:
                masks = (choice.mask for choice in self._candidate)
                first = np.concatenate([np.ones(1, np.float32), *masks])
                self._vector = self._network.slots.extend(first, np)
            whole = self._vector[entries]
        return whole if index is None else whole[index]

    def count(self, pattern: int) -> int:
        """How many positions along an axis there are."""
        index = self.index(pattern)
        return len(self._network.patterns[pattern].entries) if index is None else len(index)
