"""Importance that the parameters alone tell."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.dependency import Structure
from jaxprune.errors import UserError
from jaxprune.importance.positions import add_to_channels, members_of

_SCALES = ("scale", "gamma", "weight")
"""What libraries call the factor of a normalisation: Flax and Haiku, Keras, PyTorch and Equinox."""


def l1(structure: Structure, params: Any) -> Array:
    """The L1 norm of the weights that produce a channel (Li et al. 2017, arXiv 1608.08710, sec. 3).

    Coupled layers: channels which several layers produce together get the sum over those layers,
    which is the norm of all their weights as one vector. Biases and normalisation do not count.

    Input features, which no layer produces, get the norm of the weights that read them.

    Args:
      structure: what `trace` returned.
      params: the dense parameters.

    Returns:
      float32 [num_channels], at least 0.

    Raises:
      ValueError: the params do not fit the structure.
    """
    scores = over_producers(structure, [jnp.abs(k) for k in producing_kernels(structure, params)])
    leaves = structure.check_params(params)
    for leaf, axis in _readers_of_inputs(structure):
        weights = jnp.abs(_float32(leaves[leaf]))
        read = weights.sum([d for d in range(weights.ndim) if d != axis])
        scores += add_to_channels(structure, structure.channels[leaf][axis], read)
    return scores


def l2(structure: Structure, params: Any) -> Array:
    """The L2 norm of the weights that produce a channel, all its layers taken as one vector.

    Args and Returns as for `l1`.
    """
    return jnp.sqrt(_energy(structure, params))


def batch_norm_scale(structure: Structure, params: Any) -> Array:
    """The absolute scale |gamma| of a channel's normalisation (Liu et al. 2017, arXiv 1708.06519).

    Network Slimming (sec. 3) trains with an L1 penalty on these scales and removes the channels
    where they are smallest. A scale is a parameter vector over channels whose name is "scale",
    "gamma" or "weight"; kernels are none.

    Coupled layers: the sum over all normalisations that a channel passes.

    Departures: the paper prunes nothing that is not normalised; here a group without any scale gets
    its L1 norms, rescaled so that their mean is the mean score of the groups with one. Leave such
    a group whole by `ignore` of `trace` or by limits if that is not wanted. The penalty during the
    training is the user's.

    Args:
      structure: what `trace` returned.
      params: the dense parameters.

    Returns:
      float32 [num_channels], at least 0.

    Raises:
      UserError: no group has a scale.
      ValueError: the params do not fit the structure.
    """
    leaves = structure.check_params(params)
    scores = jnp.zeros(structure.num_channels)
    scaled = np.zeros(structure.num_channels, bool)
    for leaf, axis in _scales(structure):
        channels = structure.channels[leaf][axis]
        scores += add_to_channels(structure, channels, _float32(jnp.abs(leaves[leaf])).reshape(-1))
        scaled[members_of(structure, channels)[0]] = True
    if not scaled.any():
        names = ", ".join(repr(name) for name in _SCALES)
        raise UserError(
            f"importance 'batch_norm_scale': no group has a normalisation scale (a vector over its "
            f"channels named {names}); use another importance, for example 'l1'"
        )
    if scaled.all():
        return scores
    # A group either has scales for all its channels or for none: they appear in the same places.
    norms = l1(structure, params)
    sums, group = _by_group(structure, norms), structure.group_index
    counts = np.bincount(group)
    means = (sums / counts)[group]
    relative = norms / jnp.where(means > 0, means, 1.0)
    return jnp.where(scaled, scores, relative * scores[scaled].mean())


def fpgm(structure: Structure, params: Any) -> Array:
    """How far a channel's filter is from the other filters of its group.

    FPGM (He et al. 2019, arXiv 1811.00250, sec. 3.3) removes the filters nearest to the geometric
    median of their layer, since the others can replace them: those with the least sum of Euclidean
    distances `sum_j ||F_i - F_j||` to all filters. That sum is the score.

    Coupled layers: the weights that produce a channel in all its layers are one vector.

    Departure: groups instead of layers. The distances come from the Gram matrix, in float32, of the
    filters less their mean: filters that differ by too little for it count as equal.

    Args:
      structure: what `trace` returned.
      params: the dense parameters.

    Returns:
      float32 [num_channels], at least 0.

    Raises:
      ValueError: the params do not fit the structure.
    """
    kernels = producing_kernels(structure, params)
    sizes = [group.size for group in structure.groups]
    ends = np.cumsum(sizes)
    squares = [jnp.zeros((size, size)) for size in sizes]
    for (leaf, axis), kernel in zip(structure.producers, kernels, strict=True):
        channels, positions = members_of(structure, structure.channels[leaf][axis])
        rows = jnp.moveaxis(kernel, axis, 0)
        for g, (size, end) in enumerate(zip(sizes, ends, strict=True)):
            inside = positions[(channels >= end - size) & (channels < end)]
            if len(inside):  # every channel of the group has equally many positions
                squares[g] += _squared_distances(rows[inside].reshape(size, -1))
    if not squares:
        return jnp.zeros(0)
    return jnp.concatenate([jnp.sqrt(square).sum(1) for square in squares])


def lamp(structure: Structure, params: Any) -> Array:
    """The layer-adaptive magnitude of a channel (Lee et al. 2021, arXiv 2010.07611, sec. 2).

    The squared L2 norm of the channel divided by the sum of the squared norms of those channels of
    its group that are not smaller. The largest of each group has 1, so that one ranking over all
    groups never empties one: rank these scores as they are (`scope="raw"` of `select`).

    Coupled layers: the L2 norm is that of `l2`, all layers taken as one vector.

    Departures: the paper scores single weights of a layer, here channels of a group. It breaks ties
    by position; here channels of equal norm count in each other's sum and have equal scores, so
    that k largest of equal norm have 1/k each. Channels of norm 0 have 0.

    Args:
      structure: what `trace` returned.
      params: the dense parameters.

    Returns:
      float32 [num_channels] in [0, 1].

    Raises:
      ValueError: the params do not fit the structure.
    """
    energies = structure.unflatten(_energy(structure, params))
    return jnp.concatenate([jnp.zeros(0), *(_of_those_not_smaller(e) for e in energies.values())])


def random(structure: Structure, key: Array) -> Array:
    """Independent uniform scores in [0, 1): float32 [num_channels]."""
    return jax.random.uniform(key, (structure.num_channels,))


def over_producers(structure: Structure, values: Sequence[Array]) -> Array:
    """Sums values of the shapes of the producing kernels over the weights of each channel.

    Args:
      structure: what `trace` returned.
      values: one array for each of `structure.producers`.

    Returns:
      [num_channels].
    """
    scores = jnp.zeros(structure.num_channels)
    for (leaf, axis), value in zip(structure.producers, values, strict=True):
        per_position = value.sum([d for d in range(value.ndim) if d != axis])
        scores += add_to_channels(structure, structure.channels[leaf][axis], per_position)
    return scores


def producing_kernels(structure: Structure, params: Any) -> list[Array]:
    """The kernel of each producer, as float32."""
    leaves = structure.check_params(params)
    return [_float32(leaves[leaf]) for leaf, _ in structure.producers]


def reading_axes(structure: Structure) -> list[tuple[int, int]]:
    """(leaf, axis) of every axis along which a layer's kernel reads channels."""
    kernels = {leaf for leaf, _ in structure.producers}
    return [
        (leaf, axis)
        for leaf in sorted(kernels)
        for axis, channels in enumerate(structure.channels[leaf])
        if (leaf, axis) not in structure.producers and (channels >= 0).any()
    ]


