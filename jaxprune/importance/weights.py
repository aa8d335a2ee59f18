"""Importance that the parameters alone tell.

Concrete parameters are scored in numpy, where nothing is compiled, traced ones in JAX: the code is
the same, its arrays are of one kind or the other.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxprune.dependency import Structure
from jaxprune.dependency.concrete import fetch, namespace, put
from jaxprune.dependency.dtypes import dtype_of, is_complex
from jaxprune.errors import UserError
from jaxprune.importance.positions import add_to_channels, members_of, sums_at

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
    return put(_norms(structure, params))


def l2(structure: Structure, params: Any) -> Array:
    """The L2 norm of the weights that produce a channel, all its layers taken as one vector.

    Args and Returns as for `l1`.
    """
    return put(_energy(structure, params) ** 0.5)


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
    places = _scales(structure)
    scores = np.zeros(structure.num_channels, np.float32)
    scaled = np.zeros(structure.num_channels, bool)
    scales = _weights(structure, params, [leaf for leaf, _ in places])
    for (leaf, axis), scale in zip(places, scales, strict=True):
        channels = structure.channels[leaf][axis]
        scores = scores + add_to_channels(structure, channels, abs(scale).reshape(-1))
        scaled[members_of(structure, channels)[0]] = True
    if not scaled.any():
        names = ", ".join(repr(name) for name in _SCALES)
        raise UserError(
            f"importance 'batch_norm_scale': no group has a normalisation scale (a vector over its "
            f"channels named {names}); use another importance, for example 'l1'"
        )
    if scaled.all():
        return put(scores)
    # A group either has scales for all its channels or for none: they appear in the same places.
    norms = _norms(structure, params)
    xp, group = namespace((scores, norms)), structure.group_index
    sizes = np.array([group.size for group in structure.groups], np.float32)
    means = (sums_at(group, norms, len(sizes)) / sizes)[group]
    relative = norms / xp.where(means > 0, means, 1.0)
    return put(xp.where(scaled, scores, relative * scores[scaled].mean()))


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
    xp = namespace(kernels)
    scores = [np.zeros(0, np.float32)]
    squares: list[Any] = [0.0] * len(sizes)
    for (leaf, axis), kernel in zip(structure.producers, kernels, strict=True):
        channels, positions = members_of(structure, structure.channels[leaf][axis])
        rows = xp.moveaxis(kernel, axis, 0)
        for g, (size, end) in enumerate(zip(sizes, ends, strict=True)):
            inside = positions[(channels >= end - size) & (channels < end)]
            if len(inside):  # every channel of the group has equally many positions
                squares[g] = squares[g] + _squared_distances(rows[inside].reshape(size, -1))
    for size, square in zip(sizes, squares, strict=True):
        produced = np.ndim(square) > 0  # input features are not
        scores.append(xp.sqrt(square).sum(1) if produced else np.zeros(size, np.float32))
    return put(xp.concatenate(scores))


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
    shares = [_of_those_not_smaller(energy) for energy in energies.values()]
    return put(namespace(shares).concatenate([np.zeros(0, np.float32), *shares]))


def random(structure: Structure, key: Array) -> Array:
    """Independent uniform scores in [0, 1): float32 [num_channels]."""
    return jax.random.uniform(key, (structure.num_channels,))


def over_producers(structure: Structure, values: Sequence[Any]) -> Any:
    """Sums values of the shapes of the producing kernels over the weights of each channel.

    Args:
      structure: what `trace` returned.
      values: one array for each of `structure.producers`, numpy's or JAX's.

    Returns:
      [num_channels]; a numpy array if the values are.
    """
    return _over_axes(structure, structure.producers, values)


def producing_kernels(structure: Structure, params: Any) -> list[Any]:
    """The kernel of each producer: numpy arrays, or JAX's where values are traced.

    Integers and real numbers of every precision are float32, complex numbers complex64.
    """
    return _weights(structure, params, [leaf for leaf, _ in structure.producers])


def reading_axes(structure: Structure) -> list[tuple[int, int]]:
    """(leaf, axis) of every axis along which a layer's kernel reads channels."""
    kernels = {leaf for leaf, _ in structure.producers}
    return [
        (leaf, axis)
        for leaf in sorted(kernels)
        for axis, channels in enumerate(structure.channels[leaf])
        if (leaf, axis) not in structure.producers and (channels >= 0).any()
    ]


def _norms(structure: Structure, params: Any) -> Any:
    """The L1 norm of the weights that produce a channel, or that read an input feature."""
    places = [*structure.producers, *_readers_of_inputs(structure)]
    weights = _weights(structure, params, [leaf for leaf, _ in places])
    return _over_axes(structure, places, [abs(kernel) for kernel in weights])


def _energy(structure: Structure, params: Any) -> Any:
    """The squared L2 norm of the weights that produce a channel."""
    return over_producers(structure, [abs(k) ** 2 for k in producing_kernels(structure, params)])


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


def _squared_distances(points: Any) -> Any:
    """The squared Euclidean distances of points [n, features]: [n, n], zero on the diagonal."""
    xp = namespace(points)
    centred = points - points.mean(0)
    with jax.default_matmul_precision("highest"):
        gram = (centred @ centred.conj().T).real
    norms = xp.diagonal(gram)
    distances = xp.maximum(norms[:, None] + norms - 2 * gram, 0)
    return xp.where(np.eye(len(points), dtype=bool), 0, distances)


def _of_those_not_smaller(values: Any) -> Any:
    """Each value divided by the sum of those at least as large; 0 for 0."""
    xp = namespace(values)
    ascending = xp.sort(values)
    sums = xp.cumsum(ascending[::-1])[::-1]
    rest = sums[xp.searchsorted(ascending, values, side="left")]
    return xp.where(values > 0, values / xp.where(rest > 0, rest, 1), 0)


def _over_axes(
    structure: Structure, places: Sequence[tuple[int, int]], values: Sequence[Any]
) -> Any:
    """The sum over each channel's weights of one value [shape of the leaf] for each place."""
    scores = np.zeros(structure.num_channels, np.float32)
    for (leaf, axis), value in zip(places, values, strict=True):
        per_position = value.sum(tuple(d for d in range(value.ndim) if d != axis))
        scores = scores + add_to_channels(structure, structure.channels[leaf][axis], per_position)
    return scores


def _weights(structure: Structure, params: Any, leaves: Sequence[int]) -> list[Any]:
    """Some leaves of the parameters, as `producing_kernels` gives them."""
    known = structure.check_params(params)
    values = fetch([known[leaf] for leaf in leaves])
    for leaf, value in zip(leaves, values, strict=True):
        if dtype_of(value) == jax.dtypes.float0:
            raise UserError(
                f"parameter '{structure.paths[leaf]}' holds integers and has no gradient; use "
                "another importance, such as 'l1' or 'taylor_activation'"
            )
    xp = namespace(values)
    return [
        xp.asarray(value, np.complex64 if is_complex(dtype_of(value)) else np.float32)
        for value in values
    ]
