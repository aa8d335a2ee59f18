"""One small rule per primitive: how the positions of its operands' axes meet, and how it shrinks.

The table `RULES` is looked up by primitive name. To teach the package a new primitive, add a
function here; a primitive that has none freezes everything that it touches, which is never wrong.

A rule has up to three parts:

- `relate(table, eqn, inputs, reason)` returns the atoms of each output's axes, and unites or
  freezes atoms of the inputs on the way;
- `summed(eqn)` names the axes that the primitive sums over, as tuples of (operand, axis) pairs that
  run together. There a removed position must count as zero, so there masks are multiplied in;
- `shrink(eqn, values, kept_inputs, kept_outputs)` evaluates the primitive on operands from which
  positions were removed. Most primitives take their shapes from their operands and need none.
"""

# ruff: noqa: SIM905 - names of primitives read better as words than as a list of strings

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jaxprune.dependency.atoms import FIXED, AtomTable, Axes, Axis, Reason, fixed_axis

Kept = tuple[np.ndarray, ...]
"""bool [size] for each axis of a value: the positions that are kept."""


class Rule(NamedTuple):
    """What is known of one primitive; see the module's docstring."""

    relate: Callable[[AtomTable, JaxprEqn, Sequence[Axes], Reason], list[Axes]]
    summed: Callable[[JaxprEqn], list[tuple[tuple[int, int], ...]]] | None = None
    shrink: Callable[[JaxprEqn, list[Any], list[Kept], list[Kept]], list[Any]] | None = None


RULES: dict[str, Rule] = {}


def bind(eqn: JaxprEqn, values: Sequence[Any], **changed: Any) -> list[Any]:
    """Evaluates an equation on values, with some of its parameters changed."""
    outputs = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params | changed))
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def summed(eqn: JaxprEqn) -> list[tuple[tuple[int, int], ...]]:
    """The axes that an equation sums over, as tuples of (operand, axis) that run together."""
    rule = RULES.get(eqn.primitive.name)
    return rule.summed(eqn) if rule is not None and rule.summed is not None else []


def freeze_everything(
    table: AtomTable, eqn: JaxprEqn, inputs: Sequence[Axes], reason: Reason
) -> list[Axes]:
    """The rule of primitives without a rule."""
    for axis in (axis for axes in inputs for axis in axes):
        table.freeze(axis, reason)
    return [tuple(fixed_axis(size) for size in _shape(out)) for out in eqn.outvars]


# -- elementwise ----------------------------------------------------------------------------------


def _relate_elementwise(table, eqn, inputs, reason):
    """Axes of one size are united; scalars and axes of size one broadcast."""
    outputs = []
    for out in eqn.outvars:
        axes = []
        for d, size in enumerate(_shape(out)):
            operands = [axes_[d] for axes_ in inputs if len(axes_) > d and len(axes_[d]) == size]
            axes.append(_unite_all(table, operands, reason) if operands else table.fresh(size))
        outputs.append(tuple(axes))
    return outputs


def _relate_each(table, eqn, inputs, reason):
    """Output i is input i: `device_put`, `optimization_barrier`."""
    return [tuple(axes) for axes in inputs]


for _name in """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
    bitcast_convert_type cbrt ceil clamp clz complex conj convert_element_type copy copy_p cos cosh
    digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igammac imag integer_pow
    is_finite le le_to lgamma log log1p log2 logistic lt lt_to max min mul name ne neg nextafter not
    one_minus_square or polygamma population_count pow real reduce_precision rem round rsqrt
    select_n sharding_constraint shift_left shift_right_arithmetic shift_right_logical sign sin sinh
    sqrt square stop_gradient sub tan tanh xor zeta
""".split():
    RULES[_name] = Rule(_relate_elementwise)
for _name in ("device_put", "optimization_barrier"):
    RULES[_name] = Rule(_relate_each)


# -- sums over channels: matrix products, convolutions, reductions --------------------------------


