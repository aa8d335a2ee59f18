"""Convolutions as matrix products: of small maps, and with kernels of a single position."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import JaxprEqn

MOST_PRODUCTS = 49
"""Kernels with more positions stay as they are, to keep programs small."""

ENTRIES_FOR_EACH = 2**14
"""For each example, the entries of an unrolled kernel that are worth their making, derivatives
included (`experiments/results/small_maps/cpu.md`)."""


class Dimension(NamedTuple):
    """One dimension of a map, and of the kernel that moves over it.

    Attributes:
      kernel: positions of the kernel.
      stride: positions from one of its places to the next.
      dilation: from one of its positions to the next.
      before: positions of padding before the map.
      inputs: positions of the map.
      outputs: positions of the result.
    """

    kernel: int
    stride: int
    dilation: int
    before: int
    inputs: int
    outputs: int

    @property
    def small(self) -> bool:
        """Whether the result is smaller than what the kernel spans."""
        return self.outputs < self.dilation * (self.kernel - 1) + 1

    @property
    def full(self) -> bool:
        """Whether each output reads each input."""
        first = self.before - (self.outputs - 1) * self.stride
        last = self.before + self.inputs - 1
        return self.dilation == 1 and first >= 0 and last < self.kernel


def quicker(eqn: JaxprEqn) -> Callable[..., Array] | None:
    """`by_one_product` or `by_positions`, whichever is quicker than the convolution on a CPU."""
    dimensions = ordinary(eqn)
    if dimensions is None:
        return None
    positions = math.prod(d.kernel for d in dimensions)
    if positions == 1:
        return by_positions
    if not all(d.small for d in dimensions):
        return None
    examples = _shape(eqn.invars[0])[eqn.params["dimension_numbers"].lhs_spec[0]]
    if all(d.full for d in dimensions):
        unrolled = math.prod((*_shape(eqn.invars[1]), *(d.inputs * d.outputs for d in dimensions)))
        if unrolled // positions <= ENTRIES_FOR_EACH * examples:
            return by_one_product
    return by_positions if positions <= MOST_PRODUCTS else None


def quicker_by_known(eqn: JaxprEqn) -> Callable[..., Array] | None:
    """`by_one_product` where it has no more to multiply and is quicker once the kernel is there."""
    dimensions = ordinary(eqn)
    suits = dimensions is not None and all(d.small and d.full for d in dimensions)
    return by_one_product if suits else None


def ordinary(eqn: JaxprEqn) -> list[Dimension] | None:
    """The dimensions of a convolution without groups and without dilation of its input, or None."""
    if eqn.primitive.name != "conv_general_dilated":
        return None
    params = eqn.params
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return None
    if any(factor != 1 for factor in params["lhs_dilation"]):
        return None
    input_spec, kernel_spec, output_spec = params["dimension_numbers"]
    columns = zip(
        (_shape(eqn.invars[1])[axis] for axis in kernel_spec[2:]),
        params["window_strides"],
        params["rhs_dilation"],
        (before for before, _ in params["padding"]),
        (_shape(eqn.invars[0])[axis] for axis in input_spec[2:]),
        (_shape(eqn.outvars[0])[axis] for axis in output_spec[2:]),
        strict=True,
    )
    return [Dimension(*column) for column in columns]


def _shape(atom: Any) -> tuple[int, ...]:
    return atom.aval.shape


def _result(eqn: JaxprEqn) -> Any:
    return eqn.outvars[0].aval


def by_one_product(eqn: JaxprEqn, x: Array, kernel: Array) -> Array:
    """A convolution whose every output reads every input, as one product with an unrolled kernel.

    Args:
      eqn: an `ordinary` convolution whose dimensions are all `full`.
      x: the input, in the equation's layout.
      kernel: the kernel, in the equation's layout.

    Returns:
      The result, in the equation's layout.
    """
    dimensions = ordinary(eqn)
    assert dimensions is not None
    maps = list(range(len(dimensions)))
    x, kernel = channels_last(eqn, x, kernel)
    reversed_ = lax.rev(kernel, maps)
    parts = []
    for position in itertools.product(*(range(d.inputs) for d in dimensions)):
        # What this input adds to each output: the further the output, the earlier in the kernel.
        first = [d.kernel - 1 - d.before - i for d, i in zip(dimensions, position, strict=True)]
        parts.append(
            reversed_[
                tuple(
                    slice(start, start + (d.outputs - 1) * d.stride + 1, d.stride)
                    for d, start in zip(dimensions, first, strict=True)
                )
            ]
        )
    inputs = [d.inputs for d in dimensions]
    unrolled = jnp.stack(parts).reshape(*inputs, *parts[0].shape)  # [*inputs, *outputs, C, D]
    source = 2 * len(maps)
    unrolled = unrolled.transpose(*maps, source, *(len(maps) + axis for axis in maps), source + 1)
    summed = tuple(range(len(maps) + 1))
    product = _product(eqn, x, unrolled, (tuple(axis + 1 for axis in summed), summed))
    return as_in(eqn, product)


class _Meeting(NamedTuple):
    """What one place of the kernel meets along one dimension.

    Attributes:
      read: the inputs that it is multiplied with.
      around: how many outputs lie before and after those that it adds to.
    """

    read: slice
    around: tuple[int, int]


def _meeting(dimension: Dimension, place: int) -> _Meeting | None:
    """The outputs q for which q * stride + offset lies on the map, if there are any."""
    stride, outputs = dimension.stride, dimension.outputs
    offset = place * dimension.dilation - dimension.before
    first = max(0, -(offset // stride))  # the quotient, rounded up
    last = min(outputs - 1, (dimension.inputs - 1 - offset) // stride)
    if first > last:
        return None
    read = slice(first * stride + offset, last * stride + offset + 1, stride)
    return _Meeting(read, (first, outputs - 1 - last))


def by_positions(eqn: JaxprEqn, x: Array, kernel: Array) -> Array:
    """A convolution as a sum over the kernel's positions, each a product of channels.

    Args:
      eqn: an `ordinary` convolution.
      x: the input, in the equation's layout.
      kernel: the kernel, in the equation's layout.

    Returns:
      The result, in the equation's layout.
    """
    dimensions = ordinary(eqn)
    assert dimensions is not None
    x, kernel = channels_last(eqn, x, kernel)
    meetings = [[_meeting(d, place) for place in range(d.kernel)] for d in dimensions]
    parts = []
    for position in itertools.product(*map(range, kernel.shape[:-2])):
        here = [places[place] for places, place in zip(meetings, position, strict=True)]
        met = [meeting for meeting in here if meeting is not None]
        if len(met) < len(here):
            continue  # it meets padding alone
        read = x[:, *(meeting.read for meeting in met)]
        product = _product(eqn, read, kernel[position], ((x.ndim - 1,), (0,)))
        parts.append(jnp.pad(product, [(0, 0), *(meeting.around for meeting in met), (0, 0)]))
    if not parts:
        output = _result(eqn)
        return jnp.zeros(output.shape, output.dtype)
    return as_in(eqn, functools.reduce(jnp.add, parts))


def channels_last(eqn: JaxprEqn, x: Array, kernel: Array) -> tuple[Array, Array]:
    """The operands as [B, *map, C] and [*window, C, D]."""
    source, weights, _ = eqn.params["dimension_numbers"]
    return (
        x.transpose(source[0], *source[2:], source[1]),
        kernel.transpose(*weights[2:], weights[1], weights[0]),
    )


def as_in(eqn: JaxprEqn, result: Array) -> Array:
    """A result [B, *outputs, D] in the equation's layout."""
    spec = eqn.params["dimension_numbers"].out_spec
    order = (spec[0], *spec[2:], spec[1])
    return result.transpose([order.index(axis) for axis in range(result.ndim)])


def _product(
    eqn: JaxprEqn, x: Array, kernel: Array, summed: tuple[Sequence[int], Sequence[int]]
) -> Array:
    return lax.dot_general(
        x,
        kernel,
        (summed, ((), ())),
        precision=eqn.params["precision"],
        preferred_element_type=_result(eqn).dtype,
    )
