"""Applying an operator of one array to every leaf of a pytree."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxprune.optim.common import PyTree, check_non_negative, wide_dtype


def leafwise(
    operator: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    x: PyTree,
    strength: PyTree,
    step: PyTree,
) -> PyTree:
    """Maps ``operator(leaf, strength, step)`` over ``x``, in float32 at least, keeping dtypes.

    Args:
      operator: function of one array and its strength and step, all of one dtype.
      x: pytree of real arrays.
      strength: a number, or a pytree that is a prefix of ``x``.
      step: the same.

    Returns:
      A pytree like ``x``.

    Raises:
      ValueError: strength or step is negative, or a leaf is neither real nor floating.
    """
    check_non_negative(strength=strength, step=step)

    def on_leaf(leaf, strength, step):
        dtype = check_real(leaf)
        wide = wide_dtype(leaf)
        arguments = (jnp.asarray(a).astype(wide) for a in (leaf, strength, step))
        return operator(*arguments).astype(dtype)

    return jax.tree.map(on_leaf, x, jax.tree.broadcast(strength, x), jax.tree.broadcast(step, x))


def check_real(leaf: jax.typing.ArrayLike) -> jnp.dtype:
    """The dtype of a leaf, or ValueError if an operator cannot shrink it."""
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"Proximal operators need real floating leaves, got dtype {dtype}.")
    return dtype
