"""Whether two programs compute the same network, up to rounding."""

from typing import Any

import jax
import numpy as np


def difference(outputs: Any, expected: Any) -> str | None:
    """How the outputs of two programs differ, in a few words; None if only by rounding.

    Args:
        outputs: A tree of arrays.
        expected: Another. Values agree that differ by at most 1e-3 of themselves, or 1e-4 of the
            largest finite value in their array (or of 1, if that is larger), or both are no number.
    """
    tree: Any = jax.tree.structure(expected)
    if jax.tree.structure(outputs) != tree:
        return "its outputs form another tree"
    pairs = zip(jax.tree.leaves(outputs), jax.tree.leaves(expected), strict=True)
    for output, wanted in pairs:
        if np.shape(output) != np.shape(wanted):
            return f"its output has shape {np.shape(output)} instead of {np.shape(wanted)}"
        output, wanted = _numbers(output), _numbers(wanted)
        size = np.abs(wanted)
        scale = max(float(size.max(initial=0, where=np.isfinite(size))), 1.0)
        if not np.allclose(output, wanted, 1e-3, 1e-4 * scale, equal_nan=True):
            gap = np.abs(output - wanted)
            return f"outputs differ by up to {gap.max(initial=0, where=~np.isnan(gap)):.3g}"
    return None


def _numbers(values: Any) -> np.ndarray:
    """Values in a type of at least single precision; keys as the numbers that they hold."""
    if jax.dtypes.issubdtype(getattr(values, "dtype", None), jax.dtypes.prng_key):
        values = jax.random.key_data(values)
    values = np.asarray(values)
    return np.asarray(values, np.result_type(values.dtype, np.float32))
