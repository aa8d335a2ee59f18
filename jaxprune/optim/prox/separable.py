"""Operators that treat each coordinate separately."""

import jax
import jax.numpy as jnp

from jaxprune.optim.common import PyTree, check_fraction
from jaxprune.optim.prox.leafwise import leafwise


def soft_threshold(x: jax.Array, threshold: jax.Array) -> jax.Array:
    """Moves every entry towards zero by ``threshold``, stopping at zero."""
    return x - jnp.clip(x, -threshold, threshold)  # x - x: zeros have no sign


def l1(x: PyTree, strength: PyTree = 1.0, step: PyTree = 1.0) -> PyTree:
    r"""Soft threshold, the operator of the l1 norm (lasso).

    .. math::
      \arg\min_u \tfrac12 \|u - x\|_2^2 + \text{step} \cdot \text{strength} \, \|u\|_1,
      \qquad u_i = \operatorname{sign}(x_i) \max(|x_i| - \text{step} \cdot \text{strength}, 0)

    Args:
      x: array or pytree.
      strength: penalty, >= 0, in units of the loss per unit of x; scalar, or a prefix of x, or
        arrays that broadcast against the leaves (weighted l1).
      step: step length, >= 0; scalar, a prefix of x, or one step for each coordinate.

    Returns:
      A pytree like x.

    Raises:
      ValueError: strength or step is negative.

    References:
      Parikh and Boyd, Proximal Algorithms (2014), eq. 6.9. Donoho, De-noising by soft-thresholding
      (1995).
    """
    return leafwise(lambda x, lam, tau: soft_threshold(x, tau * lam), x, strength, step)


def squared_l2(x: PyTree, strength: PyTree = 1.0, step: PyTree = 1.0) -> PyTree:
    r"""Shrinkage by a constant factor, the operator of half the squared l2 norm (ridge).

    .. math::
      \arg\min_u \tfrac12 \|u - x\|_2^2 + \text{step} \cdot \tfrac{\text{strength}}{2} \|u\|_2^2,
      \qquad u = \frac{x}{1 + \text{step} \cdot \text{strength}}

    This is implicit weight decay: it never changes a sign, however large the step.

    Args:
      x: array or pytree.
      strength: penalty, >= 0; as in :func:`l1`.
      step: step length, >= 0; as in :func:`l1`.

    Returns:
      A pytree like x.

    Raises:
      ValueError: strength or step is negative.

    References:
      Parikh and Boyd, Proximal Algorithms (2014), section 6.1.1.
    """
    return leafwise(lambda x, lam, tau: x / (1.0 + tau * lam), x, strength, step)


def elastic_net(
    x: PyTree, strength: PyTree = 1.0, step: PyTree = 1.0, *, l1_ratio: float = 0.5
) -> PyTree:
    r"""Soft threshold, then shrinkage: the operator of the elastic net.

    .. math::
      \arg\min_u \tfrac12 \|u - x\|_2^2 + \text{step} \cdot \text{strength}
      \left( \rho \|u\|_1 + \tfrac{1 - \rho}{2} \|u\|_2^2 \right), \qquad
      u_i = \frac{\operatorname{sign}(x_i) \max(|x_i| - \rho \kappa, 0)}{1 + (1 - \rho) \kappa}

    with :math:`\kappa = \text{step} \cdot \text{strength}` and :math:`\rho` = l1_ratio, the
    parametrisation of scikit-learn's ``ElasticNet``.

    Args:
      x: array or pytree.
      strength: penalty, >= 0; as in :func:`l1`.
      step: step length, >= 0; as in :func:`l1`.
      l1_ratio: share of the l1 norm, in [0, 1]; 1 is :func:`l1`, 0 is :func:`squared_l2`.

    Returns:
      A pytree like x.

    Raises:
      ValueError: strength or step is negative, or l1_ratio outside [0, 1].

    References:
      Zou and Hastie, Regularization and variable selection via the elastic net (2005). Parikh and
      Boyd, Proximal Algorithms (2014), section 6.5.3.
    """
    check_fraction("l1_ratio", l1_ratio, or_one=True)

    def shrink(x, lam, tau):
        weight = tau * lam
        return soft_threshold(x, l1_ratio * weight) / (1.0 + (1.0 - l1_ratio) * weight)

    return leafwise(shrink, x, strength, step)


def l0(x: PyTree, strength: PyTree = 1.0, step: PyTree = 1.0) -> PyTree:
    r"""Hard threshold, the operator of the number of nonzeros.

    .. math::
      \arg\min_u \tfrac12 \|u - x\|_2^2 + \text{step} \cdot \text{strength} \, \|u\|_0,
      \qquad u_i = x_i \, [\, |x_i| > \sqrt{2 \cdot \text{step} \cdot \text{strength}} \,]

    Nonconvex. At the threshold both zero and :math:`x_i` are minimisers; zero is returned.

    Args:
      x: array or pytree.
      strength: cost of one nonzero, >= 0; as in :func:`l1`.
      step: step length, >= 0; as in :func:`l1`.

    Returns:
      A pytree like x.

    Raises:
      ValueError: strength or step is negative.

    References:
      Blumensath and Davies, Iterative thresholding for sparse approximations (2008), eq. 2.2 (its
      lambda is half of step * strength, written without the factor 1/2).
    """

    def keep(x, lam, tau):
        return jnp.where(jnp.abs(x) > jnp.sqrt(2.0 * tau * lam), x, 0.0)

    return leafwise(keep, x, strength, step)


