"""Importance of a channel's weights together with those before and behind them."""

from typing import Any

import numpy as np
from jax import Array

from jaxprune.dependency import Structure
from jaxprune.dependency.concrete import fetch, namespace, put
from jaxprune.importance.positions import add_to_channels, members_of
from jaxprune.importance.weights import over_producers, producing_kernels, reading_axes


def lookahead(structure: Structure, params: Any) -> Array:
    """The distortion of three layers in a row when a channel's weights become zero.

    Lookahead pruning (Park, Lee, Mo and Shin, ICLR 2020, arXiv 2002.04809, eq. 4) gives the weight
    `w` from input j to output k of a layer the Frobenius norm by which the product of the layer's
    matrix with that before and that behind it changes without the weight,
    `|w| ||W_before[j]|| ||W_behind[:, k]||`. A channel has the root of the sum of the squares over
    the weights that produce it, which is the distortion when the weights go one at a time, taken
    for orthogonal.

    `||W_before[j]||` is the norm of all weights that produce channel j, 1 where no layer does or
    where it cannot be removed alone; `||W_behind[:, k]||` is that of all weights that read channel
    k, 1 where none does. So first and last layers have identities beside them, as in the paper.

    Coupled layers and several readers: all that produce, or read, a channel count as one layer.

    Departures: channels instead of single weights; for a convolution the norm of its kernel stands
    for that of its matrix, as in the paper's code; the factors of BatchNorm do not count.

    Args:
      structure: what `trace` returned.
      params: the parameters.

    Returns:
      float32 [num_channels], at least 0.

    Raises:
      ValueError: the params do not fit the structure.
    """
    squares = [kernel**2 for kernel in producing_kernels(structure, params)]
    xp = namespace(squares)
    produced = np.zeros(structure.num_channels, bool)
    for leaf, axis in structure.producers:
        produced[members_of(structure, structure.channels[leaf][axis])[0]] = True
    before = xp.where(produced, over_producers(structure, squares), 1.0)
    distorted = over_producers(structure, _times_inputs(structure, squares, before))
    behind, read = _behind(structure, params)
    return put(
        xp.sqrt(xp.where(produced, distorted, 1.0) * xp.where(read, behind, 1.0)).astype(np.float32)
    )


def _times_inputs(structure: Structure, squares: list[Any], before: Any) -> list[Any]:
    """The squared weights times the squared norms of what produces the channels they read."""
    xp = namespace(squares)
    known = xp.concatenate([before, xp.ones(1, np.float32)])
    producing = set(structure.producers)
    found = []
    for (leaf, _), square in zip(structure.producers, squares, strict=True):
        for axis, channels in enumerate(structure.channels[leaf]):
            if (leaf, axis) in producing:
                continue
            alone = (channels >= 0) & (channels < structure.num_channels)
            line = known[np.where(alone, channels, structure.num_channels)]
            square = square * line.reshape([-1 if d == axis else 1 for d in range(square.ndim)])
        found.append(square)
    return found


def _behind(structure: Structure, params: Any) -> tuple[Any, np.ndarray]:
    """The sum of the squared weights that read each channel, and which channels have readers."""
    leaves = structure.check_params(params)
    places = reading_axes(structure)
    weights = fetch([leaves[leaf] for leaf, _ in places])
    xp = namespace(weights)
    total: Any = np.zeros(structure.num_channels, np.float32)
    read = np.zeros(structure.num_channels, bool)
    for (leaf, axis), kernel in zip(places, weights, strict=True):
        channels = structure.channels[leaf][axis]
        others = tuple(d for d in range(kernel.ndim) if d != axis)
        values = (xp.asarray(kernel, np.float32) ** 2).sum(others)
        total = total + add_to_channels(structure, channels, values)
        read[members_of(structure, channels)[0]] = True
    return total, read