def _energy(structure: Structure, params: Any) -> Array:
    """The squared L2 norm of the weights that produce a channel."""
    return over_producers(structure, [k**2 for k in producing_kernels(structure, params)])


def _readers_of_inputs(structure: Structure) -> list[tuple[int, int]]:
    """(leaf, axis) of the kernels that have an axis over input features, of groups of their own."""
    produced = np.zeros(structure.num_channels, bool)
    for leaf, axis in structure.producers:
        produced[members_of(structure, structure.channels[leaf][axis])[0]] = True
    found = []
    for leaf, shape in enumerate(structure.shapes):
        for axis, channels in enumerate(structure.channels[leaf]):
            known = members_of(structure, channels)[0]
            matrix = np.prod(shape, dtype=int) > shape[axis]  # vectors only scale or shift
            if matrix and len(known) and not produced[known].any():
                found.append((leaf, axis))
    return found


def _scales(structure: Structure) -> list[tuple[int, int]]:
    """(leaf, axis) of the normalisation scales over channels."""
    found = []
    for leaf, (path, shape) in enumerate(zip(structure.paths, structure.shapes, strict=True)):
        name = path.removesuffix("/value").rpartition("/")[2]  # NNX: "norm/scale/value"
        for axis, channels in enumerate(structure.channels[leaf]):
            vector = shape[axis] == np.prod(shape, dtype=int)  # Haiku keeps axes of size 1
            carried = bool((channels >= 0).any())
            if name in _SCALES and vector and carried and (leaf, axis) not in structure.producers:
                found.append((leaf, axis))
    return found


def _squared_distances(points: Array) -> Array:
    """The squared Euclidean distances of points [n, features]: [n, n], zero on the diagonal."""
    centred = points - points.mean(0)
    gram = jnp.matmul(centred, centred.T, precision=jax.lax.Precision.HIGHEST)
    norms = jnp.diagonal(gram)
    distances = jnp.maximum(norms[:, None] + norms - 2 * gram, 0)
    return distances.at[jnp.diag_indices(len(points))].set(0)


def _of_those_not_smaller(values: Array) -> Array:
    """Each value divided by the sum of those at least as large; 0 for 0."""
    ascending = jnp.sort(values)
    sums = jnp.cumsum(ascending[::-1])[::-1]
    rest = sums[jnp.searchsorted(ascending, values, side="left")]
    return jnp.where(values > 0, values / jnp.where(rest > 0, rest, 1.0), 0.0)


def _by_group(structure: Structure, scores: Array) -> Array:
    return jnp.zeros(len(structure.groups)).at[structure.group_index].add(scores)


def _float32(value: Any) -> Array:
    return jnp.asarray(value, jnp.float32)
