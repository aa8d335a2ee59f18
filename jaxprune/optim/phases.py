"""The phases of training to be sparse: a warm-up, a ramp, and healing.

    strength = ramp(200, 600, 1e-3, until=800)
    optimizer = optax.chain(proximal_adam(1e-3, prox.l1, strength), healing(800))

trains 200 steps as if there were no penalty, lets its strength rise until step 600, and from step
800 on trains the weights that are not zero, without the penalty's bias. With
``prox.joint_sparsity`` the same schedule is of the sparsity itself.
"""

import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune.optim.common import check_non_negative, check_params, map_params


def ramp(
    start: int, stop: int, value: float, *, power: float = 3.0, until: int = sys.maxsize
) -> optax.Schedule:
    r"""A schedule that is zero in a warm-up, rises, stays, and is zero again while weights heal.

    .. math::
      v(t) = \text{value} \left(1 - \left(1 - \frac{t - \text{start}}{\text{stop} - \text{start}}
      \right)^{\text{power}} \right), \qquad \text{start} \le t < \text{stop}

    It is 0 before start, value from stop on, and 0 from until on. As the strength of
    :func:`proximal` it lets the step act from start to until; as that of
    ``prox.joint_sparsity`` it is the gradual pruning of Zhu and Gupta.

    Args:
      start: the first step of the ramp, >= 0; before it is the warm-up.
      stop: the step at which value is reached, >= start.
      value: the last value, >= 0.
      power: 1 for a straight line; 3 rises fast at first, while there is much that can go.
      until: the step from which on the value is 0, >= stop; give it to :func:`healing` too.

    Returns:
      A schedule: a function of the step count to a float32 scalar.

    Raises:
      ValueError: value is negative, power not positive, or the steps are out of order.

    References:
      Zhu and Gupta, To prune, or not to prune (2017, arXiv 1710.01878), eq. 1, with s_i = 0, and
      every step being one at which sparsity changes.
    """
    check_non_negative(start=start, value=value)
    if not start <= stop <= until:
        raise ValueError(
            f"ramp needs start <= stop <= until, got start={start}, stop={stop}, until={until}."
        )
    if not power > 0:
        raise ValueError(f"power must be positive, got {power}.")
    length = max(stop - start, 1)
    end = min(until, jnp.iinfo(jnp.int32).max)

    def schedule(count):
        done = jnp.clip((jnp.asarray(count, jnp.float32) - start) / length, 0.0, 1.0)
        done = jnp.where(jnp.asarray(count) >= stop, 1.0, done)
        risen = value * (1.0 - (1.0 - done) ** power)
        acts = (jnp.asarray(count) >= start) & (jnp.asarray(count) < end)
        return jnp.where(acts, risen, 0.0).astype(jnp.float32)

    return schedule


class HealingState(NamedTuple):
    """State of :func:`healing`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32; steps taken


def healing(start: int) -> optax.GradientTransformation:
    """From a step on, what is exactly zero stays zero, and everything else trains freely.

    Until then updates pass through. It is the last of its chain, after :func:`proximal`, whose
    strength should be zero from the same step on (:func:`ramp` with ``until``): a penalty biases
    the weights that are left towards zero, and so costs more than the sparsity needs.

    Parameters that happen to be zero, such as biases that have never moved, are frozen too; keep
    them away with ``optax.masked``. Not for :func:`fista`, whose parameters are no solutions.

    Args:
      start: the first step, counted from 0, at which zeros are frozen; >= 0.

    Returns:
      A gradient transformation.

    Raises:
      ValueError: start is negative, or (in ``update``) the parameters are missing.

    References:
      The healing phase of torchao's pruning-aware training (``healing_start_step``). There, zeros
      are frozen by masking gradients and weights; here, updates, so that weight decay and momentum
      of the chain before it cannot move them either.
    """
    check_non_negative(start=start)

    def init_fn(params):
        del params
        return HealingState(count=jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None):
        check_params(params)
        heals = state.count >= start

        def freeze(param, update):
            return jnp.where(heals & (jnp.asarray(param) == 0), jnp.zeros_like(update), update)

        return map_params(freeze, params, updates), HealingState(
            count=optax.safe_increment(state.count)
        )

    return optax.GradientTransformation(init_fn, update_fn)
