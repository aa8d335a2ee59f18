"""Compaction: slicing parameters, and evaluating a function at the smaller shapes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jaxprune.dependency.atoms import AtomTable, Axes
from jaxprune.dependency.concrete import fetch, is_concrete, put
from jaxprune.dependency.groups import Masks, Structure, check_structure
from jaxprune.dependency.joints import slots
from jaxprune.dependency.masking import signature
from jaxprune.dependency.program import Step, call, evaluate
from jaxprune.dependency.rules import RULES, Kept, bind, take
from jaxprune.dependency.trace import analyse_call


@dataclass(frozen=True, eq=False)
class CompactNetwork:
    """A function without its removed channels, in parameters as in arithmetic.

    It is a plain JAX function: `jit`, differentiate, `vmap`, fine-tune or export it, or trace it
    again.
    Called with arrays, outside of any transformation, it compiles itself as under `jit`.

    Attributes:
      params: the smaller parameters, in the tree of the original ones.
      widths: {group: how many channels are left}.
      masks: {group: uint8 [size]}, which of the original channels were kept.
    """

    params: Any = field(repr=False)
    widths: Mapping[str, int]
    masks: Mapping[str, np.ndarray] = field(repr=False)
    _apply: Callable[..., Any] = field(repr=False)
    _compiled: Callable[..., Any] = field(repr=False)

    def __call__(self, params: Any, *arguments: Any) -> Any:
        """What the original function returns with the removed channels masked."""
        # Operation by operation, a call would compile hundreds of small programs.
        fn = self._compiled if is_concrete((params, arguments)) else self._apply
        return fn(params, *arguments)


def compact(
    fn: Callable[..., Any], structure: Structure, params: Any, masks: Masks
) -> CompactNetwork:
    """Removes the masked channels from a function of the structure's parameters.

    Every parameter is sliced to the kept channels, and the function's equations are evaluated at
    the smaller shapes. The result equals that of `masked` up to the order of floating-point sums.

    Args:
      fn: any function `fn(params, *arguments)` of the parameters: the network, its training mode, a
        loss, a training step. It is traced on the first call with arguments of new shapes.
      structure: what `trace` returned.
      params: the dense parameters.
      masks: {group: [size]} of 0 and 1; concrete values, every group with at least one 1.

    Returns:
      The compact network. It takes the same arguments as `fn`, whole inputs included: removed
      input features are dropped inside.

    Raises:
      ValueError: masks or params do not fit the structure, a mask holds values other than 0 and 1,
        or a group would be emptied.
      TypeError: `structure` is not a structure.
    """
    check_structure(structure)
    kept_channels = _kept_channels(structure, masks)
    leaves = structure.check_params(params)
    keep = structure.expand(kept_channels)
    kept_leaves = [tuple(keep[axis + 1] for axis in axes) for axes in structure.channels]
    small_leaves = _smaller(leaves, kept_leaves)
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
        shrink = _Shrunk(table, kept_channels)
        inputs = jax.tree.leaves(arguments)
        input_axes = program.inputs[len(values) :]
        inputs = [shrink.constant(x, axes) for x, axes in zip(inputs, input_axes, strict=True)]
        results = evaluate(program, [*values, *inputs], shrink)
        return jax.tree.unflatten(out_tree, results)

    kept_masks = structure.unflatten(kept_channels.astype(np.uint8))
    return CompactNetwork(
        params=structure.treedef.unflatten(small_leaves),
        widths={name: int(mask.sum()) for name, mask in kept_masks.items()},
        masks=kept_masks,
        _apply=apply,
        _compiled=jax.jit(apply),
    )


def _smaller(leaves: list[Any], kept_leaves: list[Kept]) -> list[Any]:
    """The kept positions of each leaf; those that stay whole are the same arrays as before."""
    small = list(leaves)
    cut = [i for i, kept in enumerate(kept_leaves) if not all(keep.all() for keep in kept)]
    for i, values in zip(cut, fetch([leaves[i] for i in cut]), strict=True):
        small[i] = put(take(values, kept_leaves[i]), leaves[i])
    return small


class _Shrunk:
    """Evaluates steps at the sizes that remain.

    Args:
      table: atoms 1 to C are the structure's channels.
      kept_channels: bool [C]: which channels are kept.
    """

    def __init__(self, table: AtomTable, kept_channels: np.ndarray):
        self.table = table
        self._first = np.concatenate([[True], kept_channels])
        self._whole_keep: tuple[Any, np.ndarray] | None = None  # the slots it is for

    @property
    def masks(self) -> Any:
        """None: what is kept is known, and the evaluation depends on no array."""
        return ()

    def given(self, masks: Any) -> "_Shrunk":
        """The same."""
        return self

    def constant(self, value: Any, axes: Axes) -> Any:
        """The kept positions of a captured constant."""
        return take(value, self._kept(axes))

    def clear(self, value: Any, axes: Axes) -> Any:
        """The value: there are no removed positions."""
        return value

    def bind(self, step: Step, operands: list[Any]) -> list[Any]:
        """Evaluates one step."""
        if step.bodies:
            inside = (inner for body in step.bodies for inner, _ in body.walk())
            if all(map(self._whole, (step, *inside))):
                return bind(step.eqn, operands)
            return call(step, operands, self)
        rule = RULES.get(step.name)
        if self._whole(step) or rule is None or rule.shrink is None:
            results = bind(step.eqn, operands)
        else:
            kept_inputs = [self._kept(axes) for axes in step.inputs]
            kept_outputs = [self._kept(axes) for axes in step.outputs]
            results = rule.shrink(step.eqn, operands, kept_inputs, kept_outputs)
        for axis in step.rescale:
            (kept,) = self._kept((axis,))
            if not kept.all():
                results[0] = results[0] * np.asarray(len(kept) / kept.sum(), results[0].dtype)
        return results

    def _kept(self, axes: Axes) -> Kept:
        known = slots(self.table)
        if self._whole_keep is None or self._whole_keep[0] is not known:
            self._whole_keep = known, known.extend(self._first, np)
        keep = self._whole_keep[1]
        return tuple(keep[known.of_root[self.table.find(axis)]] for axis in axes)

    def _whole(self, step: Step) -> bool:
        """Whether a step loses no positions."""
        axes = (*step.inputs, *step.outputs, step.rescale)
        return all(keep.all() for each in axes for keep in self._kept(each))


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
