"""Primitives that move or repeat positions, or create values."""

import math
from collections.abc import Sequence

import numpy as np

from jaxprune.dependency.atoms import Axis, fixed_axis
from jaxprune.dependency.joints import regroup
from jaxprune.dependency.rules.base import Rule, bind, part, shape, shrink_whole, sizes, unite_all

RULES: dict[str, Rule] = {}


def _relate_transpose(table, eqn, inputs, reason):
    return [tuple(inputs[0][d] for d in eqn.params["permutation"])]


def _relate_squeeze(table, eqn, inputs, reason):
    gone = {d % len(inputs[0]) for d in eqn.params["dimensions"]}
    return [tuple(axis for d, axis in enumerate(inputs[0]) if d not in gone)]


def _relate_reverse(table, eqn, inputs, reason):
    dimensions = eqn.params["dimensions"]
    return [tuple(a[::-1] if d in dimensions else a for d, a in enumerate(inputs[0]))]


RULES["transpose"] = Rule(_relate_transpose)
RULES["squeeze"] = Rule(_relate_squeeze)
RULES["rev"] = Rule(_relate_reverse)


def _relate_broadcast(table, eqn, inputs, reason):
    """Repeated positions are free until they meet others."""
    out: list[Axis | None] = [None] * len(eqn.params["shape"])
    for axis, d in zip(inputs[0], eqn.params["broadcast_dimensions"], strict=True):
        out[d] = axis if len(axis) == eqn.params["shape"][d] else None
    new = eqn.params["shape"]
    return [tuple(table.fresh(new[d]) if axis is None else axis for d, axis in enumerate(out))]


def _shrink_broadcast(eqn, values, kept_inputs, kept_outputs):
    return bind(eqn, values, shape=sizes(kept_outputs[0]))


RULES["broadcast_in_dim"] = Rule(_relate_broadcast, shrink=_shrink_broadcast)


def _relate_reshape(table, eqn, inputs, reason):
    """Axes are merged and split in blocks of equal size, see `joints`."""
    (source,) = inputs
    if eqn.params["dimensions"] is not None:  # a transposition that comes first
        source = tuple(source[d] for d in eqn.params["dimensions"])
    out = [fixed_axis(size) for size in shape(eqn.outvars[0])]
    before = [len(axis) for axis in source]
    for from_dims, to_dims in _reshape_blocks(before, shape(eqn.outvars[0])):
        block, new = [source[d] for d in from_dims], [len(out[d]) for d in to_dims]
        for d, axis in zip(to_dims, regroup(table, block, new, reason), strict=True):
            out[d] = axis
    return [tuple(out)]


def _reshape_blocks(before: Sequence[int], after: Sequence[int]):
    """Pairs of runs of axes with equal products, axes of size one left out."""
    left = [d for d, size in enumerate(before) if size != 1]
    right = [d for d, size in enumerate(after) if size != 1]
    while left and right:
        i, j = 1, 1
        while (a := math.prod(before[d] for d in left[:i])) != (
            b := math.prod(after[d] for d in right[:j])
        ):
            i, j = (i + 1, j) if a < b else (i, j + 1)
        yield left[:i], right[:j]
        left, right = left[i:], right[j:]


def _shrink_reshape(eqn, values, kept_inputs, kept_outputs):
    return bind(eqn, values, new_sizes=sizes(kept_outputs[0]))


RULES["reshape"] = Rule(_relate_reshape, shrink=_shrink_reshape)


def _relate_concatenate(table, eqn, inputs, reason):
    joined = eqn.params["dimension"]
    return [
        tuple(
            np.concatenate([axes[d] for axes in inputs])
            if d == joined
            else unite_all(table, [axes[d] for axes in inputs], reason)
            for d in range(len(inputs[0]))
        )
    ]


RULES["concatenate"] = Rule(_relate_concatenate)


def _relate_stack(table, eqn, inputs, reason):
    """The positions of the new axis stay: each stands for a whole operand."""
    axes = [unite_all(table, same, reason) for same in zip(*inputs, strict=True)]
    axes.insert(eqn.params["axis"], fixed_axis(len(inputs)))
    return [tuple(axes)]


def _relate_unstack(table, eqn, inputs, reason):
    (axes,) = inputs
    axis = eqn.params["axis"]
    for position in range(len(axes[axis])):
        part(table, axes[axis], slice(position, position + 1), reason)
    return [(*axes[:axis], *axes[axis + 1 :])] * len(axes[axis])


RULES["stack"] = Rule(_relate_stack)
RULES["unstack"] = Rule(_relate_unstack)


def _relate_tile(table, eqn, inputs, reason):
    return [tuple(np.tile(a, n) for a, n in zip(inputs[0], eqn.params["reps"], strict=True))]


RULES["tile"] = Rule(_relate_tile)


def _relate_slice(table, eqn, inputs, reason):
    strides = eqn.params["strides"] or (1,) * len(inputs[0])
    bounds = zip(eqn.params["start_indices"], eqn.params["limit_indices"], strides, strict=True)
    return [
        tuple(
            part(table, axis, slice(*bound), reason)
            for axis, bound in zip(inputs[0], bounds, strict=True)
        )
    ]


def _relate_split(table, eqn, inputs, reason):
    (axes,) = inputs
    split = eqn.params["axis"]
    ends = np.cumsum(eqn.params["sizes"])
    pieces = [
        part(table, axes[split], slice(end - size, end), reason)
        for end, size in zip(ends, eqn.params["sizes"], strict=True)
    ]
    return [(*axes[:split], piece, *axes[split + 1 :]) for piece in pieces]


def _shrink_split(eqn, values, kept_inputs, kept_outputs):
    axis = eqn.params["axis"]
    return bind(eqn, values, sizes=tuple(int(kept[axis].sum()) for kept in kept_outputs))


def _relate_pad(table, eqn, inputs, reason):
    """Padding holds a constant: its positions are free until they meet others."""
    out = []
    for axis, size, (low, high, interior) in zip(
        inputs[0], shape(eqn.outvars[0]), eqn.params["padding_config"], strict=True
    ):
        if (low, high, interior) == (0, 0, 0):
            out.append(axis)
            continue
        at = low + np.arange(len(axis)) * (interior + 1)
        inside = (at >= 0) & (at < size)
        padded = table.fresh(size)
        padded[at[inside]] = part(table, axis, inside, reason)
        out.append(padded)
    return [tuple(out)]


RULES["slice"] = Rule(_relate_slice, shrink=shrink_whole)
RULES["split"] = Rule(_relate_split, shrink=_shrink_split)
RULES["pad"] = Rule(_relate_pad, shrink=shrink_whole)


# -- values that are created ----------------------------------------------------------------------


def _relate_source(table, eqn, inputs, reason):
    """All positions are free. To shrink, the full value is created and sliced, for equal values."""
    return [tuple(table.fresh(size) for size in shape(out)) for out in eqn.outvars]


for _name in ("iota", "random_bits"):
    RULES[_name] = Rule(_relate_source, shrink=shrink_whole)
