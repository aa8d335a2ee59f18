"""Masked evaluation: the whole network computes, removed channels count as zero."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.dependency.atoms import AtomTable, Axis
from jaxprune.dependency.groups import Masks, Structure
from jaxprune.dependency.program import SHAPELESS, Step, call, evaluate
from jaxprune.dependency.rules import bind, summed
from jaxprune.dependency.trace import analyse_call


def masked(fn: Callable[..., Any], structure: Structure) -> Callable[..., Any]:
    """The function with masks as its second argument.

    Wherever the function sums over an axis of channels (a convolution, a matrix product, a sum),
    the operand is multiplied by their mask. That is what removing the channels computes, whatever
    bias, normalisation or nonlinearity lies between; with full masks nothing changes, to the bit.
    Kernels are not touched, so that under `vmap` over masks they stay shared.

    Args:
      fn: any function `fn(params, *arguments)` of the parameters that the structure describes: the
        network itself, its training mode, a loss, a whole training step.
      structure: what `trace` returned.

    Returns:
      `masked(params, masks, *arguments)`, which returns what `fn` returns. Masks are a dict
      {group: [size]} of 0 and 1, or any value in between for soft masks. Results that have an axis
      of channels keep it whole; what stands at removed positions is without meaning. The function
      may be transformed: jit, vmap (over masks, parameters, arguments), grad (also for masks).

    Raises (the returned function):
      ValueError: masks or params do not fit the structure.
      CouplingError: `fn` couples channels that the structure holds separate.
    """
    analysed: dict[Any, Any] = {}

    def masked_fn(params: Any, masks: Masks, *arguments: Any) -> Any:
        structure.check_masks(masks)
        leaves = structure.check_params(params)
        key = signature((leaves, arguments))
        if key not in analysed:
            analysed[key] = analyse_call(fn, structure, leaves, arguments)
        table, program, out_tree = analysed[key]
        vector = _MaskVector(structure, masks)

        def bind_masked(step: Step, operands: list[Any]) -> list[Any]:
            if step.body is not None and step.eqn.primitive.name not in SHAPELESS:
                if any(_masked_axes(table, inner) for inner in step.body.walk()):
                    return call(table, step, operands, bind_masked)
                return bind(step.eqn, operands)
            for operand, d, channels in _masked_axes(table, step):
                operands[operand] = vector.multiply(operands[operand], d, channels)
            return bind(step.eqn, operands)

        results = evaluate(program, [*leaves, *jax.tree.leaves(arguments)], bind_masked)
        return jax.tree.unflatten(out_tree, results)

    return masked_fn


def _masked_axes(table: AtomTable, step: Step) -> list[tuple[int, int, Axis]]:
    """(operand, axis, channels + 1) wherever a step sums over channels.

    Of two operands, the one that depends on data is masked.
    """
    found = []
    for pair in summed(step.eqn):
        operand, d = next((p for p in pair if not step.from_params[p[0]]), pair[0])
        channels = table.find(step.inputs[operand][d])
        channels = np.where(channels <= table.channels, channels, 0)
        if channels.any():
            found.append((operand, d, channels))
    return found


class _MaskVector:
    """The masks of all channels, indexed by channel + 1, entry 0 being the 1 of fixed positions."""

    def __init__(self, structure: Structure, masks: Masks):
        self._masks = [jnp.asarray(masks[group.name]) for group in structure.groups]
        self._ends = np.cumsum([group.size for group in structure.groups])
        self._whole: Any = None

    def multiply(self, value: Any, d: int, channels: Axis) -> Any:
        """The value times the mask of the channels along its axis `d`."""
        mask = self._of(channels).astype(value.dtype)
        shape = [1] * value.ndim
        shape[d] = len(channels)
        return value * mask.reshape(shape)

    def _of(self, channels: Axis) -> Any:
        for mask, end in zip(self._masks, self._ends, strict=True):
            size = mask.shape[-1]
            if channels[0] == end - size + 1 and len(channels) % size == 0:
                repeats = len(channels) // size
                if np.array_equal(channels, np.tile(np.arange(end - size + 1, end + 1), repeats)):
                    return jnp.tile(mask, repeats) if repeats > 1 else mask
        if self._whole is None:
            self._whole = jnp.concatenate([jnp.ones(1), *self._masks])
        return self._whole[channels]


def signature(arguments: Any) -> Any:
    """The tree, shapes and dtypes of arguments: what an analysis of a call depends on."""
    leaves, tree = jax.tree.flatten(arguments)
    return tree, tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
