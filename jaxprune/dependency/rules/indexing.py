"""Reading and writing positions by index.

An index along an axis of channels must be constant, so that the indexed positions are known. If it
depends on data, the axis is frozen.
"""

import numpy as np

from jaxprune.dependency.atoms import FIXED, fixed_axis
from jaxprune.dependency.rules.base import Rule, because, bind, part, shape, shrink_whole, sizes

_DATA = "it is indexed by data"
_PART = "only a part of them is touched, from a place that depends on data"

RULES: dict[str, Rule] = {}


def _picked(values, num_dims):
    """The indices along the only indexed axis, int [n] or []; None if they are not constant."""
    indices = values[1]
    if indices is None or num_dims != 1 or indices.ndim > 2:
        return None
    return indices[..., 0].astype(np.int64)


def _window(values, places, d, size, axis):
    """The positions of a window along axis d; None if its start is not constant.

    Args:
      values: the constant operands, the indices at 1.
      places: the axes that are indexed, in the order of the indices.
      d: the axis.
      size: the size of the window.
      axis: its atoms.
    """
    indices = values[1]
    if d not in places:
        return slice(0, size)
    if indices is None or indices.ndim != 1:
        return None
    return _range(indices[places.index(d)], size, axis)


def _relate_gather(table, eqn, inputs, reason, values):
    operand, indices = inputs
    numbers = eqn.params["dimension_numbers"]
    window = eqn.params["slice_sizes"]
    out = [fixed_axis(size) for size in shape(eqn.outvars[0])]
    alone = set(numbers.collapsed_slice_dims) | set(numbers.operand_batching_dims)
    through = [d for d in range(len(operand)) if d not in alone]
    for d, place in zip(through, numbers.offset_dims, strict=True):
        inside = _window(values, numbers.start_index_map, d, window[d], operand[d])
        if window[d] == len(operand[d]):
            out[place] = operand[d]
        elif inside is not None:
            out[place] = part(table, operand[d], inside, reason)
        else:
            table.freeze(operand[d], because(reason, _PART))
    loops = [d for d in range(len(out)) if d not in numbers.offset_dims]
    for place, axis in zip(loops, indices[:-1], strict=True):
        out[place] = axis
    pairs = zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    for d, index_d in pairs:
        table.unite(operand[d], indices[index_d], reason)
    picked = _picked(values, len(numbers.start_index_map))
    for d in numbers.collapsed_slice_dims:
        if (operand[d] == FIXED).all():
            continue
        if picked is None or (picked < 0).any() or (picked >= len(operand[d])).any():
            table.freeze(operand[d], because(reason, _DATA))
        elif picked.ndim == 0:
            part(table, operand[d], picked.reshape(1), reason)
        else:
            out[loops[0]] = part(table, operand[d], picked, reason)
    return [tuple(out)]


def _shrink_gather(eqn, values, kept_inputs, kept_outputs):
    numbers = eqn.params["dimension_numbers"]
    operand = kept_inputs[0]
    if not all(operand[d].all() for d in numbers.start_index_map):
        return shrink_whole(eqn, values, kept_inputs, kept_outputs)
    single = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    window = [
        size if d in single or size != len(keep) else int(keep.sum())
        for d, (size, keep) in enumerate(zip(eqn.params["slice_sizes"], operand, strict=True))
    ]
    return bind(eqn, values, slice_sizes=tuple(window))


RULES["gather"] = Rule(_relate_gather, shrink=_shrink_gather, reads_values=True)


def _relate_scatter(table, eqn, inputs, reason, values):
    operand, indices, updates = inputs
    numbers = eqn.params["dimension_numbers"]
    alone = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    through = [d for d in range(len(operand)) if d not in alone]
    for d, place in zip(through, numbers.update_window_dims, strict=True):
        places = numbers.scatter_dims_to_operand_dims
        inside = _window(values, places, d, len(updates[place]), operand[d])
        if len(updates[place]) == len(operand[d]):
            table.unite(operand[d], updates[place], reason)
        elif inside is not None:
            table.unite(operand[d][inside], updates[place], reason)
        else:
            table.freeze(operand[d], because(reason, _PART))
            table.freeze(updates[place], because(reason, _PART))
    loops = [d for d in range(len(updates)) if d not in numbers.update_window_dims]
    batching = zip(
        numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True
    )
    for d, index_d in batching:
        table.unite(operand[d], indices[index_d], reason)
        table.unite(operand[d], updates[loops[index_d]], reason)
    picked = _picked(values, len(numbers.scatter_dims_to_operand_dims))
    for d in numbers.inserted_window_dims:
        known = picked is not None and (picked >= 0).all() and (picked < len(operand[d])).all()
        if known and picked.ndim == 1:
            table.unite(operand[d][picked], updates[loops[0]], reason)
        elif known:
            table.freeze(operand[d][picked.reshape(1)], because(reason, "a single position"))
        else:
            table.freeze(operand[d], because(reason, _DATA))
            for place in loops:
                table.freeze(updates[place], because(reason, _DATA))
    return [operand]


def _shrink_scatter(eqn, values, kept_inputs, kept_outputs):
    indexed = eqn.params["dimension_numbers"].scatter_dims_to_operand_dims
    if all(kept_inputs[0][d].all() for d in indexed):
        return bind(eqn, values)
    return shrink_whole(eqn, values, kept_inputs, kept_outputs)


_OPERATIONS = ("", "_add", "-add", "_sub", "-sub", "_mul", "-mul", "_min", "-min", "_max", "-max")
for _name in (f"scatter{operation}" for operation in _OPERATIONS):
    RULES[_name] = Rule(_relate_scatter, shrink=_shrink_scatter, reads_values=True)


def _range(start, size, axis):
    """The positions of a part of an axis, moved to lie inside it, as the primitives do."""
    first = int(np.clip(int(start), 0, len(axis) - size))
    return slice(first, first + size)


def _relate_dynamic_slice(table, eqn, inputs, reason, values):
    out = []
    for axis, start, size in zip(inputs[0], values[1:], eqn.params["slice_sizes"], strict=True):
        if size == len(axis):
            out.append(axis)
        elif start is not None:
            out.append(part(table, axis, _range(start, size, axis), reason))
        else:
            table.freeze(axis, because(reason, _PART))
            out.append(fixed_axis(size))
    return [tuple(out)]


def _shrink_dynamic_slice(eqn, values, kept_inputs, kept_outputs):
    partial = [
        keep
        for keep, size in zip(kept_inputs[0], eqn.params["slice_sizes"], strict=True)
        if size != len(keep)
    ]
    if all(keep.all() for keep in partial):
        return bind(eqn, values, slice_sizes=sizes(kept_outputs[0]))
    return shrink_whole(eqn, values, kept_inputs, kept_outputs)


RULES["dynamic_slice"] = Rule(
    _relate_dynamic_slice, shrink=_shrink_dynamic_slice, reads_values=True
)


def _relate_dynamic_update_slice(table, eqn, inputs, reason, values):
    operand, update, *_ = inputs
    for axis, new, start in zip(operand, update, values[2:], strict=True):
        if len(new) == len(axis):
            table.unite(axis, new, reason)
        elif start is not None:
            table.unite(axis[_range(start, len(new), axis)], new, reason)
        else:
            table.freeze(axis, because(reason, _PART))
            table.freeze(new, because(reason, _PART))
    return [operand]


RULES["dynamic_update_slice"] = Rule(
    _relate_dynamic_update_slice, shrink=shrink_whole, reads_values=True
)
