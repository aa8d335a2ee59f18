"""Whether two programs compute the same network, up to rounding."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def difference(
    outputs: Any, expected: Any, computed_from: Any = (), relative: float = 1e-3
) -> str | None:
    """How the outputs of two programs differ, in a few words; None if only by rounding.

    Args:
        outputs: A tree of arrays.
        expected: Another. Values agree that differ by at most `relative` of themselves, or a tenth
            of that of the largest finite value in their array (or of 1, if that is larger), or that
            both are no number.
        computed_from: A tree of arrays. If any of it has half precision, or the outputs have,
            values may differ by four units in its last place.
        relative: See `expected`.
    """
    tree: Any = jax.tree.structure(expected)
    if jax.tree.structure(outputs) != tree:
        return "its outputs form another tree"
    rounding = 4 * _rounding((expected, computed_from))
    pairs = zip(jax.tree.leaves(outputs), jax.tree.leaves(expected), strict=True)
    for output, wanted in pairs:
        if np.shape(output) != np.shape(wanted):
            return f"its output has shape {np.shape(output)} instead of {np.shape(wanted)}"
        output, wanted = _numbers(output), _numbers(wanted)
        size = np.abs(wanted)
        scale = max(float(size.max(initial=0, where=np.isfinite(size))), 1.0)
        near, far = max(relative, rounding), max(relative / 10, rounding)
        if not np.allclose(output, wanted, near, far * scale, equal_nan=True):
            gap = np.abs(output - wanted)
            return f"outputs differ by up to {gap.max(initial=0, where=~np.isnan(gap)):.3g}"
    return None


def _rounding(tree: Any) -> float:
    """The unit in the last place of the coarsest half precision among arrays, 0 if none has it."""
    kinds = {getattr(leaf, "dtype", None) for leaf in jax.tree.leaves(tree)}
    halves = [kind for kind in kinds if kind in (jnp.bfloat16, jnp.float16)]
    return max((float(jnp.finfo(kind).eps) for kind in halves), default=0.0)


def _numbers(values: Any) -> np.ndarray:
    """Values in a type of at least single precision; keys as the numbers that they hold."""
    if jax.dtypes.issubdtype(getattr(values, "dtype", None), jax.dtypes.prng_key):
        values = jax.random.key_data(values)
    values = np.asarray(values)
    return np.asarray(values, np.result_type(values.dtype, np.float32))
