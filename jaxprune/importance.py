"""How much each channel matters: one non-negative score per channel, larger meaning keep."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxprune.dependency import Structure


def l1(structure: Structure, params: Any) -> Array:
    """The L1 norm of the weights that produce a channel (Li et al. 2017, arXiv 1608.08710, sec. 3).

    Channels which several layers produce together get the sum over those layers. Biases and
    normalisation do not count.

    Args:
      structure: what `trace` returned.
      params: the dense parameters.

    Returns:
      float32 [num_channels].

    Raises:
      ValueError: the params do not fit the structure.
    """
    return _over_producers(structure, params, jnp.abs)


def l2(structure: Structure, params: Any) -> Array:
    """The L2 norm of the weights that produce a channel, all its layers taken as one vector.

    Args and Returns as for `l1`.
    """
    return jnp.sqrt(_over_producers(structure, params, jnp.square))


def random(structure: Structure, key: Array) -> Array:
    """Independent uniform scores in [0, 1): float32 [num_channels]."""
    return jax.random.uniform(key, (structure.num_channels,))


def _over_producers(structure: Structure, params: Any, transform: Any) -> Array:
    leaves = structure.check_params(params)
    scores = jnp.zeros(structure.num_channels)
    for leaf, axis in structure.producers:
        channels = structure.channels[leaf][axis]
        weights = transform(jnp.asarray(leaves[leaf], jnp.float32))
        per_channel = weights.sum([d for d in range(weights.ndim) if d != axis])
        inside = channels >= 0
        scores = scores.at[channels[inside]].add(per_channel[inside])
    return scores
