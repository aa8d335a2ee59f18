"""Whether two programs compute the same network, up to rounding."""

from typing import Any

import jax
import numpy as np


def difference(outputs: Any, expected: Any) -> str | None:
    """How the outputs of two programs differ, in a few words; None if only by rounding.

    Args:
        outputs: A tree of arrays.
        expected: Another. Values agree that differ by at most 1e-3 of themselves, or 1e-4 of the
            largest value in their array (or of 1, if that is larger).
    """
    tree: Any = jax.tree.structure(expected)
    if jax.tree.structure(outputs) != tree:
        return "its outputs form another tree"
    pairs = zip(jax.tree.leaves(outputs), jax.tree.leaves(expected), strict=True)
    for output, wanted in pairs:
        if np.shape(output) != np.shape(wanted):
            return f"its output has shape {np.shape(output)} instead of {np.shape(wanted)}"
        wide = np.result_type(np.asarray(wanted).dtype, np.float32)
        output, wanted = np.asarray(output, wide), np.asarray(wanted, wide)
        scale = max(float(np.abs(wanted).max(initial=0)), 1.0)
        if not np.allclose(output, wanted, 1e-3, 1e-4 * scale):
            return f"outputs differ by up to {np.abs(output - wanted).max():.3g}"
    return None
