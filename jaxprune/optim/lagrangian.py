"""A loss and its constraints as one primal-dual step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune.optim.common import PyTree, check_callable


class LagrangianState(NamedTuple):
    """What a primal-dual step carries besides the parameters."""

    multipliers: PyTree  # like the budgets, float32, >= 0
    primal: optax.OptState
    dual: optax.OptState


class LagrangianInfo(NamedTuple):
    """What a primal-dual step saw, at the parameters it started from."""

    loss: jax.Array  # shape=()
    costs: PyTree  # like the budgets; raw, in their own units
    violations: PyTree  # like the budgets; cost minus budget


class Lagrangian(NamedTuple):
    """A pair of pure functions, as optax's transforms are.

    Attributes:
      init: ``init(params)`` to :class:`LagrangianState`.
      step: ``step(params, state, *args)`` to new params, new state and :class:`LagrangianInfo`.
    """

    init: Callable[[PyTree], LagrangianState]
    step: Callable[..., tuple[PyTree, LagrangianState, LagrangianInfo]]


def lagrangian(
    loss: Callable[..., jax.Array],
    constraints: PyTree,
    budgets: PyTree,
    primal: optax.GradientTransformation,
    dual: optax.GradientTransformation,
    *,
    initial: float = 0.0,
    normalize: bool = False,
) -> Lagrangian:
    r"""Minimises a loss under ``cost <= budget``, by steps on parameters and multipliers.

    .. math::
      \min_w \max_{\lambda \ge 0} \; \text{loss}(w)
      + \sum_i \lambda_i \, (\text{cost}_i(w) - \text{budget}_i)

    One step evaluates loss and costs once, moves the multipliers by the violations, and then the
    parameters by the gradient of the Lagrangian with the new multipliers (dual first, as the
    implementations of constrained policy optimisation have it).

    On a convex problem whose loss is strongly convex, small enough steps converge to the saddle
    point. On one that is linear in w, simultaneous gradient steps circle it; the proportional term
    of :func:`dual_pid` damps that.

    Args:
      loss: ``loss(params, *args)`` to a scalar.
      constraints: ``constraint(params, *args)`` to a cost, or a pytree of such functions (a dict
        with a name for each). A function may return a pytree or an array of several costs.
      budgets: the largest cost allowed, a pytree like the costs.
      primal: optimizer of the parameters; may end in :func:`proximal`.
      dual: optimizer of the multipliers, :func:`dual_ascent` or :func:`dual_pid`.
      initial: multiplier at the start, >= 0.
      normalize: divides the primal gradient by 1 + the sum of the multipliers, so that a large
        multiplier does not lengthen the primal step. The saddle point stays where it is for a
        primal transform without a penalty of its own.

    Returns:
      A :class:`Lagrangian`.

    Raises:
      ValueError: loss or a constraint is no function, initial is negative, or (in ``step``) costs
        and budgets differ in structure or shape.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from jaxprune.optim import dual_ascent, lagrangian
      >>> pair = lagrangian(
      ...     lambda x: x**2, lambda x: -x, -1.0, optax.sgd(0.1), dual_ascent(0.1)
      ... )  # the smallest square with x >= 1
      >>> x, state = jnp.array(0.0), pair.init(jnp.array(0.0))
      >>> for _ in range(300):
      ...     x, state, info = jax.jit(pair.step)(x, state)
      >>> print(f"{x:.3f} {state.multipliers:.3f}")
      1.000 2.000
    """
    check_callable("loss", loss)
    for constraint in jax.tree.leaves(constraints):
        check_callable("constraints", constraint)
    if initial < 0:
        raise ValueError(f"initial must be non-negative, got {initial}.")
    budgets = jax.tree.map(lambda budget: jnp.asarray(budget, jnp.float32), budgets)

    def init_fn(params):
        multipliers = jax.tree.map(lambda budget: jnp.full_like(budget, initial), budgets)
        return LagrangianState(multipliers, primal.init(params), dual.init(multipliers))

    def step_fn(params, state, *args):
        def evaluate(params):
            costs = jax.tree.map(lambda constraint: constraint(params, *args), constraints)
            return loss(params, *args), costs

        (value, costs), pull_back = jax.vjp(evaluate, params)
        _check_like(costs, budgets)
        violations = jax.tree.map(lambda cost, budget: cost - budget, costs, budgets)

        updates, dual_state = dual.update(violations, state.dual, state.multipliers)
        multipliers = optax.apply_updates(state.multipliers, updates)

        scale = jnp.ones([], jnp.float32)
        if normalize:
            scale = scale / (1.0 + sum(jnp.sum(m) for m in jax.tree.leaves(multipliers)))
        weights = jax.tree.map(lambda m, cost: (scale * m).astype(cost.dtype), multipliers, costs)
        (gradient,) = pull_back((scale.astype(value.dtype), weights))

        updates, primal_state = primal.update(gradient, state.primal, params)
        params = optax.apply_updates(params, updates)
        state = LagrangianState(multipliers, primal_state, dual_state)
        return params, state, LagrangianInfo(value, costs, violations)

    return Lagrangian(init_fn, step_fn)


def _check_like(costs: Any, budgets: Any) -> None:
    """Raises ValueError unless each cost has a budget of its shape."""
    trees: list[Any] = [jax.tree.structure(costs), jax.tree.structure(budgets)]
    if trees[0] != trees[1]:
        raise ValueError(f"costs and budgets differ in structure: {trees[0]} and {trees[1]}.")
    for cost, budget in zip(jax.tree.leaves(costs), jax.tree.leaves(budgets), strict=True):
        if jnp.shape(cost) != jnp.shape(budget):
            raise ValueError(
                f"a cost has shape {jnp.shape(cost)} and its budget {jnp.shape(budget)}; give one "
                "budget for each cost."
            )
