"""Tracing a function of parameters to find the structure of its channels."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxprune.dependency.atoms import FIXED, AtomTable, CouplingError, Reason, fixed_axis
from jaxprune.dependency.dtypes import dtype_of, is_inexact, is_key
from jaxprune.dependency.grouping import build_structure
from jaxprune.dependency.groups import Structure
from jaxprune.dependency.joints import settle
from jaxprune.dependency.layers import multiplied_integers
from jaxprune.dependency.likeness import places
from jaxprune.dependency.program import Program, analyse


def trace(
    apply: Callable[..., Any],
    params: Any,
    *inputs: Any,
    prune_inputs: bool = False,
    ignore: Sequence[str] = (),
    also: Sequence[Callable[..., Any]] = (),
) -> Structure:
    """Finds which channels of a network must be removed together.

    The function is traced once with abstract values, so nothing is computed. A channel may be
    removed if one layer (a convolution, a matrix product) produces it, another reads it, and every
    primitive in between has a rule; channels that meet any other primitive are frozen, and
    `structure.frozen` names the equation. The function's outputs stay whole, and so do its inputs.

    Args:
      apply: `apply(params, *inputs)` in inference mode. It should return predictions only, since
        whatever it returns cannot be pruned.
      params: any pytree of arrays or `jax.ShapeDtypeStruct`. If it is a mapping with an entry
        "params", as Flax's variables are, only that entry counts as parameters. Of integers only
        the kernels and embeddings count, as quantised networks have them; counters, tables of
        indices, masks and random keys may be there, too, and cost nothing.
      *inputs: example inputs, or `jax.ShapeDtypeStruct`s. The leading axis of the first array is
        the batch, scalars and typed keys aside: costs are per example.
      prune_inputs: whether features of the inputs may be removed. They then form groups of their
        own, named "input". Works for inputs whose features a matrix product or convolution reads.
      ignore: `fnmatch` patterns of layer paths whose channels must all stay.
      also: other functions `fn(params, *inputs)` that will be masked or compacted, such as the
        training mode. They are needed if they use parameters that `apply` does not, as those of
        Haiku's BatchNorm do: the channels of these parameters are known only through them.

    Returns:
      The structure. `print` shows it as a table.

    Raises:
      TypeError: an argument has the wrong type, or a leaf of `params` or `inputs` is not an array.
      ValueError: a pattern in `ignore` matches no layer, the inputs hold no example, or nothing
        that the function returns depends on the parameters.
    """
    _check_kinds(apply, ignore, also)
    leaves, treedef = jax.tree.flatten(params)
    names = places(params)
    leaves = [
        _abstract(leaf, f"parameter '{'/'.join(name)}'")
        for name, leaf in zip(names, leaves, strict=True)
    ]
    flax_like = any(name[:1] == ("params",) for name in names)
    paths = ["/".join(name[1:] if flax_like and len(name) > 1 else name) for name in names]
    input_leaves, inputs_tree = jax.tree.flatten(inputs)
    input_leaves = [_abstract(leaf, "an input") for leaf in input_leaves]
    arrays = [leaf for leaf in input_leaves if leaf.shape and not is_key(leaf.dtype)]
    batch = arrays[0].shape[0] if arrays else 1
    if batch == 0:
        raise ValueError(
            f"the inputs hold no example: their shape is {arrays[0].shape}; give at least one"
        )

    table = AtomTable()
    axes = [tuple(table.fresh(size) for size in leaf.shape) for leaf in leaves]
    for leaf in input_leaves:
        free = table.fresh if prune_inputs else fixed_axis
        batch_first = [fixed_axis(size) for size in leaf.shape[:1]]
        axes.append((*batch_first, *(free(size) for size in leaf.shape[1:])))
    program = _analyse(table, apply, treedef, leaves, inputs_tree, input_leaves, axes)
    _check_dependence(program, len(leaves))
    for axis in (axis for output in program.outputs for axis in output):
        table.freeze(axis[axis != FIXED], Reason("the function returns them", ""))
    multiplied = multiplied_integers(program)
    counted = [
        (name[:1] == ("params",) or not flax_like) and (is_inexact(leaf.dtype) or i in multiplied)
        for i, (name, leaf) in enumerate(zip(names, leaves, strict=True))
    ]
    for fn in also:
        _analyse(table, fn, treedef, leaves, inputs_tree, input_leaves, axes)
    return build_structure(
        table,
        program,
        treedef=treedef,
        leaves=leaves,
        paths=paths,
        counted=counted,
        inputs_tree=inputs_tree,
        inputs=input_leaves,
        batch=batch,
        ignore=ignore,
    )


def analyse_call(
    fn: Callable[..., Any], structure: Structure, params: Sequence[Any], arguments: Sequence[Any]
) -> tuple[AtomTable, Program, Any]:
    """Analyses another function of a structure's parameters, called with given arguments.

    The parameters bring the structure's channels in. Arguments of the same trees and ranks as the
    inputs that the structure was traced with bring theirs, if they can be such; other arguments,
    and those that turn out to carry channels, are free.

    Args:
      fn: `fn(params, *arguments)`.
      structure: the structure of its parameters.
      params: the leaves of the parameters it is called with. Only their dtypes matter: they may be
        of another precision than the traced ones.
      arguments: what follows the parameters, as arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      What was learned, the analysed program, and the tree of what `fn` returns. In the table,
      atoms 1 to `structure.num_channels` are the structure's channels.

    Raises:
      CouplingError: the function couples channels that are independent in the structure, or does
        something with them that no rule covers.
    """
    inputs = len(known_inputs(structure, arguments))
    try:
        return _analyse_call(fn, structure, params, arguments, inputs)
    except CouplingError as error:
        if inputs:
            with suppress(CouplingError):
                return _analyse_call(fn, structure, params, arguments, 0)
        raise CouplingError(
            f"{error}: the function ties channels to each other, or to positions that stay, which "
            "the structure holds to be free; trace the network with `also=[...]` this function"
        ) from None


def _analyse_call(
    fn: Callable[..., Any],
    structure: Structure,
    params: Sequence[Any],
    arguments: Sequence[Any],
    inputs: int,
) -> tuple[AtomTable, Program, Any]:
    """`analyse_call`, where the first `inputs` leaves are inputs, and the others are free."""
    table = AtomTable(structure.num_channels, structure.joints + 1)
    axes = [
        tuple(channels.astype(np.int64) + 1 for channels in leaf) for leaf in structure.channels
    ]
    leaves, tree = jax.tree.flatten(tuple(arguments))
    leaves = [_abstract(leaf, "an argument") for leaf in leaves]
    for position, leaf in enumerate(leaves):
        if position < inputs:
            axes.append(
                tuple(
                    channels.astype(np.int64) + 1
                    if d and len(channels) == size
                    else fixed_axis(size)
                    for d, (size, channels) in enumerate(
                        zip(leaf.shape, structure.input_channels[position], strict=True)
                    )
                )
            )
        else:
            axes.append(tuple(table.fresh(size) for size in leaf.shape))
    whole = [
        jax.ShapeDtypeStruct(shape, dtype_of(leaf))
        for shape, leaf in zip(structure.shapes, params, strict=True)
    ]
    out_tree: list[Any] = []
    program = _analyse(table, fn, structure.treedef, whole, tree, leaves, axes, out_tree)
    return table, program, out_tree[0]


def known_inputs(structure: Structure, arguments: Sequence[Any]) -> list[Any]:
    """The leading argument leaves, if they have the tree and ranks of the traced inputs."""
    width = len(structure.inputs_tree.unflatten([0] * len(structure.input_shapes)))
    leaves, tree = jax.tree.flatten(tuple(arguments[:width]))
    ranks = [len(shape) for shape in structure.input_shapes]
    if tree == structure.inputs_tree and [np.ndim(leaf) for leaf in leaves] == ranks:
        return leaves
    return []


def _analyse(table, fn, treedef, leaves, inputs_tree, inputs, axes, out_tree=None):
    def flat(*values):
        params = treedef.unflatten(values[: len(leaves)])
        result = fn(params, *inputs_tree.unflatten(values[len(leaves) :]))
        flat_result, tree = jax.tree.flatten(result)
        if out_tree is not None:
            out_tree.append(tree)
        return flat_result

    jaxpr = jax.make_jaxpr(flat)(*leaves, *inputs)
    origins = [*range(len(leaves)), *[None] * len(inputs)]
    program = analyse(table, jaxpr, axes, origins)
    settle(table)
    return program


def _check_dependence(program: Program, num_leaves: int) -> None:
    """Raises ValueError unless some output depends on some parameter."""
    dependent = set(program.jaxpr.invars[:num_leaves])
    for step in program.steps:
        if any(not isinstance(var, Literal) and var in dependent for var in step.eqn.invars):
            dependent.update(step.eqn.outvars)
    outputs = [var for var in program.jaxpr.outvars if not isinstance(var, Literal)]
    if not dependent.intersection(outputs):
        raise ValueError(
            "the function returns nothing that depends on its parameters: trace a function "
            "apply(params, *inputs) that returns the network's predictions"
        )


def _check_kinds(apply: Any, ignore: Any, also: Any) -> None:
    """Raises TypeError if an argument of `trace` has the wrong type."""
    if not callable(apply) or hasattr(apply, "apply"):
        method = ", which its attribute `apply` may be" if hasattr(apply, "apply") else ""
        raise TypeError(
            f"apply is of type {type(apply).__name__}, not a function apply(params, *inputs)"
            f"{method}; the order is trace(apply, params, *inputs)"
        )
    if isinstance(ignore, str):
        raise TypeError(f"ignore is a string; give a list of patterns: ignore=[{ignore!r}]")
    if callable(also):
        raise TypeError("also is a function; give a list of them: also=[fn]")


def _abstract(leaf: Any, name: str) -> jax.ShapeDtypeStruct:
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    try:
        return jax.eval_shape(jnp.asarray, leaf)
    except TypeError as error:
        raise TypeError(
            f"{name} is of type {type(leaf).__name__}, no array; close over it, as jaxprune's "
            "adapters (from_linen, from_nnx, from_equinox, from_haiku) do"
        ) from error
