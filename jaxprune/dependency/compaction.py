"""Compaction: evaluating a function of sliced parameters at the smaller shapes."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune.dependency.arguments import by_likeness, guesses, like_earlier
from jaxprune.dependency.atoms import AtomTable, Axes, CouplingError
from jaxprune.dependency.concrete import is_concrete
from jaxprune.dependency.dtypes import dtype_of
from jaxprune.dependency.groups import Masks, Structure, check_structure
from jaxprune.dependency.joints import slots
from jaxprune.dependency.likeness import Shape
from jaxprune.dependency.masking import rescale, signature
from jaxprune.dependency.program import Program, Step, call, evaluate
from jaxprune.dependency.rules import RULES, Kept, bind, take
from jaxprune.dependency.rules.base import sizes
from jaxprune.dependency.shrinking import kept_channels, smaller
from jaxprune.dependency.trace import analyse_call

_OTHER_PARAMS = (
    "params are not those of this compact network; pass its `params` or what training made of them"
)

_FULL_SIZE_FIRST = (
    "If an argument has the small size of what it carries: the compact function knows it once it "
    "was called, or traced by jax.eval_shape, with arguments of full size."
)


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

    def with_params(self, params: Any) -> "CompactNetwork":
        """The same network with other parameters, such as fine-tuned ones, to be saved.

        Raises:
          ValueError: they have another tree or other shapes.
        """
        given, own = (
            (jax.tree.structure(tree), list(map(np.shape, jax.tree.leaves(tree))))
            for tree in (params, self.params)
        )
        if given != own:
            raise ValueError(_OTHER_PARAMS)
        return replace(self, params=params)


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
      input features are dropped inside. Arguments that carry channels (an optimizer's state, a
      cache, a latent) are taken at their full or at their small size, and returned small. Its
      parameters share no memory with `params`, so that either may be donated.

    Raises:
      ValueError: masks or params do not fit the structure, a mask holds values other than 0 and 1,
        or a group would be emptied.
      TypeError: `structure` is not a structure.
    """
    check_structure(structure)
    chosen = kept_channels(structure, masks)
    leaves = structure.check_params(params)
    keep = structure.expand(chosen)
    kept_leaves = [tuple(keep[axis + 1] for axis in axes) for axes in structure.channels]
    small_leaves = smaller(leaves, kept_leaves)
    small_shapes = [sizes(kept) for kept in kept_leaves]
    analysed: dict[Any, _Analysed] = {}

    def apply(small_params: Any, *arguments: Any) -> Any:
        values, treedef = jax.tree.flatten(small_params)
        if treedef != structure.treedef or [np.shape(v) for v in values] != small_shapes:
            raise ValueError(_OTHER_PARAMS)
        key = signature((values, arguments))
        if key not in analysed:
            earlier = [found for (tree, _), found in analysed.items() if tree == key[0]]
            known = by_likeness(structure, keep, small_shapes, arguments)
            analysed[key] = _analysed(fn, structure, chosen, values, arguments, known, earlier)
        found = analysed[key]
        inputs = map(_kept_part, jax.tree.leaves(arguments), found.kept())
        results = evaluate(found.program, [*values, *inputs], found.shrunk)
        return jax.tree.unflatten(found.out_tree, results)

    kept_masks = structure.unflatten(chosen.astype(np.uint8))
    return CompactNetwork(
        params=structure.treedef.unflatten(small_leaves),
        widths={name: int(mask.sum()) for name, mask in kept_masks.items()},
        masks=kept_masks,
        _apply=apply,
        _compiled=jax.jit(apply),
    )


class _Analysed(NamedTuple):
    """A call of the function with arguments of certain shapes.

    Attributes:
      program: the analysed function.
      out_tree: the tree of what it returns.
      shrunk: evaluates it.
      arguments: the atoms of the arguments, at their full sizes.
    """

    program: Program
    out_tree: Any
    shrunk: "_Shrunk"
    arguments: Sequence[Axes]

    def kept(self) -> list[Kept]:
        """For each argument and axis, which positions are kept: bool [full size]."""
        return list(map(self.shrunk.kept, self.arguments))


