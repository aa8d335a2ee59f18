"""Leaves of pytrees as NumPy arrays of known types, and back.

A typed PRNG key is written as its data, whose type is called "key<IMPLEMENTATION>".
"""

import re
from typing import Any

import jax
import numpy as np
from jax.dtypes import prng_key


def written(leaf: Any) -> tuple[np.ndarray, str]:
    """A leaf as an array, and the name of its type."""
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, prng_key):
        return np.asarray(jax.random.key_data(leaf)), f"key<{jax.random.key_impl(leaf)}>"
    array = np.asarray(leaf)
    return array, array.dtype.name


def stored_as(name: str) -> np.dtype:
    """The type of the array that a leaf of the named type is written as."""
    return np.dtype(np.uint32 if _implementation(name) else name)


def read(array: np.ndarray, name: str) -> Any:
    """A leaf from what `written` returned."""
    implementation = _implementation(name)
    if implementation is None:
        return array
    return jax.random.wrap_key_data(jax.device_put(array), impl=implementation)


def _implementation(name: str) -> str | None:
    found = re.fullmatch(r"key<(.*)>", name)
    return found[1] if found else None
