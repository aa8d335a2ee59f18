r"""Splitting methods: weights that train freely, pulled towards a copy that is sparse.

    optimizer = optax.chain(admm(prox.joint_sparsity, 0.9, rho=1e-2, every=100), optax.adam(1e-3))
    ...
    params = prox.joint_sparsity(params, 0.9)  # at the end

The problem is :math:`\min_W f(W) + g(W)`, where g is a penalty, or the indicator of a set such as
"nine tenths are zero", as :math:`\min f(W) + g(Z)` such that :math:`W = Z`. These transforms come
first in a chain: they add the slope of the augmented Lagrangian to the gradients. In between, the
loss is smooth, so any optimizer may follow. The zeros are in the copy: apply the operator once more
at the end, and train on under :func:`jaxprune.optim.healing` from step 0.
"""

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
    map_params,
    wide_dtype,
)
from jaxprune.optim.transform import Prox, ScalarOrSchedule


class ADMMState(NamedTuple):
    """State of :func:`admm`; the trees are like the parameters, at least float32."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32; steps taken
    copy: PyTree  # Z: on the operator
    dual: PyTree  # the multipliers of W = Z


def admm(
    prox: Prox,
    strength: PyTree | optax.Schedule,
    rho: ScalarOrSchedule,
    *,
    every: int = 1,
) -> optax.GradientTransformation:
    r"""The alternating direction method of multipliers, its first minimisation by the chain.

    .. math::
      W &\leftarrow \text{steps along } \nabla f(W) + \Lambda + \rho \, (W - Z) \\
      Z &\leftarrow \operatorname{prox}(W + \Lambda / \rho, \; \text{strength}, \; 1 / \rho) \\
      \Lambda &\leftarrow \Lambda + \rho \, (W - Z)

    the last two after every ``every`` steps of the first. For a convex penalty it converges to the
    minimum of loss + penalty. For projections on sets that are not convex it is a heuristic, the
    one that the papers on weight pruning use; there it may circle if :math:`\rho` is below the
    loss's curvature.

    Departures: the first minimisation is as many steps as ``every`` says, not exact; with Adam,
    the penalty's slope is scaled with the loss's. Multipliers are not divided by :math:`\rho`, so
    that it may be a schedule.

    Args:
      prox: operator, or projection, ``(x, strength, step)``, see :mod:`jaxprune.optim.prox`.
      strength: as the operator takes it; a number, a prefix of the parameters, or a schedule.
      rho: :math:`\rho` > 0, in units of the loss per squared weight; a number or a schedule.
      every: steps between two changes of the copy, at least 1.

    Returns:
      A gradient transformation.

    Raises:
      ValueError: prox is no function, strength or rho is negative, every is below 1, or (in
        ``update``) the parameters are missing.

    References:
      Boyd et al., Distributed optimization and statistical learning via ADMM (2011), section 3.1.
      Zhang et al., A systematic DNN weight pruning framework using ADMM (ECCV 2018), section 3.
    """
    _check(prox, strength, rho, every)

    def init_fn(params):
        weights = _widened(params)
        copy = _widened(_copied(prox, strength, rho, weights, jnp.zeros([], jnp.int32)))
        return ADMMState(jnp.zeros([], jnp.int32), copy, jax.tree.map(jnp.zeros_like, weights))

    def update_fn(updates, state, params=None):
        check_params(params)
        weights = _widened(params)
        weight = at_step(rho, state.count)

        def change(state):
            moved = jax.tree.map(lambda w, d: w + d / weight, weights, state.dual)
            copy = _copied(prox, strength, rho, moved, state.count)
            dual = jax.tree.map(
                lambda d, w, z: (d + weight * (w - z)).astype(d.dtype), state.dual, weights, copy
            )
            return state._replace(copy=copy, dual=dual)

        due = (state.count > 0) & (state.count % every == 0)
        state = jax.lax.cond(due, change, lambda state: state, state)
        updates = _pulled(updates, weights, state.copy, state.dual, weight)
        return updates, state._replace(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(init_fn, update_fn)


class SurrogateState(NamedTuple):
    """State of :func:`surrogate_lagrangian`; the trees are like the parameters."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32; steps taken
    rounds: jax.Array  # shape=(), dtype=int32; changes of the copy so far
    copy: PyTree  # Z: on the projection
    dual: PyTree  # the multipliers of W = Z
    weights: PyTree  # W at the last change
    value: jax.Array  # shape=(), dtype=float32; the loss there
    step: jax.Array  # shape=(), dtype=float32; step length of the multipliers


