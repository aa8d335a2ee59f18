"""Statistics of filters within their groups, for filters that lie group by group.

`sizes` is the number of filters of each group; `N` is their sum.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def index(sizes: tuple[int, ...]) -> np.ndarray:
    """The group of each filter, int32 `[N]`."""
    return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)


def size(sizes: tuple[int, ...]) -> np.ndarray:
    """The size of the group of each filter, int32 `[N]`."""
    return np.asarray(sizes, np.int32)[index(sizes)]


def total(sizes: tuple[int, ...], values: Array) -> Array:
    """The sum of the values in each group, `[N]` -> `[groups]`."""
    return jax.ops.segment_sum(
        values, index(sizes), num_segments=len(sizes), indices_are_sorted=True
    )


def mean(sizes: tuple[int, ...], values: Array) -> Array:
    """The mean of the values in each group, `[N]` -> `[groups]`."""
    return total(sizes, values) / jnp.asarray(sizes)


def relative(sizes: tuple[int, ...], values: Array) -> Array:
    """Each value divided by the mean of its group, float32 `[N]`.

    A group whose mean is not above zero stays as it is.
    """
    means = mean(sizes, jnp.asarray(values, jnp.float32))
    return values / jnp.where(means > 0, means, 1.0)[index(sizes)]


def maximum(sizes: tuple[int, ...], values: Array) -> Array:
    """The largest value in each group, `[N]` -> `[groups]`."""
    return jax.ops.segment_max(
        values, index(sizes), num_segments=len(sizes), indices_are_sorted=True
    )


@functools.partial(jax.jit, static_argnums=0)
def rank(sizes: tuple[int, ...], values: Array) -> Array:
    """The rank of each value within its group, int32 `[N]`, 0 = smallest; ties by index.

    Sorting by value and then, stably, by group leaves the groups where they were, each sorted.
    """
    group = index(sizes)
    by_value = jnp.argsort(values, stable=True)
    order = by_value[jnp.argsort(jnp.asarray(group)[by_value], stable=True)]
    position = jnp.zeros_like(order).at[order].set(jnp.arange(len(group)))
    first = np.cumsum(sizes) - np.asarray(sizes)
    return position - first[group]
