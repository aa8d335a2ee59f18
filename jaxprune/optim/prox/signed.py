"""Operators with a sign constraint."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxprune.optim.common import PyTree, check_callable
from jaxprune.optim.prox.spectral import nuclear


def nonnegative(operator: Callable[..., PyTree] | None = None) -> Callable[..., PyTree]:
    r"""The operator of a penalty plus the constraint that every entry is >= 0.

    .. math::
      \arg\min_{u \ge 0} \tfrac12 \|u - x\|_2^2 + \text{step} \cdot \text{penalty}(u),
      \qquad u = \operatorname{prox}(\max(x, 0))

    This holds for every penalty that depends on magnitudes alone and falls with none of them, which
    is all of this module but :func:`nuclear`: an entry with :math:`x_i < 0` is best at zero, and an
    operator of such a penalty keeps signs.

    Args:
      operator: one of this module, with its options bound; None for no penalty, which gives the
        projection onto the nonnegative orthant.

    Returns:
      A function with the signature of the operators, ``(x, strength=1.0, step=1.0)``.

    Raises:
      ValueError: operator is not a function, or is :func:`nuclear`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxprune.optim import prox
      >>> print(prox.nonnegative(prox.l1)(jnp.array([-3.0, 0.5, 3.0]), 1.0))
      [0. 0. 2.]

    References:
      Bauschke and Combettes, Convex Analysis and Monotone Operator Theory (2017), proposition 24.47
      for separable penalties.
    """
    if operator is not None:
        check_callable("operator", operator)
        inner = operator
        while isinstance(inner, functools.partial):
            inner = inner.func
        if inner is nuclear:
            raise ValueError(
                "nonnegative(nuclear) is not the operator of the constrained problem: singular "
                "values and signs have no common closed form."
            )

    def constrained(x, strength=1.0, step=1.0):
        positive = jax.tree.map(lambda leaf: jnp.maximum(leaf, 0), x)
        return positive if operator is None else operator(positive, strength, step)

    return constrained