def _analysed(
    fn: Callable[..., Any],
    structure: Structure,
    chosen: np.ndarray,
    values: Sequence[Any],
    arguments: Any,
    known: list[Shape],
    earlier: Sequence[_Analysed],
) -> _Analysed:
    """Analyses the function for arguments of which some may be small.

    Args:
      fn: the function.
      structure: the structure of its parameters.
      chosen: bool [num_channels]: the channels that are kept.
      values: the leaves of the small parameters.
      arguments: what follows them.
      known: the full shapes of the arguments, as far as `by_likeness` knows them.
      earlier: calls with arguments of the same tree.
    """
    leaves: list[Any] = jax.tree.leaves(arguments)
    tree: Any = jax.tree.structure(arguments)
    given = [np.shape(leaf) for leaf in leaves]

    def attempt(shapes: list[Shape]) -> _Analysed | None:
        full = [
            leaf if np.shape(leaf) == shape else jax.ShapeDtypeStruct(shape, dtype_of(leaf))
            for leaf, shape in zip(leaves, shapes, strict=True)
        ]
        table, program, out_tree = analyse_call(fn, structure, values, tree.unflatten(full))
        found = _Analysed(program, out_tree, _Shrunk(table, chosen), program.inputs[len(values) :])
        fitting = all(
            size in (len(each), each.sum())
            for shape, axes in zip(given, found.kept(), strict=True)
            for size, each in zip(shape, axes, strict=True)
        )
        return found if fitting else None

    like = [like_earlier(given, call.kept()) for call in reversed(earlier)]
    likely = [shapes for shapes in (known, *like) if shapes is not None and shapes != given]
    for shapes in likely:
        with suppress(Exception):
            if found := attempt(shapes):
                return found
    try:
        as_given = attempt(given)
        assert as_given is not None
        return as_given
    except CouplingError:
        raise
    except Exception as error:
        guessed = list(guesses(structure, structure.expand(chosen), arguments))
        for shapes in guessed:
            with suppress(Exception):
                if found := attempt(shapes):
                    return found
        if guessed:
            error.add_note(_FULL_SIZE_FIRST)
        raise


class _Shrunk:
    """Evaluates steps at the sizes that remain.

    Args:
      table: atoms 1 to C are the structure's channels.
      chosen: bool [C]: which channels are kept.
    """

    def __init__(self, table: AtomTable, chosen: np.ndarray):
        self.table = table
        self._first = np.concatenate([[True], chosen])
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
        return take(value, self.kept(axes))

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
            kept_inputs = [self.kept(axes) for axes in step.inputs]
            kept_outputs = [self.kept(axes) for axes in step.outputs]
            results = rule.shrink(step.eqn, operands, kept_inputs, kept_outputs)
        for axis in step.rescale:
            (kept,) = self.kept((axis,))
            if not kept.all():
                results[0] = rescale(results[0], len(kept), kept)
        return results

    def kept(self, axes: Axes) -> Kept:
        """Which positions of each axis are kept."""
        known = slots(self.table)
        if self._whole_keep is None or self._whole_keep[0] is not known:
            self._whole_keep = known, known.extend(self._first, np)
        keep = self._whole_keep[1]
        return tuple(keep[known.of_root[self.table.find(axis)]] for axis in axes)

    def _whole(self, step: Step) -> bool:
        """Whether a step loses no positions."""
        axes = (*step.inputs, *step.outputs, step.rescale)
        return all(keep.all() for each in axes for keep in self.kept(each))


def _kept_part(value: Any, kept: Kept) -> Any:
    """The kept positions of an argument, along those axes that are not small already."""
    shape = np.shape(value)
    left = [k if len(k) == n else np.ones(n, bool) for k, n in zip(kept, shape, strict=True)]
    return take(value, tuple(left))
