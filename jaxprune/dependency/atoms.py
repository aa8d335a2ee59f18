"""Atoms: an id for every position of every axis, merged by a union-find.

Positions that must be removed together end up in the same class. Atom 0 stands for all positions
that can never be removed, so axes without channels (batch, space) cost nothing.
"""

from typing import Any, NamedTuple

import numpy as np

FIXED = 0
"""The atom of positions that are never removed."""

Axis = np.ndarray
"""int64 [size]: the atom of each position of one axis."""

Axes = tuple[Axis, ...]
"""The atoms of a value: one array for each of its axes."""

_NO_REASON = np.iinfo(np.int64).max
_NO_JOINT = -1


class CouplingError(ValueError):
    """A function couples or fixes channels that the structure holds to be free."""


class Reason(NamedTuple):
    """Why atoms cannot be removed."""

    message: str
    source: str  # "file:line (function)" of the equation, or "" where there is none


def fixed_axis(size: int) -> Axis:
    """An axis of `size` positions that are never removed."""
    return np.zeros(size, np.int64)


class AtomTable:
    """A union-find over atoms, vectorised over arrays of them.

    Some atoms are *joints*: a joint position is kept only if two others are, such as a position on
    an axis of heads times head dimension. `joints.py` makes them and draws the conclusions.

    Args:
      channels: atoms 1 to `channels` must stay distinct and removable. It is 0 while a structure is
        being found, and the structure's number of channels when another function of the same
        parameters is analysed.
      joints: int [J, 2]: the atoms after these are joints of the given pairs of atoms, and must
        stay distinct as well.

    Attributes:
      channels: as given.
      given: how many atoms were given, joints included.
      version: counts what has been learned.
      settled: the version up to which conclusions have been drawn.
    """

    def __init__(self, channels: int = 0, joints: np.ndarray | None = None):
        pairs = np.zeros((0, 2), np.int64) if joints is None else np.asarray(joints, np.int64)
        self.channels = channels
        self.given = channels + len(pairs)
        self.version, self.settled = 1, 0
        self.cache: tuple[int, Any] | None = None  # what `joints.slots` computed for a version
        self.reasons: list[Reason] = []
        self._size = self.given + 1
        capacity = max(1024, 2 * self._size)
        self._parent = np.arange(capacity)
        self._frozen = np.zeros(capacity, bool)
        self._frozen[FIXED] = True
        self._reason = np.full(capacity, _NO_REASON)
        self._joint_of = np.full(capacity, _NO_JOINT)  # of each class: one of its rows in `joints`
        self._joint_rows: list[np.ndarray] = []  # atom, factors, and how many factors of each kind
        self._num_joints = 0
        numbers = np.arange(channels + 1, self.given + 1)
        self._set_joints(np.column_stack([numbers, pairs, np.zeros_like(pairs)]))

    def fresh(self, size: int) -> Axis:
        """New removable atoms for an axis; an axis of one position is never removed."""
        return self.allocate(size) if size > 1 else fixed_axis(size)

    def allocate(self, size: int) -> Axis:
        """New removable atoms."""
        self.version += 1
        first, self._size = self._size, self._size + size
        while self._size > len(self._parent):
            grown = 2 * len(self._parent)
            self._parent = np.concatenate([self._parent, np.arange(len(self._parent), grown)])
            self._frozen = np.concatenate([self._frozen, np.zeros_like(self._frozen)])
            self._reason = np.concatenate([self._reason, np.full_like(self._reason, _NO_REASON)])
            unknown = np.full_like(self._joint_of, _NO_JOINT)
            self._joint_of = np.concatenate([self._joint_of, unknown])
        return np.arange(first, self._size)

    @property
    def joints(self) -> np.ndarray:
        """int64 [n, 3]: atom, left and right factor of every joint."""
        return self._all_joints()[:, :3]

    @property
    def joint_sizes(self) -> np.ndarray:
        """int64 [n, 2]: how many left and right factors the product had that a joint comes from."""
        return self._all_joints()[:, 3:]

    def keep_joints(self, which: np.ndarray) -> None:
        """Forgets all other joints."""
        self._set_joints(self._all_joints()[which])

    def _all_joints(self) -> np.ndarray:
        if len(self._joint_rows) > 1:
            self._joint_rows = [np.concatenate(self._joint_rows)]
        return self._joint_rows[0]

    def _set_joints(self, rows: np.ndarray) -> None:
        self._joint_rows = [rows]
        self._num_joints = len(rows)
        self._joint_of[:] = _NO_JOINT
        self._joint_of[self.find(rows[::-1, 0])] = np.arange(len(rows))[::-1]  # the first counts

    def add_joints(self, left: Axis, right: Axis) -> Axis:
        """New atoms for positions that are kept if and only if both given ones are."""
        atoms = self.allocate(len(left))
        sizes = np.tile([len(np.unique(left)), len(np.unique(right))], (len(left), 1))
        self._joint_rows.append(np.column_stack([atoms, left, right, sizes]))
        self._joint_of[atoms] = self._num_joints + np.arange(len(atoms))
        self._num_joints += len(atoms)
        return atoms

    def factors_of(self, roots: Axis) -> tuple[Axis, Axis]:
        """The factors of classes that are known to be joints; 0 for all others."""
        row = self._joint_of[roots]
        known = row != _NO_JOINT
        left, right = np.zeros_like(roots), np.zeros_like(roots)
        left[known], right[known] = self.find(self.joints[row[known], 1:].T)
        return left, right

    @property
    def size(self) -> int:
        """The number of atoms, atom 0 included."""
        return self._size

    def find(self, atoms: Axis) -> Axis:
        """The representative of each atom's class: the smallest atom in it."""
        roots = self._parent[atoms]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self._parent[atoms] = roots
        return roots

    def removable(self, atoms: Axis) -> np.ndarray:
        """Which positions may be removed, as far as is known: bool [size]."""
        return ~self._frozen[self.find(atoms)]

    def reason(self, atom: int) -> Reason | None:
        """Why the atom's class is frozen, if a reason was given."""
        index = self._reason[self.find(np.array([atom]))[0]]
        return None if index == _NO_REASON else self.reasons[index]

    def freeze(self, atoms: Axis, reason: Reason) -> None:
        """Forbids the removal of the atoms' classes.

        Raises:
          CouplingError: one of them is a channel that must stay removable.
        """
        roots = np.unique(self.find(atoms))
        roots = roots[~self._frozen[roots]]
        if not len(roots):
            return
        if roots[0] <= self.given:
            raise CouplingError(_located(reason))
        self._frozen[roots] = True
        self._reason[roots] = len(self.reasons)
        self.reasons.append(reason)
        self.version += 1

    def freeze_like(self, atoms: Axis, sources: Axis) -> None:
        """Freezes the atoms' classes for the reason for which those of `sources` are frozen."""
        roots, sources = self.find(atoms), self.find(sources)
        new = ~self._frozen[roots]
        roots, sources = roots[new], sources[new]
        if not len(roots):
            return
        if roots.min() <= self.given:
            reason = self.reason(int(sources[roots.argmin()]))
            raise CouplingError(_located(reason or Reason("a fixed position", "")))
        self._frozen[roots] = True
        np.minimum.at(self._reason, roots, self._reason[sources])
        self.version += 1

    def unite(self, left: Axis, right: Axis, reason: Reason) -> None:
        """Makes positions of two axes of one size stand or fall together.

        `reason` says what couples them; it is recorded where one of the two is never removed.
        """
        if left is right or np.array_equal(left, right):
            return
        fixed = (left == FIXED) | (right == FIXED)
        if fixed.any():
            self.freeze(np.where(left == FIXED, right, left)[fixed], reason)
            left, right = left[~fixed], right[~fixed]
        first_left, first_right = self.find(left), self.find(right)
        a, b = first_left, first_right
        while (differ := a != b).any():
            low, high = np.minimum(a, b)[differ], np.maximum(a, b)[differ]
            if high.min() <= self.given:
                raise CouplingError(_located(reason))
            np.minimum.at(self._parent, high, low)
            known = self._joint_of[low] != _NO_JOINT
            self._joint_of[low] = np.where(known, self._joint_of[low], self._joint_of[high])
            self.version += 1
            a, b = self.find(a), self.find(b)
        merged = np.concatenate([first_left, first_right])
        frozen = self._frozen[merged]
        if not frozen.any():
            return
        roots = self.find(merged[frozen])
        if roots.min() <= self.given:
            raise CouplingError(_located(reason))
        self.version += bool((~self._frozen[roots]).any())
        self._frozen[roots] = True
        np.minimum.at(self._reason, roots, self._reason[merged[frozen]])

    def unite_values(self, left: Axes, right: Axes, reason: Reason) -> None:
        """`unite` for every axis of two values of one shape."""
        for a, b in zip(left, right, strict=True):
            self.unite(a, b, reason)


def _located(reason: Reason) -> str:
    return f"{reason.message} at {reason.source}" if reason.source else reason.message
