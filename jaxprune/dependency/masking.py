"""Masked evaluation: the whole network is computed, and removed channels count as zero."""

from collections.abc import Callable
from copy import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jaxprune.dependency.atoms import AtomTable, Axes, Axis
from jaxprune.dependency.dtypes import dtype_of, wide
from jaxprune.dependency.groups import Masks, Structure, check_structure
from jaxprune.dependency.joints import slots
from jaxprune.dependency.program import Step, call, evaluate
from jaxprune.dependency.rules import RULES, bind
from jaxprune.dependency.trace import analyse_call


def masked(fn: Callable[..., Any], structure: Structure) -> Callable[..., Any]:
    """The function with masks as its second argument.

    Wherever the function sums over an axis of channels (a convolution, a matrix product, a sum),
    the operand is multiplied by their mask; a maximum over channels ignores removed ones, and a
    mean divides by the number that remain. The result is that of removing the channels, whatever
    bias, normalisation or nonlinearity lies in between. Kernels are untouched, so they stay shared
    under a `vmap` over masks.

    With full masks the result is the same to the bit. (If the masks are traced and the network
    normalises over channels, the compiler may round sums differently.)

    Args:
      fn: any function `fn(params, *arguments)` of the parameters that the structure describes: the
        network itself, its training mode, a loss, a whole training step.
      structure: what `trace` returned.

    Returns:
      `masked(params, masks, *arguments)`, which returns what `fn` returns. Masks are a dict
      {group: [size]} of 0 and 1, or values in between for soft masks. Results that have an axis of
      channels keep its full size; values at removed positions are meaningless. The function may be
      transformed: jit, vmap (over masks, parameters, arguments), grad (with respect to masks, too).

    Raises:
      TypeError: `structure` is not a structure.

    Raises (the returned function):
      ValueError: masks or params do not fit the structure.
      CouplingError: `fn` couples channels that are independent in the structure.
    """
    return masked_by(Masked, fn, structure)


def masked_by(
    kind: "Callable[[Structure, Masks, AtomTable], Masked]",
    fn: Callable[..., Any],
    structure: Structure,
) -> Callable[..., Any]:
    """`masked`, with steps evaluated by instances of `kind`."""
    check_structure(structure)
    analysed: dict[Any, Any] = {}

    def masked_fn(params: Any, masks: Masks, *arguments: Any) -> Any:
        structure.check_masks(masks)
        for name, mask in masks.items():
            if np.ndim(mask) > 1:
                raise ValueError(
                    f"the mask of group '{name}' has shape {np.shape(mask)}; use jax.vmap over "
                    "the masks of several candidates"
                )
        leaves = structure.check_params(params)
        key = signature((leaves, arguments))
        if key not in analysed:
            analysed[key] = analyse_call(fn, structure, leaves, arguments)
        table, program, out_tree = analysed[key]
        masked_values = kind(structure, masks, table)
        results = evaluate(program, [*leaves, *jax.tree.leaves(arguments)], masked_values)
        return jax.tree.unflatten(out_tree, results)

    return masked_fn