def surrogate_lagrangian(
    projection: Prox,
    strength: PyTree | optax.Schedule,
    rho: float = 0.1,
    *,
    every: int = 1,
    step: float = 0.01,
    decay: float = 300.0,
    power: float = 0.1,
) -> optax.GradientTransformationExtraArgs:
    r"""ADMM whose multipliers move only when a minimisation has made headway, by falling steps.

    After every ``every`` steps of the chain along :math:`\nabla f(W) + \Lambda + \rho (W - Z)`,

    .. math::
      &\text{if } L(W, Z, \Lambda) < L(W_{old}, Z, \Lambda): \quad
        s \leftarrow \alpha_k s \frac{\|W_{old} - Z\|}{\|W - Z\|}, \quad
        \Lambda \leftarrow \Lambda + s (W - Z) \\
      &Z_{new} = \operatorname{projection}(W + \Lambda / \rho) \\
      &\text{if } L(W, Z_{new}, \Lambda) < L(W, Z, \Lambda): \quad
        s \leftarrow \alpha_k s \frac{\|W - Z\|}{\|W - Z_{new}\|}, \quad
        \Lambda \leftarrow \Lambda + s (W - Z_{new})

    with the augmented Lagrangian :math:`L = f(W) + \langle \Lambda, W - Z \rangle +
    \tfrac{\rho}{2} \|W - Z\|^2` and :math:`\alpha_k = 1 - 1 / (M k^{1 - 1 / k^r})`, k counting the
    rounds. So the multipliers move by ever less, and the method does not depend on the exactness
    of the minimisations, as :func:`admm` does.

    Pass the loss to ``update`` as ``value=...`` (as for ``optax.lbfgs``); without it, the first
    condition compares the other two terms.

    Departures: written from notes on the paper and not from its text, which was not at hand: the
    order of steps and the constants are its own, details of the ratios in the second step length
    may differ. The conditions take the loss of one batch. A ratio with a distance of zero is 1.

    Args:
      projection: operator of a constraint, such as ``prox.joint_sparsity``.
      strength: as the projection takes it; a number, a prefix of the parameters, or a schedule.
      rho: :math:`\rho` > 0.
      every: steps between two rounds, at least 1.
      step: s at the beginning, > 0.
      decay: M, above 1: the larger, the slower steps fall.
      power: r, in (0, 1).

    Returns:
      A gradient transformation that takes the extra argument ``value``.

    Raises:
      ValueError: an argument is outside its range, or (in ``update``) the parameters are missing.

    References:
      Gurevin et al., Enabling retrain-free deep neural network pruning using surrogate Lagrangian
      relaxation (P-SLR, IJCAI 2021, arXiv 2012.10079). Bragin et al., Convergence of the surrogate
      Lagrangian relaxation method (2015), for the step lengths.
    """
    _check(projection, strength, rho, every)
    if not (step > 0 and decay > 1 and 0 < power < 1):
        raise ValueError(
            "surrogate_lagrangian needs step > 0, decay > 1 and power in (0, 1), got "
            f"step={step}, decay={decay}, power={power}."
        )

    def init_fn(params):
        weights = _widened(params)
        copy = _widened(_copied(projection, strength, rho, weights, jnp.zeros([], jnp.int32)))
        return SurrogateState(
            count=jnp.zeros([], jnp.int32),
            rounds=jnp.zeros([], jnp.int32),
            copy=copy,
            dual=jax.tree.map(jnp.zeros_like, weights),
            weights=weights,
            value=jnp.asarray(jnp.inf, jnp.float32),
            step=jnp.asarray(step, jnp.float32),
        )

    def update_fn(updates, state, params=None, *, value=None, **extra_args):
        del extra_args
        check_params(params)
        weights = _widened(params)
        value = jnp.asarray(0.0 if value is None else value, jnp.float32)

        def terms(weights, copy, dual):
            """The Lagrangian without the loss, and the distance."""
            gap = jax.tree.map(jnp.subtract, weights, copy)
            distance = optax.tree_utils.tree_norm(gap)
            return optax.tree_utils.tree_vdot(dual, gap) + 0.5 * rho * distance**2, distance

        def ascended(moves, length, dual, copy):
            def move(d, w, z):
                return jnp.where(moves, d + length * (w - z), d).astype(d.dtype)

            return jax.tree.map(move, dual, weights, copy)

        def change(state):
            k = (state.rounds + 1).astype(jnp.float32)
            alpha = 1.0 - 1.0 / (decay * k ** (1.0 - 1.0 / k**power))
            before, far = terms(state.weights, state.copy, state.dual)
            now, near = terms(weights, state.copy, state.dual)
            moves = value + now < state.value + before
            length = jnp.where(moves, alpha * state.step * _ratio(far, near), state.step)
            dual = ascended(moves, length, state.dual, state.copy)

            moved = jax.tree.map(lambda w, d: w + d / rho, weights, dual)
            copy = _copied(projection, strength, rho, moved, state.count)
            old, _ = terms(weights, state.copy, dual)
            new, nearer = terms(weights, copy, dual)
            length = jnp.where(new < old, alpha * length * _ratio(near, nearer), length)
            return state._replace(
                rounds=optax.safe_increment(state.rounds),
                copy=copy,
                dual=ascended(new < old, length, dual, copy),
                weights=weights,
                value=value,
                step=length.astype(jnp.float32),
            )

        # The loss at the first weights is known from the first step on.
        first = state._replace(value=jnp.where(state.count == 0, value, state.value))
        due = (state.count > 0) & (state.count % every == 0)
        state = jax.lax.cond(due, change, lambda state: state, first)
        updates = _pulled(updates, weights, state.copy, state.dual, rho)
        return updates, state._replace(count=optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _check(prox, strength, rho, every):
    check_callable("prox", prox)
    check_non_negative(strength=strength, rho=rho)
    if not callable(rho) and not isinstance(rho, jax.core.Tracer) and not rho > 0:
        raise ValueError(f"rho must be positive, got {rho}.")
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}.")


def _widened(params):
    """Copies of the parameters in float32 at least."""
    return jax.tree.map(lambda p: jnp.array(p, wide_dtype(p), copy=True), params)


def _copied(prox, strength, rho, weights, count):
    """The operator at the strength and weight of a step."""
    return prox(weights, at_step(strength, count), 1.0 / at_step(rho, count))


def _pulled(updates, weights, copy, dual, rho):
    """The gradients plus the slope of the augmented Lagrangian's other terms."""

    def add(weight, update, z, multiplier):
        pull = multiplier + rho * (weight - z)
        return (update + pull.astype(wide_dtype(update))).astype(jnp.result_type(update))

    return map_params(add, weights, updates, copy, dual)


def _ratio(first, second):
    """First / second, and 1 where either is zero."""
    usable = (first > 0) & (second > 0)
    return jnp.where(usable, first / jnp.where(usable, second, 1.0), 1.0)
