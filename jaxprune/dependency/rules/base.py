"""What a rule consists of, and helpers that several rules share."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jaxprune.dependency.atoms import FIXED, AtomTable, Axes, Axis, Reason, fixed_axis
from jaxprune.dependency.concrete import namespace

Kept = tuple[np.ndarray, ...]
"""bool [size] for each axis of a value: the positions that are kept."""


class Rule(NamedTuple):
    """How one primitive is treated.

    Attributes:
      relate: `relate(table, eqn, inputs, reason)` returns the atoms of each output's axes, and
        unites or freezes atoms of the inputs as needed.
      summed: `summed(eqn)` lists the axes that the primitive reduces, as tuples of (operand, axis)
        pairs that are contracted with each other. Removed positions must not count there, so that
        is where masks are applied.
      neutral: `neutral(dtype)` is the neutral element of the reduction; by default zero.
      shrink: `shrink(eqn, values, kept_inputs, kept_outputs)` evaluates the primitive on operands
        from which positions were removed. Most primitives take their shapes from their operands and
        need none.
      reads_values: whether `relate` takes, as a further argument, a list with the value of each
        constant operand, and None for the others.
    """

    relate: Callable[..., list[Axes]]
    summed: Callable[[JaxprEqn], list[tuple[tuple[int, int], ...]]] | None = None
    neutral: Callable[[Any], Any] | None = None
    shrink: Callable[[JaxprEqn, list[Any], list[Kept], list[Kept]], list[Any]] | None = None
    reads_values: bool = False


def bind(eqn: JaxprEqn, values: Sequence[Any], **changed: Any) -> list[Any]:
    """Evaluates an equation on values, with some of its parameters changed."""
    outputs = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params | changed))
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def freeze_everything(
    table: AtomTable, eqn: JaxprEqn, inputs: Sequence[Axes], reason: Reason
) -> list[Axes]:
    """Relates the axes of a primitive that has no rule: all of them stay."""
    for axis in (axis for axes in inputs for axis in axes):
        table.freeze(axis, reason)
    return [tuple(frozen_axis(table, n, reason) for n in shape(out)) for out in eqn.outvars]


def frozen_axis(table: AtomTable, size: int, reason: Reason) -> Axis:
    """Positions that stay, and that pass the reason on to whatever they are united with."""
    axis = table.fresh(size)
    table.freeze(axis, reason)
    return axis


def take(value: Any, kept: Kept) -> Any:
    """The kept positions of every axis; a concrete array of which some are removed, as numpy's."""
    xp = namespace(value)
    for d, keep in enumerate(kept):
        if not keep.all():
            value = xp.take(xp.asarray(value), np.flatnonzero(keep), axis=d)
    return value


def shrink_whole(
    eqn: JaxprEqn, values: list[Any], kept_inputs: list[Kept], kept_outputs: list[Kept]
) -> list[Any]:
    """Evaluates at the full shape, with zeros at removed positions, and takes what is kept.

    For primitives that only move positions: the result is exact, and the indices are constants.
    """
    whole = [_scatter(value, kept) for value, kept in zip(values, kept_inputs, strict=True)]
    outputs = bind(eqn, whole)
    return [take(value, kept) for value, kept in zip(outputs, kept_outputs, strict=True)]


def _scatter(value: Any, kept: Kept) -> Any:
    """The inverse of `take`: zeros where positions were removed."""
    for d, keep in enumerate(kept):
        if not keep.all():
            index = np.maximum(np.cumsum(keep) - 1, 0)
            along = [1] * value.ndim
            along[d] = len(keep)
            value = jnp.take(value, index, axis=d)
            value = jnp.where(keep.reshape(along), value, jnp.zeros_like(value))
    return value


def shape(var: Any) -> tuple[int, ...]:
    """The shape of a variable of a jaxpr."""
    return getattr(var.aval, "shape", ())


def sizes(kept: Kept) -> tuple[int, ...]:
    """How many positions of each axis are kept."""
    return tuple(int(keep.sum()) for keep in kept)


def because(reason: Reason, detail: str) -> Reason:
    """The reason with a detail added."""
    return Reason(f"{reason.message}: {detail}", reason.source)


def unite_all(table: AtomTable, axes: Sequence[Axis], reason: Reason) -> Axis:
    """Unites axes of the same size and returns one of them, one with channels if there is any."""
    first = next((axis for axis in axes if (axis != FIXED).any()), axes[0])
    for axis in axes:
        if axis is not first:
            table.unite(first, axis, reason)
    return first


def part(table: AtomTable, axis: Axis, picked: Any, reason: Reason) -> Axis:
    """Some positions of an axis; a single one is frozen, since an axis of one cannot be emptied."""
    taken = axis[picked]
    if len(taken) == 1 and len(axis) > 1:
        table.freeze(taken, because(reason, "a single position is taken"))
        return fixed_axis(1)
    return taken
