"""Positions that are kept only if two others are: heads times head dimension.

A reshape that splits an axis of channels in two makes every position the *joint* of one position on
each of the new axes: it is kept if and only if both are. One can then remove a head, or an index of
the head dimension from all heads, and either leaves a regular axis. Merging two axes of channels
makes joints as well. A factor of a joint may be a joint itself.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune.dependency.atoms import FIXED, AtomTable, Axis, CouplingError, Reason, fixed_axis

_DEEPEST = 32  # nesting of joints; anything deeper can only be circular
_RESHAPED = Reason("a reshape splits or merges channels in more than one way", "")


def join(table: AtomTable, left: Axis, right: Axis) -> Axis:
    """The atoms of positions that are kept if and only if both given ones are: [n], [n] -> [n]."""
    free_left, free_right = table.removable(left), table.removable(right)
    out = np.where(free_left, left, np.where(free_right, right, FIXED))
    both = free_left & free_right & (table.find(left) != table.find(right))
    if both.any():
        pairs = np.stack([table.find(left[both]), table.find(right[both])], axis=1)
        unique, inverse = np.unique(pairs, axis=0, return_inverse=True)
        atoms = table.add_joints(unique[:, 0], unique[:, 1])
        out[both] = atoms[inverse.reshape(-1)]
    return out


def regroup(
    table: AtomTable, block: Sequence[Axis], sizes: Sequence[int], reason: Reason
) -> list[Axis]:
    """The atoms of the axes that a block of axes, merged in row-major order, is split into.

    Args:
      table: learns what the split means for the positions.
      block: the axes that are merged.
      sizes: the sizes of the new axes; their product is that of the old sizes.
      reason: names the equation that does it.
    """
    if len(block) == len(sizes) == 1:
        return list(block)
    if not any((axis != FIXED).any() for axis in block):
        return [fixed_axis(size) for size in sizes]
    return split(table, _merge(table, block), sizes, reason)


def split(table: AtomTable, axis: Axis, sizes: Sequence[int], reason: Reason) -> list[Axis]:
    """The atoms of the axes that one axis is split into, in row-major order."""
    grid = np.where(table.removable(axis), axis, FIXED).reshape(sizes)
    roots = table.find(grid)
    varying = _varying(roots)
    if not varying:
        out = [fixed_axis(size) for size in sizes]
        if (roots != FIXED).any():  # all positions are one class: they go together or not at all
            table.freeze(grid.reshape(-1), _because(reason, "all its channels are coupled"))
        return out
    if len(varying) == 1:
        return [_line(grid, d) if d in varying else fixed_axis(n) for d, n in enumerate(sizes)]
    columns = [column.reshape(sizes) for column in factors(table, roots.reshape(-1)).T]
    new = {d: fixed_axis(sizes[d]) for d in varying}
    directions = [_varying(column) or varying[:1] for column in columns]
    uniform = len(columns) > 1 and all((column != FIXED).all() for column in columns)
    if uniform or all(len(along) == 1 for along in directions):
        for column, along in zip(columns, directions, strict=True):
            inside = [sizes[d] for d in along]  # a factor along several axes is split further
            one = len(along) == 1
            parts = (
                [_line(column, along[0])]
                if one
                else split(table, _plane(column, along), inside, reason)
            )
            for d, part in zip(along, parts, strict=True):
                new[d] = join(table, new[d], part)
    else:
        new = {d: table.fresh(sizes[d]) for d in varying}
        detail = _because(reason, "it splits an axis of channels")
        table.unite(grid.reshape(-1), _product(table, new, sizes), detail)
    return [new.get(d, fixed_axis(size)) for d, size in enumerate(sizes)]


def factors(table: AtomTable, roots: np.ndarray) -> np.ndarray:
    """The atoms (no joints) that each position depends on: [n] -> [n, F], padded with FIXED.

    Takes representatives of classes. Call it after `settle`, or it may miss some.
    """
    columns = [roots]
    for _ in range(_DEEPEST):
        expanded: list[np.ndarray] = []
        for column in columns:
            left, right = table.factors_of(column)
            joint = left != FIXED
            expanded.append(np.where(joint, left, column))
            if joint.any():
                expanded.append(right)
        if len(expanded) == len(columns):
            return np.stack(columns, axis=1)
        columns = expanded
    raise CouplingError(f"{_RESHAPED.message}: a position depends on itself")


def settle(table: AtomTable) -> None:
    """Draws all conclusions from what is known about joints.

    - A joint that must stay needs both of its factors.
    - If one factor is always kept, the joint equals the other. If a joint equals one factor, the
      other must be kept whenever that one is, so it is always kept.
    - Joints of the same factors are equal, and equal joints have equal factors. (Where an axis was
      split in two ways that do not fit, this couples more than necessary, never less.)
    - A joint that depends on itself stays.

    Raises:
      CouplingError: a channel that must be independent of all others turns out to be a joint.
    """
    while table.settled != table.version:
        _conclude(table)
        *_, circles = _levels(table)
        if len(circles):
            table.freeze(circles[:, 1:].reshape(-1), _RESHAPED)
    channel = table.find(table.joints[:, 0]) <= table.channels
    if channel.any():
        raise CouplingError(_RESHAPED.message)


def _conclude(table: AtomTable) -> None:
    while table.settled != table.version:
        table.settled = table.version
        if not len(table.joints):
            return
        atom, left, right = (table.find(column) for column in table.joints.T)
        stays = ~table.removable(atom)
        if stays.any():
            both = np.concatenate([left[stays], right[stays]])
            table.freeze_like(both, np.tile(atom[stays], 2))
        one = ~stays & (~table.removable(left) | ~table.removable(right) | (left == right))
        table.unite(atom[one], np.where(table.removable(left), left, right)[one], _RESHAPED)
        implies = ~stays & ~one & ((atom == left) | (atom == right))
        table.freeze(np.where(atom == left, right, left)[implies], _RESHAPED)
        table.keep_joints(~(stays | one | implies))
        if not len(table.joints):
            continue

        rows = np.column_stack([table.find(column) for column in table.joints.T])
        _, first = np.unique(rows, axis=0, return_index=True)
        first = np.sort(first)
        table.keep_joints(first)
        rows = rows[first]
        low, high = rows[:, 1:].min(1), rows[:, 1:].max(1)
        order = np.lexsort([rows[:, 0], high, low])
        same = (np.diff(low[order]) == 0) & (np.diff(high[order]) == 0)
        table.unite(rows[order[1:][same], 0], rows[order[:-1][same], 0], _RESHAPED)

        order = np.argsort(rows[:, 0], kind="stable")
        rows, sizes = rows[order], table.joint_sizes[order]
        leader = np.searchsorted(rows[:, 0], rows[:, 0])
        left, right = rows[:, 1], rows[:, 2]
        # Which factor corresponds to which? Equal ones do, or else those of equal number.
        crossed = abs(sizes - sizes[leader]).sum(1) > abs(sizes - sizes[leader, ::-1]).sum(1)
        crossed |= (left == right[leader]) | (right == left[leader])
        crossed &= (left != left[leader]) & (right != right[leader])
        table.unite(np.where(crossed, right, left), left[leader], _RESHAPED)
        table.unite(np.where(crossed, left, right), right[leader], _RESHAPED)


def levels(table: AtomTable) -> list[np.ndarray]:
    """The joints as classes, int [n, 3], sorted into parts so that factors come in earlier parts.

    Call it after `settle`.
    """
    return _levels(table)[:-1]


def _levels(table: AtomTable) -> list[np.ndarray]:
    """The joints level by level, and last those that depend on themselves."""
    rows = np.column_stack([table.find(column) for column in table.joints.T])
    rows = rows[np.unique(rows[:, 0], return_index=True)[1]]
    found = []
    while len(rows):
        ready = ~np.isin(rows[:, 1:], rows[:, 0]).any(1)
        if not ready.any():
            break
        found.append(rows[ready])
        rows = rows[~ready]
    return [*found, rows]


class Slots(NamedTuple):
    """The entry of each position in a vector of masks.

    Entry 0 of the vector is 1, entries 1 to C are the channels, and each later entry is the product
    of two earlier ones.

    Attributes:
      of_root: int64 [atoms]: the entry of each class.
      levels: for each level of products: int64 [n, 2], the entries that are multiplied.
    """

    of_root: np.ndarray
    levels: tuple[np.ndarray, ...]

    def extend(self, vector: Any, xp: Any) -> Any:
        """Computes the whole vector of masks from its first entries [1 + C]."""
        for pairs in self.levels:
            vector = xp.concatenate([vector, vector[pairs[:, 0]] * vector[pairs[:, 1]]])
        return vector


def slots(table: AtomTable) -> Slots:
    """The entries of the vector of masks for all atoms of a table."""
    settle(table)
    if table.cache is None or table.cache[0] != table.version:
        table.cache = (table.version, _slots(table))
    return table.cache[1]


def _slots(table: AtomTable) -> Slots:
    of_root = np.zeros(table.size, np.int64)
    of_root[1 : table.channels + 1] = np.arange(1, table.channels + 1)
    products, count = [], table.channels + 1
    for rows in levels(table):
        left, right = of_root[rows[:, 1]], of_root[rows[:, 2]]
        both = (left > 0) & (right > 0)
        of_root[rows[:, 0]] = np.maximum(left, right)
        of_root[rows[both, 0]] = count + np.arange(both.sum())
        count += int(both.sum())
        if both.any():
            products.append(np.stack([left[both], right[both]], axis=1))
    return Slots(of_root, tuple(products))


def _merge(table: AtomTable, block: Sequence[Axis]) -> Axis:
    """The atoms of several axes merged into one."""
    return _product(table, dict(enumerate(block)), [len(axis) for axis in block])


def _product(table: AtomTable, axes: dict[int, Axis], sizes: Sequence[int]) -> Axis:
    """The joint of axes at given places of a grid, flattened in row-major order."""
    merged = np.zeros(sizes, np.int64)
    for d, axis in axes.items():
        if (axis == FIXED).all():
            continue
        shape = [1] * len(sizes)
        shape[d] = len(axis)
        whole = np.broadcast_to(axis.reshape(shape), sizes)
        merged = whole if not merged.any() else join(table, merged.ravel(), whole.ravel())
        merged = merged.reshape(sizes)
    return merged.reshape(-1)


def _varying(grid: np.ndarray) -> list[int]:
    """The axes along which a grid of atoms is not constant."""
    return [
        d
        for d in range(grid.ndim)
        if grid.shape[d] > 1 and (grid != np.take(grid, [0], axis=d)).any()
    ]


def _line(grid: np.ndarray, d: int) -> Axis:
    """The positions along axis d of a grid that is constant along the others."""
    return np.moveaxis(grid, d, 0).reshape(grid.shape[d], -1)[:, 0]


def _plane(grid: np.ndarray, along: Sequence[int]) -> Axis:
    """The positions along some axes of a grid that is constant along the others, flattened."""
    return grid[tuple(slice(None) if d in along else 0 for d in range(grid.ndim))].reshape(-1)


def _because(reason: Reason, detail: str) -> Reason:
    return Reason(f"{reason.message}: {detail}", reason.source)
