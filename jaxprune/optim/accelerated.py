"""Accelerated proximal gradient (FISTA) as a gradient transformation."""

from typing import Literal, NamedTuple

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
    map_params,
    moved,
    scaled,
    wide_dtype,
)
from jaxprune.optim.transform import Prox, ScalarOrSchedule


class FistaState(NamedTuple):
    """State of :func:`fista`."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32; steps taken
    momentum: jax.Array  # shape=(), dtype=float32; t_k of the method, 1 after a restart
    iterate: PyTree  # like the parameters; x_k, on the proximal operator: the answer


def fista(
    prox: Prox,
    strength: PyTree | optax.Schedule,
    learning_rate: ScalarOrSchedule,
    *,
    restart: Literal["gradient", "none"] = "gradient",
) -> optax.GradientTransformation:
    r"""FISTA: proximal gradient with Nesterov's extrapolation and adaptive restart.

    .. math::
      x_{k+1} = \operatorname{prox}(y_k - \eta \nabla \text{loss}(y_k)), \quad
      t_{k+1} = \tfrac12 \left(1 + \sqrt{1 + 4 t_k^2}\right), \quad
      y_{k+1} = x_{k+1} + \frac{t_k - 1}{t_{k+1}} (x_{k+1} - x_k)

    The parameters that the training loop holds are the extrapolated points :math:`y_k`, since the
    gradient is needed there. The solution, with its exact zeros, is :math:`x_k`: take it with
    :func:`fista_eval_params`. The error of a convex problem falls as 1 / k^2 (1 / k without
    acceleration). With restart="gradient" the momentum is dropped whenever it points uphill,
    :math:`\langle y_k - x_{k+1}, x_{k+1} - x_k \rangle > 0`, which makes the rate linear on
    problems that are strongly convex near their solution, without knowing how strongly.

    Gradients must be the loss's own (full batch, or nearly: momentum that grows to 1 amplifies
    noise): this is a whole optimizer, not a link of a chain.

    Args:
      prox: operator of a convex penalty, see :mod:`jaxprune.optim.prox`.
      strength: weight of the penalty in units of the loss, >= 0; number, prefix of the parameters,
        or schedule.
      learning_rate: :math:`\eta` > 0, at most 1 / L for convergence, L being the largest curvature
        of the loss; a number or a schedule.
      restart: "gradient" or "none".

    Returns:
      A gradient transformation.

    Raises:
      ValueError: prox is no function, strength or learning_rate is negative, restart is unknown, or
        (in ``update``) the parameters are missing.

    References:
      Beck and Teboulle, A fast iterative shrinkage-thresholding algorithm (2009), section 4.
      O'Donoghue and Candes, Adaptive restart for accelerated gradient schemes (2015), sections 3.2
      and 5.2 (the gradient scheme with a proximal step).
    """
    check_callable("prox", prox)
    check_non_negative(strength=strength, learning_rate=learning_rate)
    if restart not in ("gradient", "none"):
        raise ValueError(f'restart must be one of ["gradient", "none"], got {restart!r}.')

    def init_fn(params):
        return FistaState(
            count=jnp.zeros([], jnp.int32),
            momentum=jnp.ones([], jnp.float32),
            # A copy: a training loop that donates its parameters must not delete it.
            iterate=jax.tree.map(lambda p: jnp.array(p, copy=True), params),
        )

    def update_fn(updates, state, params=None):
        check_params(params)
        step = at_step(learning_rate, state.count)
        forward = moved(params, scaled(updates, -step))
        target = prox(forward, at_step(strength, state.count), step)

        momentum = 0.5 * (1.0 + jnp.sqrt(1.0 + 4.0 * state.momentum**2))
        extrapolation = (state.momentum - 1.0) / momentum
        if restart == "gradient":
            uphill = _uphill(params, target, state.iterate)
            momentum = jnp.where(uphill, 1.0, momentum)
            extrapolation = jnp.where(uphill, 0.0, extrapolation)

        def extrapolate(goal, old):
            return goal + extrapolation.astype(goal.dtype) * (goal - old.astype(goal.dtype))

        ahead = map_params(extrapolate, target, state.iterate)
        iterate = map_params(lambda p, goal: goal.astype(jnp.result_type(p)), params, target)
        state = FistaState(optax.safe_increment(state.count), momentum, iterate)
        return landing(params, ahead, updates), state

    return optax.GradientTransformation(init_fn, update_fn)


def _uphill(params: PyTree, target: PyTree, iterate: PyTree) -> jax.Array:
    """Whether the momentum opposes the generalised gradient, over all leaves together."""

    def product(param, goal, old):
        wide = wide_dtype(param, goal)
        goal = goal.astype(wide)
        return jnp.sum((jnp.asarray(param, wide) - goal) * (goal - jnp.asarray(old, wide)))

    return sum(jax.tree.leaves(map_params(product, params, target, iterate)), jnp.zeros(())) > 0


def fista_eval_params(state: optax.OptState, params: PyTree) -> PyTree:
    """The solution of :func:`fista`, on its proximal operator.

    Args:
      state: state of an optimizer that contains :func:`fista`, also inside ``optax.chain``,
        ``optax.masked``, ``optax.multi_transform`` and the like.
      params: parameters of the training loop; returned where no FISTA acts.

    Returns:
      A pytree like params.

    Raises:
      ValueError: no FistaState in state.
    """
    found = [node for _, node in optax.tree_utils.tree_get_all_with_path(state, "FistaState")]
    if not found:
        raise ValueError("fista_eval_params requires a state that contains a FistaState.")

    def masked(node):
        return node is None or isinstance(node, optax.MaskedNode)

    for one in found:
        params = jax.tree.map(
            lambda x, p: p if masked(x) else x, one.iterate, params, is_leaf=masked
        )
    return params
