"""Operators that treat groups of coordinates jointly."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxprune.optim.common import PyTree, check_axis, check_fraction, check_non_negative, wide_dtype
from jaxprune.optim.prox.leafwise import check_real, leafwise
from jaxprune.optim.prox.separable import soft_threshold

Axis = int | Sequence[int]


def l2(x: PyTree, strength: jax.typing.ArrayLike = 1.0, step: PyTree = 1.0) -> PyTree:
    r"""Block soft threshold of the whole pytree, the operator of the l2 norm (not squared).

    .. math::
      \arg\min_u \tfrac12 \|u - x\|_2^2 + \text{step} \cdot \text{strength} \, \|u\|_2,
      \qquad u = \max\!\left(1 - \frac{\text{step} \cdot \text{strength}}{\|x\|_2}, 0\right) x

    where the norm is taken over all leaves as one vector. For one group a leaf use
    :func:`group_l2`. With one step for each coordinate there is no closed form; see
    :func:`group_l2`.

    Args:
      x: array or pytree.
      strength: penalty, >= 0, one number.
      step: step length, >= 0; scalar, a prefix of x, or one step for each coordinate.

    Returns:
      A pytree like x.

    Raises:
      ValueError: strength or step is negative.

    References:
      Parikh and Boyd, Proximal Algorithms (2014), section 6.5.1.
    """
    check_non_negative(strength=strength, step=step)
    leaves, tree = jax.tree.flatten(x)
    if not leaves:
        return x
    dtypes = [check_real(leaf) for leaf in leaves]
    wide = wide_dtype(*leaves)
    leaves = [jnp.asarray(leaf).astype(wide) for leaf in leaves]
    strength = jnp.asarray(strength).astype(wide)
    steps = [jnp.asarray(s).astype(wide) for s in jax.tree.leaves(jax.tree.broadcast(step, x))]
    if jax.tree_util.all_leaves([step]) and steps[0].ndim == 0:
        squared_norm = sum(jnp.sum(leaf * leaf) for leaf in leaves)
        shrunk = [_block_threshold(leaf, squared_norm, steps[0] * strength) for leaf in leaves]
    else:
        shapes = [leaf.shape for leaf in leaves]
        steps = [jnp.broadcast_to(s, shape) for s, shape in zip(steps, shapes, strict=True)]
        vector, back = ravel_pytree(leaves)
        shrunk = back(_scaled_group_threshold(vector, strength, ravel_pytree(steps)[0], (0,)))
    return jax.tree.unflatten(tree, [s.astype(d) for s, d in zip(shrunk, dtypes, strict=True)])


def group_l2(x: PyTree, strength: PyTree = 1.0, step: PyTree = 1.0, *, axis: Axis) -> PyTree:
    r"""Block soft threshold of every group, the operator of the l2,1 norm (group lasso).

    .. math::
      \arg\min_u \tfrac12 \|u - x\|_2^2 + \text{step} \cdot \text{strength} \sum_g \|u_g\|_2,
      \qquad u_g = \max\!\left(1 - \frac{\text{step} \cdot \text{strength}}{\|x_g\|_2}, 0\right) x_g

    A group extends over ``axis`` of a leaf; there is one for each index of the other axes. In the
    layout of Flax and Haiku, ``axis=(0, 1, 2)`` of a convolution's kernel and ``axis=0`` of a dense
    one make a group of all that enters one output channel, and ``axis=1`` of a dense kernel of all
    that leaves one input feature. Groups are not weighted by the root of their size as in Yuan and
    Lin; multiply the strength for that.

    With one step for each coordinate the group is zero where
    :math:`\|x_g / \text{step}_g\|_2 \le \text{strength}`; otherwise
    :math:`u_i = x_i / (1 + \text{step}_i \cdot \text{strength} / r)` with :math:`r = \|u_g\|_2`,
    which Newton's method finds to rounding (it ascends to the root and cannot overshoot).

    Args:
      x: array or pytree whose leaves all have these axes.
      strength: penalty, >= 0; scalar, a prefix of x, or arrays that hold one number for each group
        (a leaf's shape with size 1 along axis).
      step: step length, >= 0; scalar, a prefix of x, or one step for each coordinate.
      axis: axis or axes that a group extends over.

    Returns:
      A pytree like x.

    Raises:
      ValueError: strength or step is negative, or a leaf lacks an axis.

    References:
      Yuan and Lin, Model selection and estimation in regression with grouped variables (2006).
      Parikh and Boyd, Proximal Algorithms (2014), section 6.5.4. For the diagonal metric: Yun,
      Lozano and Yang, Adaptive proximal gradient methods for structured neural networks (2021),
      section 3, which solves the same scalar equation.
    """

    def shrink(x, lam, tau):
        return group_threshold(x, lam, tau, check_axis("group_l2", axis, x.shape))

    return leafwise(shrink, x, strength, step)


def sparse_group(
    x: PyTree,
    strength: PyTree = 1.0,
    step: PyTree = 1.0,
    *,
    axis: Axis,
    l1_ratio: float = 0.5,
) -> PyTree:
    r"""Soft threshold, then block soft threshold: the operator of the sparse group lasso.

    .. math::
      \arg\min_u \tfrac12 \|u - x\|_2^2 + \text{step} \cdot \text{strength}
      \left( \rho \|u\|_1 + (1 - \rho) \sum_g \|u_g\|_2 \right)

    with :math:`\rho` = l1_ratio. The operator of the sum is the composition
    :math:`\operatorname{prox}_{\text{group}} \circ \operatorname{prox}_{l1}`, in this order, for
    one step or for one step each coordinate.

    Args:
      x: array or pytree whose leaves all have these axes.
      strength: penalty, >= 0; as in :func:`group_l2`.
      step: step length, >= 0; as in :func:`group_l2`.
      axis: axis or axes that a group extends over, as in :func:`group_l2`.
      l1_ratio: share of the l1 norm, in [0, 1]; 0 is :func:`group_l2`.

    Returns:
      A pytree like x.

    Raises:
      ValueError: strength or step is negative, l1_ratio outside [0, 1], or a leaf lacks an axis.

    References:
      Simon, Friedman, Hastie and Tibshirani, A sparse-group lasso (2013), section 2. Yu, On
      decomposing the proximal map (2013), theorem 4.
    """
    check_fraction("l1_ratio", l1_ratio, or_one=True)

    def shrink(x, lam, tau):
        axes = check_axis("sparse_group", axis, x.shape)
        sparse = soft_threshold(x, tau * (l1_ratio * lam))
        return group_threshold(sparse, (1.0 - l1_ratio) * lam, tau, axes)

    return leafwise(shrink, x, strength, step)


def exclusive(
    x: PyTree,
    strength: PyTree = 1.0,
    step: PyTree = 1.0,
    *,
    axis: Axis,
    linearized: bool = False,
) -> PyTree:
    r"""The operator of the exclusive lasso: entries of a group compete, few of each survive.

    .. math::
      \arg\min_u \tfrac12 \|u - x\|_2^2
      + \text{step} \cdot \tfrac{\text{strength}}{2} \sum_g \|u_g\|_1^2,
      \qquad u_i = \operatorname{sign}(x_i) \max(|x_i| - \text{step}_i \cdot \theta_g, 0)

    with :math:`\theta_g = \text{strength} \cdot \|u_g\|_1`, which sorting finds exactly: over the
    coordinates in falling order of :math:`|x_i| / \text{step}_i`,

    .. math::
      \theta_g = \max_k \frac{\text{strength} \sum_{i \le k} |x_i|}
      {1 + \text{strength} \sum_{i \le k} \text{step}_i}.

    Args:
      x: array or pytree whose leaves all have these axes.
      strength: penalty, >= 0; as in :func:`group_l2`.
      step: step length, >= 0; as in :func:`group_l2`.
      axis: axis or axes that a group extends over, as in :func:`group_l2`.
      linearized: takes :math:`\theta_g = \text{strength} \cdot \|x_g\|_1`, the norm before the step
        instead of after it, as CGES does. It shrinks more than the exact operator, and zeroes a
        whole group once step * strength >= 1; use it to reproduce CGES.

    Returns:
      A pytree like x.

    Raises:
      ValueError: strength or step is negative, or a leaf lacks an axis.

    References:
      Zhou, Jin and Hoi, Exclusive lasso for multi-task feature selection (2010). Yoon and Hwang,
      Combined group and exclusive sparsity for deep neural networks (CGES, 2017), section 3, whose
      step is the linearized one. The exact threshold is derived here.
    """

    def shrink(x, lam, tau):
        axes = check_axis("exclusive", axis, x.shape)
        lam = _one_per_group("exclusive", lam, x.shape, axes)
        size = jnp.abs(x)
        if linearized:
            theta = lam * jnp.sum(size, axes, keepdims=True)
        else:
            theta = _exclusive_threshold(size, lam, jnp.broadcast_to(tau, x.shape), axes)
        return soft_threshold(x, tau * theta)

    return leafwise(shrink, x, strength, step)


def _exclusive_threshold(size, lam, tau, axes):
    """Finds theta of ``exclusive``, with size 1 along ``axes``."""
    kept = [a for a in range(size.ndim) if a not in axes]
    group_shape = tuple(1 if a in axes else size.shape[a] for a in range(size.ndim))

    def rows(array):
        return array.transpose(*kept, *axes).reshape(*(size.shape[a] for a in kept), -1)

    size, tau = rows(size), rows(tau)
    lam = jnp.broadcast_to(lam, group_shape).reshape(*size.shape[:-1], 1)
    # A coordinate with step 0 does not move, so it counts in full: it comes first.
    order = jnp.argsort(jnp.where(tau > 0, size / jnp.where(tau > 0, tau, 1.0), jnp.inf))[..., ::-1]
    sizes = jnp.cumsum(jnp.take_along_axis(size, order, -1), -1)
    steps = jnp.cumsum(jnp.take_along_axis(tau, order, -1), -1)
    return jnp.max(lam * sizes / (1.0 + lam * steps), -1).reshape(group_shape)


def group_threshold(x, lam, tau, axes):
    """The operator of ``group_l2`` on one array."""
    lam = _one_per_group("group_l2", lam, x.shape, axes)
    if tau.ndim:
        return _scaled_group_threshold(x, lam, tau, axes)
    return _block_threshold(x, jnp.sum(x * x, axes, keepdims=True), tau * lam)


def _one_per_group(operator, strength, shape, axes):
    """Checks that a strength is constant within a group, and gives it the rank of the leaf."""
    full = (1,) * (len(shape) - strength.ndim) + strength.shape
    if strength.ndim > len(shape) or any(full[a] != 1 for a in axes):
        raise ValueError(
            f"{operator} takes one strength for each group: a scalar, or size 1 along the axes "
            f"{axes} of a leaf of shape {shape}, got shape {strength.shape}."
        )
    return strength.reshape(full) if strength.ndim else strength


def _block_threshold(x, squared_norm, threshold):
    """The closed form, with neither NaN nor a NaN gradient where the norm is 0."""
    norm = jnp.sqrt(jnp.where(squared_norm > 0, squared_norm, 1.0))
    alive = (squared_norm > 0) & (norm > threshold)
    return jnp.where(alive, x * (1.0 - threshold / norm), 0.0)


# Compiled here, or every call outside of jit would compile its loop anew.
@functools.partial(jax.jit, static_argnames="axes")
def _scaled_group_threshold(x, lam, tau, axes):
    """The operator of ``group_l2`` with one step for each coordinate.

    The norm r of the solution solves norm(x / (r + weight)) = 1. Newton's method on
    1 / norm(...) - 1, a concave and rising function of r, ascends to the root from any lower bound
    on it: ||u|| = r gives r >= ||x|| - max weight and r >= |x_i| - weight_i.
    """
    weight = lam * tau

    def total(array):
        return jnp.sum(array, axes, keepdims=True)

    def moments(radius):
        """Sums of x^2 / (radius + weight)^k for k = 2 and 3."""
        inverse = _inverse(radius + weight)
        return total((x * inverse) ** 2), total((x * inverse) ** 2 * inverse)

    norm = jnp.sqrt(total(x * x))
    free = jnp.any((weight == 0) & (x != 0), axes, keepdims=True)
    alive = free | (moments(jnp.zeros_like(norm))[0] > 1.0)
    radius = jnp.maximum(norm - jnp.max(weight, axes, keepdims=True), 0.0)
    radius = jnp.maximum(radius, jnp.max(jnp.abs(x) - weight, axes, keepdims=True))
    # The error after a step is of the order of the step's square, so this reaches rounding.
    tolerance = 0.1 * jnp.finfo(norm.dtype).eps ** 0.5

    def unfinished(carry):
        iteration, radius, change = carry
        return (iteration < 50) & jnp.any(change > tolerance * radius)

    def newton(carry):
        iteration, radius, _ = carry
        second, third = moments(radius)
        change = second * (jnp.sqrt(second) - 1.0) * _inverse(third)
        return iteration + 1, radius + jnp.where(alive, change, 0.0), jnp.where(alive, change, 0.0)

    start = (0, radius, jnp.full_like(radius, jnp.inf))
    _, radius, _ = jax.lax.while_loop(unfinished, newton, start)
    # Divided, not multiplied by an inverse: with weight 0 the factor is exactly 1.
    factor = radius / jnp.where(radius + weight > 0, radius + weight, 1.0)
    return jnp.where(alive, x * factor, 0.0)


def _inverse(x: jax.Array) -> jax.Array:
    """1 / x, and 0 for 0: a coordinate of weight 0 and value 0 counts nothing."""
    return jnp.where(x > 0, 1.0 / jnp.where(x > 0, x, 1.0), 0.0)
