"""The operator that acts on singular values."""

import jax.numpy as jnp

from jaxprune.optim.common import PyTree
from jaxprune.optim.prox.leafwise import leafwise


def nuclear(x: PyTree, strength: PyTree = 1.0, step: PyTree = 1.0) -> PyTree:
    r"""Soft threshold of the singular values, the operator of the nuclear norm.

    .. math::
      \arg\min_U \tfrac12 \|U - X\|_F^2 + \text{step} \cdot \text{strength} \, \|U\|_*,
      \qquad U = P \operatorname{diag}(\max(\sigma - \text{step} \cdot \text{strength}, 0)) Q^\top

    for :math:`X = P \operatorname{diag}(\sigma) Q^\top`. The last two axes of a leaf are a matrix,
    axes before them a batch of matrices. It makes low rank, not zeros (a matrix whose singular
    values all fall below the threshold becomes exactly zero).

    Args:
      x: array or pytree whose leaves have two axes or more.
      strength: penalty, >= 0; scalar or a prefix of x (one number for each leaf).
      step: step length, >= 0; the same. One step for each coordinate has no closed form.

    Returns:
      A pytree like x.

    Raises:
      ValueError: strength or step is negative or not one number for each leaf, or a leaf has fewer
        than two axes.

    References:
      Cai, Candes and Shen, A singular value thresholding algorithm for matrix completion (2010),
      theorem 2.1. Parikh and Boyd, Proximal Algorithms (2014), section 6.7.3.
    """

    def shrink(x, lam, tau):
        if x.ndim < 2:
            raise ValueError(
                f"nuclear needs matrices, but a leaf has shape {x.shape}. Keep such leaves away "
                "from it with optax.masked or optax.multi_transform."
            )
        if lam.ndim or tau.ndim:
            raise ValueError(
                "nuclear takes one strength and one step for each leaf, got shapes "
                f"{lam.shape} and {tau.shape}. Under a preconditioner use the plain variant."
            )
        left, values, right = jnp.linalg.svd(x, full_matrices=False)
        return (left * jnp.maximum(values - tau * lam, 0.0)[..., None, :]) @ right

    return leafwise(shrink, x, strength, step)
