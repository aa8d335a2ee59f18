"""The proximal step as a gradient transformation."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune.optim.common import (
    PyTree,
    at_step,
    check_callable,
    check_non_negative,
    check_params,
    landing,
    moved,
    scaled,
)

Prox = Callable[[PyTree, PyTree, PyTree], PyTree]
"""A proximal operator: (x, strength, step) to a pytree like x. JAXopt's fit too."""

ScalarOrSchedule = float | jax.Array | Callable[[jax.Array], jax.Array]


class ProximalState(NamedTuple):
    """State of :func:`proximal`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32; steps taken


def proximal(
    prox: Prox,
    strength: PyTree | optax.Schedule,
    learning_rate: ScalarOrSchedule,
) -> optax.GradientTransformation:
    r"""Lands ``params + updates`` on the proximal operator of the step. The last of its chain.

    .. math::
      w \leftarrow \arg\min_u \tfrac12 \|u - (w + \text{updates})\|_2^2
        + \text{learning rate} \cdot \text{strength} \cdot \text{penalty}(u)

    After ``optax.sgd(learning_rate)`` this is the proximal gradient method for
    :math:`\text{loss}(w) + \text{strength} \cdot \text{penalty}(w)`: entries that the penalty
    removes are exact zeros, as they never are when the penalty is added to the loss. After a
    preconditioned step such as ``optax.adam`` it is the plain variant: with ``prox.l1`` every entry
    loses strength * learning_rate, whatever Adam scaled its gradient by (ACNN, eqs. 8-11). Its
    fixed points are not the minimisers of loss + penalty; :func:`scaled_proximal` has those.

    Later transforms in a chain would move the parameters off the operator again, and so would
    ``optax.MultiSteps`` inside it: wrap the whole chain instead. Weight decay and clipping come
    earlier.

    Args:
      prox: operator ``(x, strength, step)``, see :mod:`jaxprune.optim.prox`. It is given the whole
        tree of parameters, with step = learning_rate.
      strength: weight of the penalty in units of the loss, >= 0; a number, a pytree that is a
        prefix of the parameters, or a schedule of the step count.
      learning_rate: step length of the chain before it, > 0; a number or a schedule, the same that
        the chain uses. After momentum, which sums past gradients, that over 1 - momentum.

    Returns:
      A gradient transformation. Its updates have the wider dtype of parameter and incoming update.

    Raises:
      ValueError: prox is no function, strength or learning_rate is negative, or (in ``update``) the
        parameters are missing.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxprune.optim import prox, proximal
      >>> optimizer = optax.chain(optax.sgd(0.5), proximal(prox.l1, 0.2, 0.5))
      >>> params = jnp.array([1.0, -0.05])
      >>> updates, _ = optimizer.update(jnp.array([0.4, 0.1]), optimizer.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      [0.7 0. ]

    Note:
      Under ``optax.inject_hyperparams`` declare the operator static, or it is taken for a schedule:
      ``optax.inject_hyperparams(proximal, static_args="prox")(prox.l1, 0.1, 0.01)``.

    References:
      Parikh and Boyd, Proximal Algorithms (2014), section 4.2. Wang et al., Automatic compression
      of neural network with deep reinforcement learning based on proximal gradient method (ACNN,
      2023), eqs. 8-11; eq. 8 ascends, which is the sign of the gradients given to the chain.
    """
    check_callable("prox", prox)
    check_non_negative(strength=strength, learning_rate=learning_rate)

    def init_fn(params):
        del params
        return ProximalState(count=jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None):
        check_params(params)
        step = at_step(learning_rate, state.count)
        target = prox(moved(params, updates), at_step(strength, state.count), step)
        return landing(params, target, updates), ProximalState(
            count=optax.safe_increment(state.count)
        )

    return optax.GradientTransformation(init_fn, update_fn)


class ScaledProximalState(NamedTuple):
    """State of :func:`scaled_proximal`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32; steps taken
    preconditioner: optax.OptState  # state of the transform that scales the gradients


def scaled_proximal(
    preconditioner: optax.GradientTransformation,
    diagonal: Callable[[optax.OptState], PyTree],
    prox: Prox,
    strength: PyTree | optax.Schedule,
    learning_rate: ScalarOrSchedule,
) -> optax.GradientTransformation:
    r"""A preconditioned step and the proximal operator in the preconditioner's own metric.

    .. math::
      w \leftarrow \arg\min_u \sum_i \frac{(u_i - z_i)^2}{2 \, \eta D_i} + \text{strength} \cdot
      \text{penalty}(u), \qquad z = w - \eta \, \text{preconditioner}(g)

    where :math:`\eta` is the learning rate and :math:`D` the diagonal by which the preconditioner
    multiplies the gradient. Coordinate :math:`i` took a step of length :math:`\eta D_i`, so that is
    the step its operator takes. Fixed points are the stationary points of loss + strength *
    penalty, as for the unscaled method, whatever :math:`D` is; this is what :func:`proximal` after
    Adam does not give.

    It is a whole optimizer but for what comes before it (clipping, for example): nothing follows it
    in a chain.

    Args:
      preconditioner: transform of the gradients, without learning rate and sign, for example
        ``optax.scale_by_adam()``.
      diagonal: gives the tree :math:`D` > 0, like the parameters, from the preconditioner's new
        state, for example :func:`adam_diagonal`.
      prox: operator that takes one step for each coordinate: every one of
        :mod:`jaxprune.optim.prox` but ``nuclear``.
      strength: weight of the penalty in units of the loss, as in :func:`proximal`.
      learning_rate: a number >= 0 or a schedule.

    Returns:
      A gradient transformation.

    Raises:
      ValueError: as :func:`proximal`.

    References:
      Yun, Lozano and Yang, Adaptive proximal gradient methods for structured neural networks
      (ProxGen, NeurIPS 2021), algorithm 1. Duchi, Hazan and Singer, Adaptive subgradient methods
      (2011), section 1.1, for the step in the diagonal metric.
    """
    check_callable("prox", prox)
    check_callable("diagonal", diagonal)
    check_non_negative(strength=strength, learning_rate=learning_rate)
    inner = optax.with_extra_args_support(preconditioner)

    def init_fn(params):
        return ScaledProximalState(
            count=jnp.zeros([], jnp.int32), preconditioner=inner.init(params)
        )

    def update_fn(updates, state, params=None, **extra_args):
        check_params(params)
        rate = at_step(learning_rate, state.count)
        direction, inner_state = inner.update(updates, state.preconditioner, params, **extra_args)
        forward = scaled(direction, -rate)
        steps = scaled(diagonal(inner_state), rate)
        target = prox(moved(params, forward), at_step(strength, state.count), steps)
        state = ScaledProximalState(
            count=optax.safe_increment(state.count), preconditioner=inner_state
        )
        return landing(params, target, direction), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def adam_diagonal(
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
) -> Callable[[optax.ScaleByAdamState], PyTree]:
    r"""The diagonal of ``optax.scale_by_adam``, for :func:`scaled_proximal`.

    .. math::
      D = \frac{1}{\sqrt{\hat v + \text{eps\_root}} + \text{eps}}

    Args:
      b2: decay of the second moment, as given to ``optax.scale_by_adam``.
      eps: term outside the root, the same.
      eps_root: term inside the root, the same.

    Returns:
      A function from the state after an update to a tree like the parameters, in float32 at least.
    """

    def diagonal(state):
        correction = 1.0 - jnp.asarray(b2, jnp.float32) ** state.count

        def scale(second_moment):
            wide = jnp.promote_types(second_moment.dtype, jnp.float32)
            corrected = second_moment.astype(wide) / correction.astype(wide)
            return 1.0 / (jnp.sqrt(corrected + eps_root) + eps)

        return jax.tree.map(scale, state.nu)

    return diagonal
