"""Max-pooling as comparisons of slices."""

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import JaxprEqn

MOST_SLICES = 49
"""Larger windows stay as they are, to keep programs small."""


def quicker(eqn: JaxprEqn) -> Callable[..., Array] | None:
    """`by_slices` for the maximum over windows that do not overlap nor reach beyond the map."""
    if eqn.primitive.name != "reduce_window_max":
        return None
    params = eqn.params
    plain = all(factor == 1 for factor in (*params["base_dilation"], *params["window_dilation"]))
    inside = all(before == after == 0 for before, after in params["padding"])
    apart = params["window_strides"] == params["window_dimensions"]
    few = math.prod(params["window_dimensions"]) <= MOST_SLICES
    return by_slices if plain and inside and apart and few else None


def by_slices(eqn: JaxprEqn, x: Array) -> Array:
    """The maximum over windows, dimension by dimension, as that of one slice for each place.

    The last dimension comes first, so that of equal values the first of the window is selected.

    Args:
      eqn: a `reduce_window_max` over windows that do not overlap, without padding or dilation.
      x: its operand.
    """
    for axis, size in reversed(list(enumerate(eqn.params["window_dimensions"]))):
        end = x.shape[axis] // size * size
        places = (lax.slice_in_dim(x, place, end, size, axis) for place in range(size))
        x = functools.reduce(_larger, places)
    return x


def _larger(first: Array, second: Array) -> Array:
    """The larger of each two numbers, the first of equal ones; NaN if one is."""
    return jnp.where((first >= second) | (first != first), first, second)