def _relate_dot_general(table, eqn, inputs, reason):
    (contract_l, contract_r), (batch_l, batch_r) = eqn.params["dimension_numbers"]
    left, right = inputs
    for a, b in zip(contract_l, contract_r, strict=True):
        table.unite(left[a], right[b], reason)
    batch = [
        _unite_all(table, [left[a], right[b]], reason)
        for a, b in zip(batch_l, batch_r, strict=True)
    ]
    free_l = [left[d] for d in range(len(left)) if d not in (*contract_l, *batch_l)]
    free_r = [right[d] for d in range(len(right)) if d not in (*contract_r, *batch_r)]
    return [(*batch, *free_l, *free_r)]


def _summed_dot_general(eqn):
    (contract_l, contract_r), _ = eqn.params["dimension_numbers"]
    return [((0, a), (1, b)) for a, b in zip(contract_l, contract_r, strict=True)]


RULES["dot_general"] = Rule(_relate_dot_general, _summed_dot_general)


def _relate_convolution(table, eqn, inputs, reason):
    image, kernel = inputs
    spec = eqn.params["dimension_numbers"]
    groups = eqn.params["feature_group_count"]
    if eqn.params["batch_group_count"] > 1:
        return freeze_everything(table, eqn, inputs, _because(reason, "batch groups"))
    for d in spec.lhs_spec[2:]:
        table.freeze(image[d], _because(reason, "a window slides over them"))
    for d in spec.rhs_spec[2:]:
        table.freeze(kernel[d], _because(reason, "they are positions of a kernel's window"))
    channels_in, channels_out = image[spec.lhs_spec[1]], kernel[spec.rhs_spec[0]]
    if groups == 1:
        table.unite(channels_in, kernel[spec.rhs_spec[1]], reason)
    elif groups == len(channels_in):  # depthwise: output o belongs to input o // multiplier
        source = np.repeat(channels_in, len(channels_out) // groups)
        table.unite(source, channels_out, reason)
    else:
        table.freeze(channels_in, _because(reason, "grouped convolution"))
        table.freeze(channels_out, _because(reason, "grouped convolution"))
        table.freeze(kernel[spec.rhs_spec[1]], _because(reason, "grouped convolution"))
    out = [fixed_axis(size) for size in _shape(eqn.outvars[0])]
    out[spec.out_spec[0]] = image[spec.lhs_spec[0]]
    out[spec.out_spec[1]] = channels_out
    return [tuple(out)]


def _summed_convolution(eqn):
    if eqn.params["feature_group_count"] > 1:
        return []
    spec = eqn.params["dimension_numbers"]
    return [((0, spec.lhs_spec[1]), (1, spec.rhs_spec[1]))]


def _shrink_convolution(eqn, values, kept_inputs, kept_outputs):
    groups = eqn.params["feature_group_count"]
    if groups > 1:
        groups = min(groups, values[0].shape[eqn.params["dimension_numbers"].lhs_spec[1]])
    return bind(eqn, values, feature_group_count=groups)


RULES["conv_general_dilated"] = Rule(_relate_convolution, _summed_convolution, _shrink_convolution)


def _relate_reduction(table, eqn, inputs, reason):
    axes = eqn.params["axes"]
    if not table.channels:
        for axis in (operand[d] for operand in inputs for d in axes):
            table.freeze(axis, _because(reason, "a reduction runs over them"))
    kept = [d for d in range(len(inputs[0])) if d not in axes]
    joint = [_unite_all(table, [operand[d] for operand in inputs], reason) for d in kept]
    return [tuple(joint) for _ in eqn.outvars]


def _relate_order_reduction(table, eqn, inputs, reason):
    for axis in (operand[d] for operand in inputs for d in eqn.params["axes"]):
        table.freeze(axis, _because(reason, "a reduction runs over them"))
    return _relate_reduction(table, eqn, inputs, reason)


RULES["reduce_sum"] = Rule(
    _relate_reduction, lambda eqn: [((0, axis),) for axis in eqn.params["axes"]]
)
for _name in """reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax
    argmin""".split():
    RULES[_name] = Rule(_relate_order_reduction)


def _relate_cumulative(table, eqn, inputs, reason):
    (axes,) = inputs
    table.freeze(axes[eqn.params["axis"]], _because(reason, "a running reduction"))
    return [axes]


for _name in "cumsum cumprod cummax cummin cumlogsumexp".split():
    RULES[_name] = Rule(_relate_cumulative)


# -- windows --------------------------------------------------------------------------------------


def _relate_window(table, eqn, inputs, reason):
    """Pooling: axes with a window of one pass through, the others are fixed."""
    window = eqn.params["window_dimensions"]
    out = []
    for d, size in enumerate(_shape(eqn.outvars[0])):
        operands = [axes[d] for axes in inputs if len(axes) > d]
        if window[d] == 1 and all(len(axis) == size for axis in operands):
            out.append(_unite_all(table, operands, reason))
            continue
        for axis in operands:
            table.freeze(axis, _because(reason, "a window slides over them"))
        out.append(fixed_axis(size))
    return [tuple(out) for _ in eqn.outvars]


for _name in """reduce_window reduce_window_max reduce_window_min reduce_window_sum
    select_and_scatter_add select_and_gather_add""".split():
    RULES[_name] = Rule(_relate_window)


# -- moving positions about -----------------------------------------------------------------------


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
    """Repeated positions are free: whatever they meet later decides about them."""
    out: list[Axis | None] = [None] * len(eqn.params["shape"])
    for axis, d in zip(inputs[0], eqn.params["broadcast_dimensions"], strict=True):
        out[d] = axis if len(axis) == eqn.params["shape"][d] else None
    sizes = eqn.params["shape"]
    return [tuple(table.fresh(sizes[d]) if axis is None else axis for d, axis in enumerate(out))]


def _shrink_broadcast(eqn, values, kept_inputs, kept_outputs):
    return bind(eqn, values, shape=_sizes(kept_outputs[0]))


RULES["broadcast_in_dim"] = Rule(_relate_broadcast, shrink=_shrink_broadcast)


def _relate_reshape(table, eqn, inputs, reason):
    """Axes merge and split in blocks of equal size.

    A merged axis tiles the one removable axis over the others; splitting such an axis again gives
    the removable axis back. What is neither is frozen.
    """
    if eqn.params["dimensions"] is not None:
        return freeze_everything(table, eqn, inputs, reason)
    (source,) = inputs
    out = [fixed_axis(size) for size in _shape(eqn.outvars[0])]
    for from_dims, to_dims in _reshape_blocks(
        [len(axis) for axis in source], _shape(eqn.outvars[0])
    ):
        block = [source[d] for d in from_dims]
        sizes = [len(out[d]) for d in to_dims]
        for d, axis in zip(to_dims, _regroup(table, block, sizes, reason), strict=True):
            out[d] = axis
    return [tuple(out)]


def _regroup(table: AtomTable, block: list[Axis], sizes: list[int], reason: Reason) -> list[Axis]:
    """The atoms of the axes that a block of merged axes is split into."""
    if len(block) == 1 and len(sizes) == 1:
        return block
    removable = [d for d, axis in enumerate(block) if (axis != FIXED).any()]
    if len(removable) > 1:
        removable = [d for d in removable if table.removable(block[d]).any()]
    if len(removable) > 1:
        for d in removable:
            table.freeze(block[d], _because(reason, "it merges several axes with channels"))
        removable = []
    if not removable:
        return [fixed_axis(size) for size in sizes]
    (d,) = removable
    shape = [len(axis) for axis in block]
    other_axes = tuple(i for i in range(len(shape)) if i != d)
    merged = np.broadcast_to(np.expand_dims(block[d], other_axes), shape)
    grid = table.find(merged.reshape(-1)).reshape(sizes)
    for d in range(len(sizes)):
        line = np.moveaxis(grid, d, 0).reshape(sizes[d], -1)
        if (line == line[:, :1]).all():
            raw = np.moveaxis(merged.reshape(sizes), d, 0).reshape(sizes[d], -1)[:, 0]
            return [raw if i == d else fixed_axis(size) for i, size in enumerate(sizes)]
    table.freeze(grid.reshape(-1), _because(reason, "it splits an axis of channels"))
    return [fixed_axis(size) for size in sizes]


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
    return bind(eqn, values, new_sizes=_sizes(kept_outputs[0]))


RULES["reshape"] = Rule(_relate_reshape, shrink=_shrink_reshape)


def _relate_concatenate(table, eqn, inputs, reason):
    joined = eqn.params["dimension"]
    return [
        tuple(
            np.concatenate([axes[d] for axes in inputs])
            if d == joined
            else _unite_all(table, [axes[d] for axes in inputs], reason)
            for d in range(len(inputs[0]))
        )
    ]


RULES["concatenate"] = Rule(_relate_concatenate)


def _shrink_whole(eqn, values, kept_inputs, kept_outputs):
    """Evaluates at the full shape, removed positions as zeros, and keeps what is kept.

    Only positions are moved, so the result is exact; the compiler sees constant indices.
    """
    whole = [_scatter(value, kept) for value, kept in zip(values, kept_inputs, strict=True)]
    outputs = bind(eqn, whole)
    return [take(value, kept) for value, kept in zip(outputs, kept_outputs, strict=True)]


def _relate_slice(table, eqn, inputs, reason):
    strides = eqn.params["strides"] or (1,) * len(inputs[0])
    bounds = zip(eqn.params["start_indices"], eqn.params["limit_indices"], strides, strict=True)
    return [tuple(a[slice(*bound)] for a, bound in zip(inputs[0], bounds, strict=True))]


def _relate_split(table, eqn, inputs, reason):
    (axes,) = inputs
    split = eqn.params["axis"]
    pieces = np.split(axes[split], np.cumsum(eqn.params["sizes"])[:-1])
    return [(*axes[:split], piece, *axes[split + 1 :]) for piece in pieces]


def _shrink_split(eqn, values, kept_inputs, kept_outputs):
    axis = eqn.params["axis"]
    return bind(eqn, values, sizes=tuple(int(kept[axis].sum()) for kept in kept_outputs))


def _relate_pad(table, eqn, inputs, reason):
    """Padded positions hold a constant: free, whatever they meet later decides about them."""
    out = []
    for axis, size, (low, high, interior) in zip(
        inputs[0], _shape(eqn.outvars[0]), eqn.params["padding_config"], strict=True
    ):
        if (low, high, interior) == (0, 0, 0):
            out.append(axis)
        elif (axis == FIXED).all():
            out.append(fixed_axis(size))
        else:
            padded = table.fresh(size) if size > 1 else fixed_axis(size)
            at = low + np.arange(len(axis)) * (interior + 1)
            inside = (at >= 0) & (at < size)
            padded[at[inside]] = axis[inside]
            out.append(padded)
    return [tuple(out)]


RULES["slice"] = Rule(_relate_slice, shrink=_shrink_whole)
RULES["split"] = Rule(_relate_split, shrink=_shrink_split)
RULES["pad"] = Rule(_relate_pad, shrink=_shrink_whole)


# -- values out of nothing ------------------------------------------------------------------------


def _relate_source(table, eqn, inputs, reason):
    """Every position is free. Shrunk, the full value is made and sliced, so that it is the same."""
    return [tuple(table.fresh(size) for size in _shape(out)) for out in eqn.outvars]


for _name in ("iota", "random_bits"):
    RULES[_name] = Rule(_relate_source, shrink=_shrink_whole)


# -- helpers --------------------------------------------------------------------------------------


def take(value: Any, kept: Kept) -> Any:
    """The kept positions of every axis of a value."""
    for d, keep in enumerate(kept):
        if not keep.all():
            value = jnp.take(value, np.flatnonzero(keep), axis=d)
    return value


def _scatter(value: Any, kept: Kept) -> Any:
    """The inverse of `take`: zeros where positions were removed."""
    for d, keep in enumerate(kept):
        if not keep.all():
            index = np.maximum(np.cumsum(keep) - 1, 0)
            shape = [1] * value.ndim
            shape[d] = len(keep)
            value = jnp.take(value, index, axis=d)
            value = jnp.where(keep.reshape(shape), value, jnp.zeros_like(value))
    return value


def _shape(var: Any) -> tuple[int, ...]:
    return getattr(var.aval, "shape", ())


def _sizes(kept: Kept) -> tuple[int, ...]:
    return tuple(int(keep.sum()) for keep in kept)


def _because(reason: Reason, detail: str) -> Reason:
    return Reason(f"{reason.message}: {detail}", reason.source)


def _unite_all(table: AtomTable, axes: Sequence[Axis], reason: Reason) -> Axis:
    """Unites axes of one size and returns one of them, removable where there is one."""
    first = next((axis for axis in axes if (axis != FIXED).any()), axes[0])
    for axis in axes:
        if axis is not first:
            table.unite(first, axis, reason)
    return first
