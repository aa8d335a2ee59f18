"""Running mean and standard deviation of vectors, exact over any number of batches.

The papers normalise states, rewards and costs "with a running mean and standard deviation which is
continually updated as more data is collected" (conference paper, section 3.1; thesis, section 4.4).
Batches are merged by the parallel form of Welford's algorithm: Chan, Golub and LeVeque, Updating
formulae and a pairwise algorithm for computing sample variances (1979), equation 2.1.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

CONSTANT = 1e-5
"""A component whose deviation is at most this fraction of its mean counts as constant."""


class Statistics(NamedTuple):
    """Statistics of the vectors seen so far, component by component.

    Attributes:
        count: number of vectors seen, float32 `[]`, exact up to 2^24.
        mean: their mean, float32 `[*shape]`.
        m2: sum of their squared distances from the mean, float32 `[*shape]`.
    """

    count: Array  # type: ignore[assignment]
    mean: Array
    m2: Array


def init(shape: tuple[int, ...]) -> Statistics:
    """Empty statistics, with which `normalize` changes nothing."""
    return Statistics(jnp.zeros(()), jnp.zeros(shape), jnp.zeros(shape))


def update(statistics: Statistics, batch: Array) -> Statistics:
    """Adds a batch of vectors.

    Args:
        statistics: of vectors of some shape.
        batch: `[..., *shape]`, at least one vector.

    Returns:
        The statistics of all vectors so far, as if they had come in one batch.

    Raises:
        ValueError: the batch has no vectors or its last axes are not `shape`.
    """
    shape = statistics.mean.shape
    leading = batch.ndim - len(shape)
    if leading < 0 or batch.shape[leading:] != shape or batch.size == 0:
        raise ValueError(f"a batch of vectors of shape {shape} cannot have shape {batch.shape}")
    axes = tuple(range(leading))
    added = float(math.prod(batch.shape[:leading]))
    mean = batch.mean(axes)
    m2 = jnp.square(batch - mean).sum(axes)

    count = statistics.count + added
    difference = mean - statistics.mean
    return Statistics(
        count=count,
        mean=statistics.mean + difference * (added / count),
        m2=statistics.m2 + m2 + difference**2 * (statistics.count * added / count),
    )


def deviation(statistics: Statistics) -> Array:
    """The standard deviation of the population, with 1 for components that do not vary.

    Rounding makes a constant component deviate by some millionths of its size; dividing by that
    would amplify noise.

    Returns:
        float32 `[*shape]`, above 0.
    """
    spread = jnp.sqrt(statistics.m2 / jnp.maximum(statistics.count, 1.0))
    return jnp.where(spread > CONSTANT * jnp.abs(statistics.mean), spread, 1.0)


def normalize(statistics: Statistics, x: ArrayLike) -> Array:
    """Standardises `x`, component by component: `(x - mean) / deviation`.

    Args:
        statistics: of vectors of some shape.
        x: `[..., *shape]`.

    Returns:
        `[..., *shape]`; constant components are only centred.
    """
    return (jnp.asarray(x) - statistics.mean) / deviation(statistics)
