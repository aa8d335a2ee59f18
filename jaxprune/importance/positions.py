"""From the positions of a parameter axis to the channels they belong to."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune.dependency import Structure


def members(
    axis_channels: np.ndarray, num_channels: int, joints: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which position of an axis belongs to which channel, by channel and then by position.

    A position of a joint, one that is kept only with several channels (a head and a feature of a
    head), belongs to each of them.

    Args:
      axis_channels: int [size]: the channel of each position, a joint, or -1.
      num_channels: how many channels there are; from here on an id is a joint's.
      joints: int [J, 2]: the two factors of each joint, each a channel or an earlier joint.

    Returns:
      channels, positions: int [M] each, one entry for every pair.
    """
    positions = np.flatnonzero(axis_channels >= 0)
    ids = axis_channels[positions]
    while (ids >= num_channels).any():
        joint = ids >= num_channels
        factors = joints[ids[joint] - num_channels]
        positions = np.concatenate([positions[~joint], np.repeat(positions[joint], 2)])
        ids = np.concatenate([ids[~joint], factors.reshape(-1)])
    pairs = np.unique(np.stack([ids, positions], axis=1), axis=0)
    return pairs[:, 0], pairs[:, 1]


def members_of(structure: Structure, axis_channels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`members` of an axis of the structure's parameters."""
    return members(axis_channels, structure.num_channels, structure.joints)


def add_to_channels(structure: Structure, axis_channels: np.ndarray, values: Any) -> Any:
    """The sum of the values at each channel's positions.

    Args:
      structure: what `trace` returned.
      axis_channels: int [size], one of `structure.channels[leaf]`.
      values: [size], a numpy or JAX array.

    Returns:
      [num_channels], of the same kind; a position that belongs to several channels counts for each.
    """
    channels, positions = members_of(structure, axis_channels)
    return sums_at(channels, values[positions], structure.num_channels)


def sums_at(index: np.ndarray, values: Any, size: int) -> Any:
    """The sum of the values [M] that share an index [M]: [size], numpy's if the values are."""
    if isinstance(values, np.ndarray):
        return np.bincount(index, values, size).astype(values.dtype)
    return jnp.zeros(size, values.dtype).at[index].add(values)
