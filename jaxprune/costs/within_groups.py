"""Statistics of filters within their groups, where each group's filters are contiguous.

`sizes` is the number of filters of each group; `N` is their sum. Concrete values are computed in
NumPy, which compiles nothing; results are JAX arrays in either case.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.dependency.concrete import namespace, put


def index(sizes: tuple[int, ...]) -> np.ndarray:
    """The group of each filter, int32 `[N]`."""
    return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)


def size(sizes: tuple[int, ...]) -> np.ndarray:
    """The size of the group of each filter, int32 `[N]`."""
    return np.asarray(sizes, np.int32)[index(sizes)]


def total(sizes: tuple[int, ...], values: Array) -> Array:
    """The sum of the values in each group, `[N]` -> `[groups]`."""
    return put(_total(sizes, values))


def mean(sizes: tuple[int, ...], values: Array) -> Array:
    """The mean of the values in each group, `[N]` -> `[groups]`."""
    return put(_total(sizes, values) / np.asarray(sizes, np.float32))


def relative(sizes: tuple[int, ...], values: Array) -> Array:
    """Each value divided by the mean of its group, float32 `[N]`.

    Groups whose mean is not above zero are left unchanged.
    """
    xp = namespace(values)
    values = xp.asarray(values, np.float32)
    means = _total(sizes, values) / np.asarray(sizes, np.float32)
    return put(values / xp.where(means > 0, means, 1)[index(sizes)])


def maximum(sizes: tuple[int, ...], values: Array) -> Array:
    """The largest value in each group, `[N]` -> `[groups]`."""
    return jax.ops.segment_max(
        values, index(sizes), num_segments=len(sizes), indices_are_sorted=True
    )


def rank(sizes: tuple[int, ...], values: Array) -> Array:
    """The rank of each value within its group, int32 `[N]`, 0 = smallest; ties by index.

    Sorting by group and then by value leaves every group in its place, sorted.
    """
    xp, group = namespace(values), index(sizes)
    order = xp.lexsort((xp.asarray(values), xp.asarray(group)))
    first = np.cumsum(sizes) - np.asarray(sizes)
    within = np.arange(len(group), dtype=np.int32) - first.astype(np.int32)[group]
    if xp is np:
        ranks = np.empty_like(within)
        ranks[order] = within
        return put(ranks)
    return jnp.zeros_like(within).at[order].set(within)


def _total(sizes: tuple[int, ...], values: Any) -> Any:
    """`total`, as a NumPy array if the values are concrete."""
    if namespace(values) is np:
        values = np.asarray(values)
        return np.bincount(index(sizes), values, len(sizes)).astype(values.dtype)
    return jax.ops.segment_sum(
        values, index(sizes), num_segments=len(sizes), indices_are_sorted=True
    )
