"""Slicing trees of arrays to the channels that are kept."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxprune.dependency.concrete import copied, fetch_readable, put
from jaxprune.dependency.groups import Masks, Structure, check_structure
from jaxprune.dependency.likeness import counterparts
from jaxprune.dependency.rules import Kept, take
from jaxprune.dependency.rules.base import sizes
from jaxprune.errors import UserError


def shrink(structure: Structure, masks: Masks, tree: Any) -> Any:
    """Makes any tree small that is shaped like the parameters, or holds trees that are.

    ::

        small = jaxprune.prune(apply, params, x)
        structure = jaxprune.trace(apply, params, x)
        state = jaxprune.shrink(structure, small.masks, state)  # of optax.adam, say
        average = jaxprune.shrink(structure, small.masks, average)

    Leaves are told by their place and shape: each branch of the tree that has the places of the
    parameters, or of a branch of theirs, is cut as the parameters are. Leaves may have further axes
    in front, such as a memory of several steps, or lack some, such as factored second moments.
    Other leaves (counters, learning rates) stay as they are.

    Args:
      structure: what `trace` returned.
      masks: {group: [size]} of 0 and 1; concrete values, every group with at least one 1.
      tree: any tree of arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      The same tree with small leaves. No array shares memory with those that were given.

    Raises:
      ValueError: the masks do not fit the structure.
      UserError: nothing in the tree has places and shapes of the parameters, arrays in their places
        have other shapes, or it cannot be told which parameter one belongs to.
      TypeError: `structure` is not a structure.
    """
    check_structure(structure)
    keep = structure.expand(kept_channels(structure, masks))
    leaves = jax.tree.leaves(tree)
    found = counterparts(structure, tree, structure.shapes, strict=True)
    if not any(found) and any(map(np.ndim, leaves)):
        raise UserError(
            "shrink found nothing like the parameters in the tree: its branches have other places "
            f"or shapes than {list(structure.paths[:3])} and so on"
        )
    kept = []
    for counterpart, leaf in zip(found, leaves, strict=True):
        whole = tuple(np.ones(size, bool) for size in np.shape(leaf))
        if counterpart is not None:
            axes = structure.channels[counterpart.parameter]
            whole = tuple(
                every if d is None else keep[axes[d] + 1]
                for every, d in zip(whole, counterpart.axes, strict=True)
            )
        kept.append(whole)
    return jax.tree.unflatten(jax.tree.structure(tree), smaller(leaves, kept))


def smaller(leaves: list[Any], kept_leaves: Sequence[Kept]) -> list[Any]:
    """The kept positions of each leaf, in memory of its own."""
    values = fetch_readable(leaves)
    return [_own(*each) for each in zip(values, leaves, kept_leaves, strict=True)]


def _own(value: Any, leaf: Any, kept: Kept) -> Any:
    """The kept positions of a leaf, which numpy has as `value` if it can read it."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(sizes(kept), leaf.dtype)
    if all(keep.all() for keep in kept):
        return copied(value, leaf)
    return put(take(value, kept), leaf)


def kept_channels(structure: Structure, masks: Masks) -> np.ndarray:
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