class Masked:
    """Evaluates steps on whole values, ignoring removed positions.

    Args:
      structure: the structure of the parameters.
      masks: the masks of its groups.
      table: atoms 1 to C are the structure's channels.
    """

    def __init__(self, structure: Structure, masks: Masks, table: AtomTable):
        self.table = table
        self._masks = [jnp.asarray(masks[group.name]) for group in structure.groups]
        # Masks known to be full change nothing, not even the compiled program.
        self._partial = not all(_keeps_all(masks[group.name]) for group in structure.groups)
        self._ends = np.cumsum([group.size for group in structure.groups])
        self._first = jnp.concatenate([jnp.ones(1), *self._masks]) if self._masks else jnp.ones(1)
        # Computed here, since it may be needed inside a loop, whose tracers must not leak out.
        self._slots = slots(table)
        self._whole = self._slots.extend(self._first, jnp) if self._partial else self._first

    @property
    def masks(self) -> Any:
        """The arrays that the evaluation depends on."""
        return self._masks, self._first, self._whole

    def given(self, masks: Any) -> "Masked":
        """The same with other arrays."""
        other = copy(self)
        other._masks, other._first, other._whole = masks
        return other

    def constant(self, value: Any, axes: Axes) -> Any:
        """Constants stay whole."""
        return value

    def bind(self, step: Step, operands: list[Any]) -> list[Any]:
        """Evaluates one step."""
        if step.bodies:
            if any(self.concerns(inner) for body in step.bodies for inner, _ in body.walk()):
                return call(step, operands, self)
            return bind(step.eqn, operands)
        for operand, d in self.reduced(step):
            axis = step.inputs[operand][d]
            operands[operand] = self.apply(operands[operand], d, axis, step.eqn)
        results = bind(step.eqn, operands)
        for axis in step.rescale:
            results[0] = self.rescale(results[0], axis)
        return results

    def clear(self, value: Any, axes: Axes) -> Any:
        """Sets a derivative to zero at removed positions."""
        for d, axis in enumerate(axes):
            if self._entries(axis).any():
                shape = [1] * value.ndim
                shape[d] = len(axis)
                value = jnp.where(self.of(axis).reshape(shape) > 0, value, jnp.zeros_like(value))
        return value

    def concerns(self, step: Step) -> bool:
        """Whether masks change what a step computes."""
        return bool(self.reduced(step)) or any(self._entries(a).any() for a in step.rescale)

    def reduced(self, step: Step) -> list[tuple[int, int]]:
        """(operand, axis) for every axis of channels that a step reduces.

        Of two operands, the one that depends on data is named, to be masked.
        """
        rule = RULES.get(step.name)
        if rule is None or rule.summed is None:
            return []
        found = []
        for pair in rule.summed(step.eqn):
            operand, d = next((p for p in pair if not step.from_params[p[0]]), pair[0])
            if self._entries(step.inputs[operand][d]).any():
                found.append((operand, d))
        return found

    def apply(self, value: Any, d: int, axis: Axis, eqn: JaxprEqn) -> Any:
        """The value with its removed positions along an axis neutralised."""
        return apply_mask(value, d, self.of(axis), eqn)

    def rescale(self, value: Any, axis: Axis) -> Any:
        """The value times the ratio of full to kept size of an axis."""
        if not self._entries(axis).any():
            return value
        return rescale(value, len(axis), self.of(axis))

    def _entries(self, axis: Axis) -> np.ndarray:
        if not self._partial:
            return np.zeros(len(axis), np.int64)
        return slots(self.table).of_root[self.table.find(axis)]

    def of(self, axis: Axis) -> Any:
        """The mask of each position of an axis."""
        entries = self._entries(axis)
        for mask, end in zip(self._masks, self._ends, strict=True):
            size = mask.shape[-1]
            if entries[0] == end - size + 1 and len(entries) % size == 0:
                repeats = len(entries) // size
                if np.array_equal(entries, np.tile(np.arange(end - size + 1, end + 1), repeats)):
                    return jnp.tile(mask, repeats) if repeats > 1 else mask
        known = slots(self.table)
        whole = self._whole if known is self._slots else known.extend(self._first, jnp)
        return whole[entries]


def apply_mask(value: Any, d: int, mask: Any, eqn: JaxprEqn) -> Any:
    """The operand of a reduction with its removed positions along axis d neutralised.

    Args:
      value: the operand.
      d: the axis.
      mask: [n], the mask of each of its positions.
      eqn: the reduction.
    """
    shape = [1] * value.ndim
    shape[d] = len(mask)
    mask = mask.reshape(shape)
    neutral = RULES[eqn.primitive.name].neutral
    if neutral is None:
        if value.dtype == bool:
            return value & (mask > 0)
        return value * mask.astype(value.dtype)
    return jnp.where(mask > 0, value, jnp.asarray(neutral(value.dtype), value.dtype))


def rescale(value: Any, full: int, mask: Any) -> Any:
    """A value that was divided by the full size of an axis, divided by its kept size instead."""
    dtype = wide(value.dtype)
    ratio = full / mask.astype(dtype).sum()
    return (value.astype(dtype) * ratio).astype(value.dtype)


def _keeps_all(mask: Any) -> bool:
    """Whether a mask is known to be 1 everywhere."""
    return not isinstance(mask, jax.core.Tracer) and bool((np.asarray(mask) == 1).all())


def signature(arguments: Any) -> Any:
    """The tree, shapes and dtypes of arguments, on which the analysis of a call depends."""
    leaves, tree = jax.tree.flatten(arguments)
    return tree, tuple((np.shape(leaf), dtype_of(leaf)) for leaf in leaves)
