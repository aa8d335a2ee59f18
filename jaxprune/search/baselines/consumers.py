"""The weights that leave a channel: those with which the next layers read it.

They are a group in the sense of group sparsity: scaling all of them scales what the channel passes
on, and when they are zero the channel is gone.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxprune.dependency import Structure
from jaxprune.importance import reading_axes
from jaxprune.importance.positions import add_to_channels


def totals(structure: Structure, params: Any) -> Array:
    """Sums over the weights that leave each channel.

    Args:
        structure: the network's channels.
        params: what to sum, a tree like the parameters, such as their absolute values.

    Returns:
        `[N]`; 0 for a channel that no kernel reads.
    """
    leaves = jax.tree.leaves(params)
    found = jnp.zeros(structure.num_channels)
    for leaf, axis in reading_axes(structure):
        others = [other for other in range(leaves[leaf].ndim) if other != axis]
        values = leaves[leaf].astype(jnp.float32).sum(others)
        found += add_to_channels(structure, structure.channels[leaf][axis], values)
    return found


def spread(structure: Structure, params: Any, values: Array, *, default: float) -> Any:
    """Puts a number for each channel at the weights that leave it.

    Args:
        structure: the network's channels.
        params: the parameters; only their tree and shapes matter.
        values: `[N]`. A position that needs several channels gets their product.
        default: the number for all other weights.

    Returns:
        A tree like the parameters. Its leaves are numbers, or arrays that broadcast against the
        parameters.
    """
    leaves, treedef = jax.tree.flatten(params)
    expanded = structure.expand(values)
    found: list[Any] = [default] * len(leaves)
    for leaf, axis in reading_axes(structure):
        channels = structure.channels[leaf][axis]
        line = jnp.where(channels >= 0, expanded[channels + 1], default)
        found[leaf] = line.reshape(
            [-1 if other == axis else 1 for other in range(leaves[leaf].ndim)]
        )
    return jax.tree.unflatten(treedef, found)


def scale(structure: Structure, params: Any, factors: Array) -> Any:
    """The parameters with the weights that leave each channel multiplied by its factor `[N]`."""
    factors = spread(structure, params, factors, default=1.0)
    return jax.tree.map(lambda leaf, factor: (leaf * factor).astype(leaf.dtype), params, factors)
