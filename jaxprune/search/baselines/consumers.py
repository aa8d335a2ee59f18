"""The weights that leave a channel: those by which the next layers read it.

A group of weights in the sense of group sparsity. Multiplying all of them by a number is the same
as multiplying what the channel hands on, and without them a channel is gone.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxprune.dependency import Structure
from jaxprune.importance import reading_axes
from jaxprune.importance.positions import add_to_channels


def totals(structure: Structure, params: Any) -> Array:
    """The sum of the numbers that leave each channel.

    Args:
        structure: the network's channels.
        params: a tree like the parameters, such as their absolute values.

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
    """A number for each channel, at the weights that leave it.

    Args:
        structure: the network's channels.
        params: the parameters, whose tree and shapes are taken.
        values: `[N]`. A position that is kept only with several channels gets their product.
        default: for all other weights.

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
