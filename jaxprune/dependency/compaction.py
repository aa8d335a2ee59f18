"""Compaction: a network that is really smaller."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxprune.dependency.atoms import AtomTable, Axes
from jaxprune.dependency.groups import Masks, Structure
from jaxprune.dependency.masking import signature
from jaxprune.dependency.program import SHAPELESS, Step, call, evaluate
from jaxprune.dependency.rules import RULES, Kept, bind, take
from jaxprune.dependency.trace import analyse_call


@dataclass(frozen=True, eq=False)
class CompactNetwork:
    """A function whose removed channels are gone from its parameters and from its arithmetic.

    A plain JAX function: `jit`, differentiate, `vmap`, fine-tune or export it, or trace it again.

    Attributes:
      params: the smaller parameters, in the tree of the original ones.
      widths: {group: how many channels are left}.
      masks: {group: uint8 [size]}, what was kept of the original.
    """

    params: Any
    widths: Mapping[str, int]
    masks: Mapping[str, np.ndarray]
    _apply: Callable[..., Any] = field(repr=False)

    def __call__(self, params: Any, *arguments: Any) -> Any:
        """What the original function returns with the removed channels masked."""
        return self._apply(params, *arguments)


def compact(
    fn: Callable[..., Any], structure: Structure, params: Any, masks: Masks
) -> CompactNetwork:
    """Removes the masked channels from a function of the structure's parameters.

    Every parameter is sliced to the channels that are kept, and the function's equations are
    evaluated at the smaller shapes. The result equals `masked` up to the order in which floating
    point numbers are added.

    Args:
      fn: any function `fn(params, *arguments)` of the parameters: the network, its training mode, a
        loss, a training step. It is traced at its first call for given shapes of the arguments.
      structure: what `trace` returned.
      params: the dense parameters.
      masks: {group: [size]} of 0 and 1; concrete values, every group with at least one 1.

    Returns:
      The compact network. Its arguments are those of `fn`; input features that were removed are
      dropped inside, so it takes the same inputs.

    Raises:
      ValueError: masks or params do not fit the structure, a mask holds other values than 0 and 1,
        or a group would be emptied.
    """
    kept_channels = _kept_channels(structure, masks)
    leaves = structure.check_params(params)
    keep = np.concatenate([[True], kept_channels])
    kept_leaves = [tuple(keep[axis + 1] for axis in axes) for axes in structure.channels]
    small_leaves = [take(leaf, kept) for leaf, kept in zip(leaves, kept_leaves, strict=True)]
    small_shapes = [tuple(int(k.sum()) for k in kept) for kept in kept_leaves]
    analysed: dict[Any, Any] = {}

    def apply(small_params: Any, *arguments: Any) -> Any:
        values, treedef = jax.tree.flatten(small_params)
        if treedef != structure.treedef or [np.shape(v) for v in values] != small_shapes:
            raise ValueError(
                "params are not those of this compact network; pass its `params` or what training "
                "made of them"
            )
        key = signature((values, arguments))
        if key not in analysed:
            analysed[key] = analyse_call(fn, structure, values, arguments)
        table, program, out_tree = analysed[key]
        shrink = _Shrink(table, keep)
        inputs = jax.tree.leaves(arguments)
        input_axes = program.inputs[len(values) :]
        inputs = [shrink.value(x, axes) for x, axes in zip(inputs, input_axes, strict=True)]
        results = evaluate(program, [*values, *inputs], shrink.bind, shrink.value)
        return jax.tree.unflatten(out_tree, results)

    kept_masks = structure.unflatten(kept_channels.astype(np.uint8))
    return CompactNetwork(
        params=structure.treedef.unflatten(small_leaves),
        widths={name: int(mask.sum()) for name, mask in kept_masks.items()},
        masks=kept_masks,
        _apply=apply,
    )


class _Shrink:
    """Evaluates steps at the sizes that are left.

    Args:
      table: atoms 1 to C are the structure's channels.
      keep: bool [C + 1]: which channels are kept, entry 0 being the True of fixed positions.
    """

    def __init__(self, table: AtomTable, keep: np.ndarray):
        self._table = table
        self._keep = keep

    def value(self, value: Any, axes: Axes) -> Any:
        """The kept positions of a value given whole."""
        return take(value, self._kept(axes))

    def bind(self, step: Step, operands: list[Any]) -> list[Any]:
        kept_inputs = [self._kept(axes) for axes in step.inputs]
        kept_outputs = [self._kept(axes) for axes in step.outputs]
        if step.body is not None and step.eqn.primitive.name not in SHAPELESS:
            if all(self._whole(inner) for inner in step.body.walk()):
                return bind(step.eqn, operands)
            return call(self._table, step, operands, self.bind, self.value)
        rule = RULES.get(step.eqn.primitive.name)
        if self._whole(step) or rule is None or rule.shrink is None:
            return bind(step.eqn, operands)
        return rule.shrink(step.eqn, operands, kept_inputs, kept_outputs)

    def _kept(self, axes: Axes) -> Kept:
        channels = (self._table.find(axis) for axis in axes)
        return tuple(self._keep[np.where(c < len(self._keep), c, 0)] for c in channels)

    def _whole(self, step: Step) -> bool:
        return all(
            keep.all() for axes in (*step.inputs, *step.outputs) for keep in self._kept(axes)
        )


def _kept_channels(structure: Structure, masks: Masks) -> np.ndarray:
    """Which channels the masks keep: bool [num_channels]."""
    structure.check_masks(masks)
    if any(isinstance(mask, jax.core.Tracer) for mask in masks.values()):
        raise ValueError("compact needs concrete masks: shapes depend on them; call it outside jit")
    for group in structure.groups:
        mask = np.asarray(masks[group.name])
        if mask.shape != (group.size,):
            raise ValueError(
                f"the mask of group '{group.name}' has shape {mask.shape} instead of "
                f"({group.size},); compact one candidate at a time"
            )
        if not np.isin(mask, (0, 1)).all():
            raise ValueError(
                f"the mask of group '{group.name}' holds values other than 0 and 1; round it first"
            )
        if not mask.any():
            raise ValueError(
                f"the mask of group '{group.name}' is empty; keep at least one channel"
            )
    return structure.flatten({name: np.asarray(mask) for name, mask in masks.items()}).astype(bool)
