"""Arrays with known values are worked on by numpy, which compiles nothing.

An operation of `jax.numpy` on concrete arrays is compiled for every new shape. A network has
dozens of shapes, and slicing or summing each of its parameters once is not worth a program.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_NUMBERS = (np.ndarray, np.generic, bool, int, float, complex)


def is_concrete(tree: Any) -> bool:
    """Are all leaves arrays or numbers with known values, none traced by a transformation?"""
    return all(
        isinstance(leaf, (jax.Array, *_NUMBERS)) and not isinstance(leaf, jax.core.Tracer)
        for leaf in jax.tree.leaves(tree)
    )


def namespace(tree: Any) -> Any:
    """`numpy` if it can read all leaves, else `jax.numpy`.

    Traced arrays, typed PRNG keys, and arrays that are split over devices stay JAX's.
    """
    return np if all(map(_readable, jax.tree.leaves(tree))) else jnp


def fetch(values: list[Any]) -> list[Any]:
    """Arrays as numpy arrays, all asked for at once, if numpy can read them; else as they are.

    Arrays in the memory of the CPU are not copied.
    """
    return jax.device_get(values) if namespace(values) is np else values


def fetch_readable(values: list[Any]) -> list[Any]:
    """Those arrays that numpy can read as numpy arrays, all asked for at once; others as they are.

    Arrays in the memory of the CPU are not copied.
    """
    found = list(values)
    readable = [place for place, value in enumerate(values) if _readable(value)]
    fetched = jax.device_get([values[place] for place in readable])
    for place, value in zip(readable, fetched, strict=True):
        found[place] = value
    return found


def copied(value: Any, like: Any = None) -> Any:
    """An array of JAX in memory of its own; traced values and plain numbers as they are.

    Args:
      value: an array, of numpy or JAX.
      like: as for `put`.
    """
    if isinstance(value, np.ndarray):
        return put(np.array(value), like)
    known = isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer)
    return jnp.copy(value) if known else value


def copies(tree: Any) -> Any:
    """A tree of arrays with each of them copied."""
    leaves = jax.tree.leaves(tree)
    found = map(copied, fetch_readable(leaves), leaves)
    return jax.tree.unflatten(jax.tree.structure(tree), found)


def put(value: Any, like: Any = None) -> jax.Array:
    """A numpy array as a JAX array, without the copy that `jnp.asarray` compiles a program for.

    Args:
      value: an array that nobody changes any more, or one of JAX.
      like: if it is a JAX array that is committed to a device, so is the result. If it is divided
        among devices, so is the result, where its shape can be divided.
    """
    if isinstance(value, jax.Array):
        return _divided(value, like)
    committed = isinstance(like, jax.Array) and like.committed
    return jax.device_put(value, like.sharding if committed else None)


def _divided(value: jax.Array, like: Any) -> jax.Array:
    """An array of JAX, divided among devices as another one if it can be."""
    if not is_concrete((value, like)) or not isinstance(like, jax.Array):
        return value
    try:
        like.sharding.shard_shape(value.shape)
    except ValueError:
        return value
    return jax.device_put(value, like.sharding)


def _readable(leaf: Any) -> bool:
    if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer):
        plain = not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
        return plain and leaf.is_fully_addressable and leaf.is_fully_replicated
    return isinstance(leaf, _NUMBERS)
