"""Weights that make up for removed channels, by least squares."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.dependency import Masks, Structure
from jaxprune.dependency.dtypes import wide
from jaxprune.importance.positions import members_of
from jaxprune.importance.reconstruction import read_together
from jaxprune.importance.weights import reading_axes


def compensate(
    apply: Callable[..., Any],
    structure: Structure,
    params: Any,
    masks: Masks,
    x: Any,
    *,
    damping: float = 0.01,
    chunk: int = 256,
) -> Any:
    """The parameters with which the layers do best without the removed channels.

    ::

        structure = jaxprune.trace(apply, params, x)
        adjusted = jaxprune.compensate(apply, structure, params, masks, x)
        small = jaxprune.compact(apply, structure, adjusted, masks)

    Each removed channel is approximated by a linear combination of the channels of its group that
    are kept, by least squares over the examples, and the weights that read it are added to theirs
    in these proportions. This is the weight update of Optimal Brain Surgeon (Hassibi and Stork,
    NeurIPS 1992) for whole channels; He, Zhang and Sun (ICCV 2017, arXiv 1707.06168, sec. 3.1)
    solve for the weights of a layer in the same way. Nothing is trained, no labels are needed.

    Departures: activations are those of the dense network, also behind layers that have changed.
    Those that several layers read are approximated once for all of them, those in a window place by
    place. BatchNorm's running statistics stay as they are: fine-tune, or estimate them anew.

    Args:
      apply: `apply(params, x)`, in inference mode.
      structure: what `trace` returned.
      params: the dense parameters.
      masks: {group: [size]}, 1 = keep, 0 = remove.
      x: the examples, any tree of arrays [B, ...]; a few times as many places as channels.
      damping: what is added to all squares, as a part of their mean. Above 0; more moves less.
      chunk: how many examples are looked at at once. What is left over at the end is not looked at.

    Returns:
      A tree like `params`. Weights that read removed channels are zero. Groups that stay whole, and
      those whose activations are never seen alone (attention's heads and features), change nothing.

    Raises:
      ValueError: params or masks do not fit the structure, or damping is not above 0.
    """
    if not damping > 0:
        raise ValueError(f"damping is {damping}, but must be above 0")
    structure.check_masks(masks)
    leaves = structure.check_params(params)
    treedef = jax.tree.structure(params)
    moments = read_together(structure, apply, params, x, centred=False, chunk=chunk)
    end = 0
    for group, products in zip(structure.groups, moments, strict=True):
        end += group.size
        keep = np.asarray(masks[group.name]) > 0
        if keep.all() or not float(jnp.trace(products)) > 0:
            continue
        spread = _proportions(products, keep, damping)
        for leaf, axis in reading_axes(structure):
            channels, positions = members_of(structure, structure.channels[leaf][axis])
            inside = positions[(channels >= end - group.size) & (channels < end)]
            if len(inside) and len(inside) % group.size == 0:
                places = inside.reshape(group.size, -1)
                rows = jnp.moveaxis(jnp.asarray(leaves[leaf]), axis, 0)
                read = rows[places].astype(wide(rows.dtype))
                moved = jnp.tensordot(spread, read, 1, precision=jax.lax.Precision.HIGHEST)
                rows = rows.at[places].set(_rounded(moved, rows.dtype))
                leaves[leaf] = jnp.moveaxis(rows, 0, axis)
    return jax.tree.unflatten(treedef, leaves)


def _rounded(values: Array, dtype: Any) -> Array:
    """The values in a type, which may be one of integers: then the nearest that there are."""
    if jnp.issubdtype(dtype, jnp.integer):
        values = jnp.clip(jnp.round(values), jnp.iinfo(dtype).min, jnp.iinfo(dtype).max)
    return values.astype(dtype)


def _proportions(products: Array, keep: np.ndarray, damping: float) -> Array:
    """What each kept channel takes over of every channel, [n, n]; the other rows are zero."""
    kept = np.flatnonzero(keep)
    known = products[np.ix_(kept, kept)]
    known += damping * jnp.trace(known) / len(kept) * jnp.eye(len(kept))
    lost = np.flatnonzero(~keep)
    taken = jnp.linalg.solve(known, products[np.ix_(kept, lost)])
    spread = jnp.zeros_like(products).at[kept, kept].set(1.0)
    return spread.at[np.ix_(kept, lost)].set(taken)
