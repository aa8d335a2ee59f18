"""The same computation in operations that the device is faster at.

On a CPU, XLA convolves a map that is smaller than the kernel many times slower than a larger one
(`experiments/results/small_maps_cpu.md`): the 2 x 2 maps at the end of a VGG on 32 x 32 images take
most of its time. `lower` turns each such convolution into one matrix product for each position of
the kernel. They multiply nothing by padding, and their derivatives are matrix products too. So it
does with kernels of a single position: XLA computes these as fast as products, but not the
derivatives with respect to their weights (`experiments/results/small_maps_cpu.md`).
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from jaxprune.dependency.calls import scan_counts

MOST_PRODUCTS = 49
"""Kernels with more positions stay as they are, to keep programs small."""


def lower(fn: Callable[..., Any], *, backend: str | None = None) -> Callable[..., Any]:
    """A function that computes the same, without the operations that the device is slow at.

    Convolutions of small maps, and those with kernels of one position, become matrix products,
    max-pooling becomes comparisons of slices.
    Results differ from `fn` in the order of float sums alone. Works under `jit`, `vmap`, `grad`
    and the like, and enters functions that `fn` calls through `jit`, `scan` and `checkpoint`;
    what is inside other calls, such as custom derivatives, stays as it is.

    Args:
      fn: a function of pytrees of arrays.
      backend: what to make it fast on, such as "cpu"; by default where JAX computes. On other
        backends than "cpu" this returns `fn` itself.
    """
    if (backend or jax.default_backend()) != "cpu":
        return fn

    def lowered(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
        results = _evaluate(closed, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return lowered


def _evaluate(closed: ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
    """A jaxpr's results, slow operations replaced."""
    jaxpr = closed.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *args], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for eqn in jaxpr.eqns:
        results = _run(eqn, [read(atom) for atom in eqn.invars])
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _run(eqn: JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    if _is_slow_convolution(eqn):
        return [by_positions(eqn, *operands)]
    if _is_slow_pooling(eqn):
        return [by_slices(eqn, *operands)]
    run = _CALLS.get(eqn.primitive.name)
    if run is not None and any(map(_has_slow, _functions(eqn))):
        return run(eqn, operands)
    results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return results if eqn.primitive.multiple_results else [results]


# -- functions that are called --------------------------------------------------------------------


def _inlined(eqn: JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    return _evaluate(eqn.params["jaxpr"], operands)


def _rematerialised(eqn: JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    body = ClosedJaxpr(eqn.params["jaxpr"], ())
    again = jax.checkpoint(
        lambda *args: _evaluate(body, args),
        prevent_cse=eqn.params["prevent_cse"],
        policy=eqn.params["policy"],
    )
    return again(*operands)


def _scanned(eqn: JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    params = eqn.params
    constants, carried = scan_counts(eqn)
    known, carry = operands[:constants], operands[constants : constants + carried]

    def body(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        results = _evaluate(params["jaxpr"], [*known, *carry, *x])
        return results[:carried], results[carried:]

    carry, stacked = lax.scan(
        body,
        carry,
        operands[constants + carried :],
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*carry, *stacked]


_CALLS: dict[str, Callable[[JaxprEqn, list[Any]], Sequence[Any]]] = {
    "jit": _inlined,
    "remat2": _rematerialised,
    "scan": _scanned,
}


def _functions(eqn: JaxprEqn) -> list[Jaxpr]:
    function = eqn.params["jaxpr"]
    return [function.jaxpr if isinstance(function, ClosedJaxpr) else function]


def _has_slow(jaxpr: Jaxpr) -> bool:
    return any(
        _is_slow_convolution(eqn)
        or _is_slow_pooling(eqn)
        or (eqn.primitive.name in _CALLS and any(map(_has_slow, _functions(eqn))))
        for eqn in jaxpr.eqns
    )


# -- convolutions ---------------------------------------------------------------------------------


def _is_slow_convolution(eqn: JaxprEqn) -> bool:
    """Whether it is an ordinary one of one position, or to a map smaller than the kernel."""
    if eqn.primitive.name != "conv_general_dilated":
        return False
    params = eqn.params
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return False
    if any(factor != 1 for factor in params["lhs_dilation"]):
        return False
    _, kernel_spec, output_spec = params["dimension_numbers"]
    kernel = [_aval(eqn.invars[1]).shape[axis] for axis in kernel_spec[2:]]
    outputs = [_aval(eqn.outvars[0]).shape[axis] for axis in output_spec[2:]]
    spans = [
        dilation * (size - 1) + 1
        for size, dilation in zip(kernel, params["rhs_dilation"], strict=True)
    ]
    if math.prod(kernel) == 1:
        return True
    small = all(size < span for size, span in zip(outputs, spans, strict=True))
    return small and math.prod(kernel) <= MOST_PRODUCTS


def _aval(atom: Any) -> Any:
    return atom.aval


class _Meeting(NamedTuple):
    """What one place of the kernel meets along one dimension.

    Attributes:
      read: the inputs that it is multiplied with.
      around: how many outputs lie before and after those that it adds to.
    """

    read: slice
    around: tuple[int, int]


def _meeting(offset: int, stride: int, inputs: int, outputs: int) -> _Meeting | None:
    """The outputs q for which q * stride + offset lies on the map, if there are any."""
    first = max(0, -(offset // stride))  # the quotient, rounded up
    last = min(outputs - 1, (inputs - 1 - offset) // stride)
    if first > last:
        return None
    read = slice(first * stride + offset, last * stride + offset + 1, stride)
    return _Meeting(read, (first, outputs - 1 - last))


def by_positions(eqn: JaxprEqn, x: Array, kernel: Array) -> Array:
    """A convolution as a sum over the kernel's positions, each a product of channels.

    Args:
      eqn: a `conv_general_dilated` without groups and without dilation of its input.
      x: the input, in the equation's layout.
      kernel: the kernel, in the equation's layout.

    Returns:
      The result, in the equation's layout.
    """
    params, output = eqn.params, _aval(eqn.outvars[0])
    input_spec, kernel_spec, output_spec = params["dimension_numbers"]
    x = x.transpose(input_spec[0], *input_spec[2:], input_spec[1])  # [B, *map, C]
    kernel = kernel.transpose(*kernel_spec[2:], kernel_spec[1], kernel_spec[0])  # [*window, C, D]
    dimensions = zip(
        kernel.shape[:-2],
        params["window_strides"],
        params["rhs_dilation"],
        params["padding"],
        x.shape[1:-1],
        [output.shape[axis] for axis in output_spec[2:]],
        strict=True,
    )
    meetings = [
        [_meeting(place * dilation - before, stride, inputs, outputs) for place in range(size)]
        for size, stride, dilation, (before, _), inputs, outputs in dimensions
    ]
    order = (output_spec[0], *output_spec[2:], output_spec[1])
    parts = []
    for position in itertools.product(*map(range, kernel.shape[:-2])):
        here = [places[place] for places, place in zip(meetings, position, strict=True)]
        met = [meeting for meeting in here if meeting is not None]
        if len(met) < len(here):
            continue  # it meets padding alone
        product = lax.dot_general(
            x[:, *(meeting.read for meeting in met)],
            kernel[position],
            (((x.ndim - 1,), (0,)), ((), ())),
            precision=params["precision"],
            preferred_element_type=output.dtype,
        )
        parts.append(jnp.pad(product, [(0, 0), *(meeting.around for meeting in met), (0, 0)]))
    if not parts:
        return jnp.zeros(output.shape, output.dtype)
    total = functools.reduce(jnp.add, parts)  # [B, *outputs, D]
    return total.transpose([order.index(axis) for axis in range(total.ndim)])


# -- pooling --------------------------------------------------------------------------------------


def _is_slow_pooling(eqn: JaxprEqn) -> bool:
    """Whether it is the maximum over windows that neither overlap nor reach beyond the map."""
    if eqn.primitive.name != "reduce_window_max":
        return False
    params = eqn.params
    plain = all(factor == 1 for factor in (*params["base_dilation"], *params["window_dilation"]))
    inside = all(before == after == 0 for before, after in params["padding"])
    apart = params["window_strides"] == params["window_dimensions"]
    return plain and inside and apart and math.prod(params["window_dimensions"]) <= MOST_PRODUCTS


def by_slices(eqn: JaxprEqn, x: Array) -> Array:
    """The maximum over windows, dimension by dimension, as that of one slice for each place.

    The last dimension comes first, so that of equal values the first of the window is selected.

    Args:
        eqn: a `reduce_window_max` over windows that do not overlap, without padding or dilation.
        x: its operand.
    """
    for axis, size in reversed(list(enumerate(eqn.params["window_dimensions"]))):
        end = x.shape[axis] // size * size
        places = (lax.slice_in_dim(x, place, end, size, axis) for place in range(size))
        x = functools.reduce(_larger, places)
    return x


def _larger(first: Array, second: Array) -> Array:
    """The larger of each two numbers, the first of equal ones; NaN if one is."""
    return jnp.where((first >= second) | (first != first), first, second)