def mcp(x: PyTree, strength: PyTree = 1.0, step: PyTree = 1.0, *, gamma: float = 3.0) -> PyTree:
    r"""Firm threshold, the operator of the minimax concave penalty.

    .. math::
      \arg\min_u \tfrac12 \|u - x\|_2^2 + \text{step} \sum_i p(|u_i|), \qquad
      p(t) = \lambda t - \frac{t^2}{2 \gamma} \;(t \le \gamma \lambda), \quad
      \frac{\gamma \lambda^2}{2} \;(t > \gamma \lambda)

    with :math:`\lambda` = strength. For step :math:`\tau < \gamma`,

    .. math::
      u_i = \frac{\operatorname{sign}(x_i) \max(|x_i| - \tau \lambda, 0)}{1 - \tau / \gamma}
      \;(|x_i| \le \gamma \lambda), \quad x_i \;(|x_i| > \gamma \lambda).

    For :math:`\tau \ge \gamma` the problem is concave up to :math:`\gamma \lambda`, and the
    minimiser is the hard threshold at :math:`\lambda \sqrt{\tau \gamma}`. The result depends on
    strength and step separately, not on their product.

    Args:
      x: array or pytree.
      strength: slope of the penalty at zero, >= 0; as in :func:`l1`.
      step: step length, >= 0; as in :func:`l1`.
      gamma: concavity, > 0: the penalty is level from gamma * strength on; infinity is :func:`l1`.

    Returns:
      A pytree like x.

    Raises:
      ValueError: strength or step is negative, or gamma is not positive.

    References:
      Zhang, Nearly unbiased variable selection under minimax concave penalty (2010), eq. 2.2; the
      univariate solution for step 1 in section 2. Both step ranges are derived here.
    """
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, got {gamma}.")

    def shrink(x, lam, tau):
        size = jnp.abs(x)
        convex = tau < gamma
        # The denominator of the branch not taken must not be zero: its gradient would be NaN.
        firm = soft_threshold(x, tau * lam) / jnp.where(convex, 1.0 - tau / gamma, 1.0)
        level = jnp.where(convex, gamma * lam, lam * jnp.sqrt(tau * gamma))
        return jnp.where(size > level, x, jnp.where(convex, firm, 0.0))

    return leafwise(shrink, x, strength, step)


def scad(x: PyTree, strength: PyTree = 1.0, step: PyTree = 1.0, *, a: float = 3.7) -> PyTree:
    r"""The operator of the smoothly clipped absolute deviation penalty.

    .. math::
      \arg\min_u \tfrac12 \|u - x\|_2^2 + \text{step} \sum_i p(|u_i|), \qquad
      p(t) = \lambda t \;(t \le \lambda), \quad
      \frac{2 a \lambda t - t^2 - \lambda^2}{2 (a - 1)} \;(\lambda < t \le a \lambda), \quad
      \frac{\lambda^2 (a + 1)}{2} \;(t > a \lambda)

    with :math:`\lambda` = strength. For step :math:`\tau < a - 1`,

    .. math::
      u_i = \operatorname{sign}(x_i) \max(|x_i| - \tau \lambda, 0)
      \;(|x_i| \le \lambda (1 + \tau)), \quad
      \frac{(a - 1) x_i - \operatorname{sign}(x_i) \, a \tau \lambda}{a - 1 - \tau}
      \;(\lambda (1 + \tau) < |x_i| \le a \lambda), \quad x_i \;(|x_i| > a \lambda).

    For :math:`\tau \ge a - 1` the middle piece is concave and never minimal: the soft threshold
    below :math:`\lambda (a + 1 + \tau) / 2` (for :math:`\tau > a + 1`, zero below
    :math:`\lambda \sqrt{\tau (a + 1)}`), and :math:`x_i` above it.

    Args:
      x: array or pytree.
      strength: slope of the penalty at zero, >= 0; as in :func:`l1`.
      step: step length, >= 0; as in :func:`l1`.
      a: where the penalty levels off, in units of strength, > 2. 3.7 is the authors' choice.

    Returns:
      A pytree like x.

    Raises:
      ValueError: strength or step is negative, or a is not above 2.

    References:
      Fan and Li, Variable selection via nonconcave penalized likelihood (2001), eq. 2.7; eq. 2.8 is
      the solution for step 1. Other steps are derived here.
    """
    if not a > 2:
        raise ValueError(f"a must be above 2, got {a}.")

    def shrink(x, lam, tau):
        size = jnp.abs(x)
        convex = tau < a - 1.0
        soft = soft_threshold(x, tau * lam)
        slack = jnp.where(convex, a - 1.0 - tau, 1.0)
        middle = ((a - 1.0) * x - jnp.sign(x) * (a * tau * lam)) / slack
        near = jnp.where(size <= lam * (1.0 + tau), soft, middle)
        tie = jnp.where(
            tau <= a + 1.0, 0.5 * lam * (a + 1.0 + tau), lam * jnp.sqrt(tau * (a + 1.0))
        )
        level = jnp.where(convex, a * lam, tie)
        return jnp.where(size > level, x, jnp.where(convex, near, soft))

    return leafwise(shrink, x, strength, step)
