r"""Lagrange multipliers as parameters, moved by the violation of their constraints.

For constraints ``cost <= budget``, these transforms take **violations** in place of gradients: raw
cost minus budget, positive where a constraint is violated. Multipliers are a pytree of arrays, one
entry per constraint, and

    updates, state = dual.update(violations, state, multipliers)
    multipliers = optax.apply_updates(multipliers, updates)

ascends. Multipliers never leave [0, cap]. Adam does not suit this step: it normalises the violation
by its own size, so a multiplier moves by the learning rate however small the violation is.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune.optim.common import (
    PyTree,
    at_step,
    check_fraction,
    check_non_negative,
    check_params,
    wide_dtype,
)
from jaxprune.optim.transform import ScalarOrSchedule


class DualAscentState(NamedTuple):
    """State of :func:`dual_ascent`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32; steps taken


def dual_ascent(
    learning_rate: ScalarOrSchedule, *, cap: PyTree | None = None
) -> optax.GradientTransformation:
    r"""Projected gradient ascent on Lagrange multipliers.

    .. math::
      \lambda \leftarrow \min(\max(\lambda + \eta \, (\text{cost} - \text{budget}), 0), \text{cap})

    This is integral control: alone it overshoots and rings, since the multiplier goes on rising
    until the constraint holds; :func:`dual_pid` damps it.

    Args:
      learning_rate: :math:`\eta` >= 0, multiplier per unit of violation; a number or a schedule.
      cap: largest multiplier, >= 0; a number, a prefix of the multipliers, or None for none.

    Returns:
      A gradient transformation whose parameters are the multipliers and whose incoming updates are
      the violations.

    Raises:
      ValueError: learning_rate or cap is negative, or (in ``update``) the multipliers are missing.

    References:
      Arrow, Hurwicz and Uzawa, Studies in Linear and Non-linear Programming (1958). Bertsekas,
      Nonlinear Programming (1999), section 6.3.
    """
    check_non_negative(learning_rate=learning_rate, cap=cap)

    def init_fn(params):
        del params
        return DualAscentState(count=jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None):
        check_params(params)
        rate = at_step(learning_rate, state.count)

        def ascend(multiplier, violation, cap):
            wide = wide_dtype(multiplier, violation)
            goal = jnp.asarray(multiplier, wide) + rate * jnp.asarray(violation, wide)
            return _land_inside(multiplier, _clipped(goal, cap), cap)

        updates = jax.tree.map(ascend, params, updates, _caps(cap, params))
        return updates, DualAscentState(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(init_fn, update_fn)


class DualPIDState(NamedTuple):
    """State of :func:`dual_pid`; the trees are like the multipliers, at least float32."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32; steps taken
    integral: PyTree  # in [0, cap]; sum of integral gain times violation
    smoothed: PyTree  # moving average of the violation


def dual_pid(
    proportional: ScalarOrSchedule,
    integral: ScalarOrSchedule,
    derivative: ScalarOrSchedule,
    *,
    cap: PyTree | None = None,
    smoothing: float = 0.0,
) -> optax.GradientTransformation:
    r"""A PID controller that sets Lagrange multipliers from the violations.

    With the violation :math:`\Delta = \text{cost} - \text{budget}` and its moving average
    :math:`\bar\Delta \leftarrow \alpha \bar\Delta + (1 - \alpha) \Delta` (:math:`\alpha` =
    smoothing),

    .. math::
      I &\leftarrow \min(\max(I + K_I \Delta, 0), \text{cap}) \\
      \lambda &\leftarrow \min(\max(K_P \bar\Delta + I
        + K_D \max(\bar\Delta - \bar\Delta_{old}, 0), 0), \text{cap}).

    The proportional term responds to a violation at once and the derivative term to its growth,
    which damps the ringing of the integral term; :math:`K_P = K_D = 0` is :func:`dual_ascent`.

    Departures from the paper's algorithm 2: the integral accumulates :math:`K_I \Delta` rather than
    :math:`\Delta`, so that a schedule of :math:`K_I` only affects later steps, and starts at the
    initial multiplier; it is capped too, to prevent wind-up while the multiplier is at its cap; the
    derivative is zero in the first step, which has no earlier cost, and is that of the violation,
    which for a constant budget equals that of the cost. The smoothing is that of the authors'
    implementation.

    Args:
      proportional: gain :math:`K_P` >= 0; a number or a schedule.
      integral: gain :math:`K_I` >= 0; the same.
      derivative: gain :math:`K_D` >= 0; the same.
      cap: largest multiplier, >= 0; a number, a prefix of the multipliers, or None for none.
      smoothing: decay of the moving average, in [0, 1); 0 for none.

    Returns:
      A gradient transformation whose parameters are the multipliers and whose incoming updates are
      the violations.

    Raises:
      ValueError: a gain or cap is negative, smoothing outside [0, 1), or (in ``update``) the
        multipliers are missing.

    References:
      Stooke, Achiam and Abbeel, Responsive safety in reinforcement learning by PID Lagrangian
      methods (2020), algorithm 2.
    """
    check_non_negative(proportional=proportional, integral=integral, derivative=derivative, cap=cap)
    check_fraction("smoothing", smoothing)

    def init_fn(params):
        def widened(multiplier):
            return jnp.array(multiplier, wide_dtype(multiplier), copy=True)

        start = jax.tree.map(widened, params)
        return DualPIDState(
            count=jnp.zeros([], jnp.int32),
            integral=jax.tree.map(_clipped, start, _caps(cap, params)),
            smoothed=jax.tree.map(jnp.zeros_like, start),
        )

    def update_fn(updates, state, params=None):
        check_params(params)
        gains = [at_step(gain, state.count) for gain in (proportional, integral, derivative)]
        kp, ki, kd = gains
        first = state.count == 0
        caps = _caps(cap, params)

        def accumulate(total, violation, cap):
            return _clipped(total + ki * jnp.asarray(violation, total.dtype), cap)

        def smooth(average, violation):
            violation = jnp.asarray(violation, average.dtype)
            return jnp.where(first, violation, average + (1.0 - smoothing) * (violation - average))

        def control(multiplier, total, average, older, cap):
            growth = jnp.where(first, 0.0, jnp.maximum(average - older, 0.0))
            goal = kp * average + total + kd * growth
            return _land_inside(multiplier, _clipped(goal, cap), cap)

        totals = jax.tree.map(accumulate, state.integral, updates, caps)
        averages = jax.tree.map(smooth, state.smoothed, updates)
        updates = jax.tree.map(control, params, totals, averages, state.smoothed, caps)
        return updates, DualPIDState(optax.safe_increment(state.count), totals, averages)

    return optax.GradientTransformation(init_fn, update_fn)


def _caps(cap: PyTree | None, multipliers: PyTree) -> PyTree:
    """One cap for each leaf of the multipliers; infinity for none."""
    return jax.tree.broadcast(jnp.inf if cap is None else cap, multipliers)


def _clipped(value: jax.Array, cap: jax.typing.ArrayLike) -> jax.Array:
    return jnp.clip(value, 0.0, jnp.asarray(cap, value.dtype))


def _land_inside(
    multiplier: jax.typing.ArrayLike, goal: jax.Array, cap: jax.typing.ArrayLike
) -> jax.Array:
    """The update from multiplier to goal, such that their sum does not round to above cap.

    It cannot round to below 0: goal >= 0 gives update >= -multiplier, which is a float.
    """
    dtype = jnp.result_type(multiplier)
    multiplier = jnp.asarray(multiplier)
    update = (goal - multiplier.astype(goal.dtype)).astype(dtype)
    beyond = multiplier + update > jnp.asarray(cap, dtype)
    return jnp.where(beyond, jnp.nextafter(update, jnp.asarray(-jnp.inf, dtype)), update)
