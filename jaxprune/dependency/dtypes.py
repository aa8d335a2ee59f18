"""Kinds of numbers. NumPy's own functions know neither bfloat16 and float8 nor typed PRNG keys."""

from typing import Any

import jax
import jax.numpy as jnp


def dtype_of(leaf: Any) -> Any:
    """The dtype of an array, or of the array that a Python number becomes."""
    return leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)


def is_inexact(dtype: Any) -> bool:
    """Real or complex floating-point numbers of any precision."""
    return jnp.issubdtype(dtype, jnp.inexact)


def is_complex(dtype: Any) -> bool:
    """Complex numbers."""
    return jnp.issubdtype(dtype, jnp.complexfloating)


def is_key(dtype: Any) -> bool:
    """Typed PRNG keys, which NumPy cannot hold."""
    return jnp.issubdtype(dtype, jax.dtypes.prng_key)


def wide(dtype: Any) -> Any:
    """The type in which such numbers are added up: at least single precision."""
    double = dtype == jnp.float64
    return dtype if double or is_complex(dtype) else jnp.dtype(jnp.float32)
