"""How sparse parameters are: exact zeros and empty groups."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune.optim.common import PyTree, check_axis, check_params


class Sparsity(NamedTuple):
    """Exact zeros of a pytree. ``zeros`` and ``zero_groups`` are like the pytree, int32 scalars."""

    zeros: PyTree  # number of entries that are exactly zero, leaf by leaf
    zero_groups: PyTree  # number of groups whose entries are all exactly zero, leaf by leaf
    fraction: jax.Array  # shape=(), dtype=float32, in [0, 1]; zero entries of all entries
    group_fraction: jax.Array  # shape=(), dtype=float32, in [0, 1]; zero groups of all groups


def sparsity(params: PyTree, axis: int | Sequence[int] | None = None) -> Sparsity:
    """Counts exact zeros and groups of zeros.

    Args:
      params: pytree of arrays; None leaves count nothing.
      axis: axis or axes that a group extends over, as in :func:`jaxprune.optim.prox.group_l2`. None
        for all axes but the last: in the layout of Flax and Haiku a group is then all that enters
        one output channel, and every entry of a vector is a group of its own.

    Returns:
      A :class:`Sparsity`.

    Raises:
      ValueError: a leaf lacks an axis.
    """

    def group_axes(leaf):
        if axis is None:
            return tuple(range(leaf.ndim - 1))
        return check_axis("sparsity", axis, leaf.shape)

    def count(array):
        return jnp.sum(array, dtype=jnp.int32)

    params = jax.tree.map(jnp.asarray, params)
    zeros = jax.tree.map(lambda leaf: count(leaf == 0), params)
    empty = jax.tree.map(lambda leaf: jnp.all(leaf == 0, group_axes(leaf)), params)
    return Sparsity(
        zeros=zeros,
        zero_groups=jax.tree.map(count, empty),
        fraction=_share(zeros, params),
        group_fraction=_share(jax.tree.map(count, empty), empty),
    )


def observe_sparsity(axis: int | Sequence[int] | None = None) -> optax.GradientTransformation:
    """Passes updates through; its state is the :class:`Sparsity` of the updated parameters.

    Put it after :func:`proximal` at the end of a chain, and read the last entry of the chain's
    state.

    Args:
      axis: as in :func:`sparsity`.

    Returns:
      A gradient transformation.

    Raises:
      ValueError: a leaf lacks an axis, or (in ``update``) the parameters are missing.
    """

    def init_fn(params):
        return sparsity(params, axis)

    def update_fn(updates, state, params=None):
        del state
        check_params(params)
        return updates, sparsity(optax.apply_updates(params, updates), axis)

    return optax.GradientTransformation(init_fn, update_fn)


def _share(counts: PyTree, arrays: PyTree) -> jax.Array:
    """Sum of counts over the number of entries, in float32; 0 for an empty tree."""
    entries = sum(leaf.size for leaf in jax.tree.leaves(arrays))
    found = sum((c.astype(jnp.float32) for c in jax.tree.leaves(counts)), jnp.zeros(()))
    return found / max(entries, 1)
