"""The dual step: one Lagrange multiplier for each budget, moved by its violation.

The violation is that of whole **episodes** and of **raw** costs: a cost is paid once an episode, so
its mean over steps, T times smaller, says nothing about the budget; and a normalised cost is
centred, so it meets every budget. Multipliers are plain numbers with the floor 0. (A softplus with
a clamped parameter, as in the thesis's code line, leaves a slack budget with a multiplier above 0.)
They move in proportion to the violation and not by Adam, which steps by its learning rate however
small the violation is.
"""

import jax.numpy as jnp
import optax
from jax import Array

from jaxprune.optim import dual_ascent, dual_pid
from jaxprune.search.agents.ppo_lagrangian.config import Learning


def transform(config: Learning) -> optax.GradientTransformation:
    """The dual step that the configuration asks for, which takes violations as its updates."""
    if config.dual == "ascent":
        return dual_ascent(config.multiplier_rate)
    return dual_pid(
        config.proportional_gain,
        config.multiplier_rate,
        config.derivative_gain,
        smoothing=config.violation_smoothing,
    )


def violations(costs: Array, budgets: Array) -> Array:
    """The mean cost of an episode less its budget: costs `[K, T, m]`, budgets `[m]` -> `[m]`."""
    return costs.sum(axis=1).mean(axis=0) - budgets


def init(config: Learning, num_costs: int) -> tuple[Array, optax.OptState]:
    """The multipliers `[m]` and the dual step's state before learning."""
    multipliers = jnp.full(num_costs, config.initial_multiplier, jnp.float32)
    return multipliers, transform(config).init(multipliers)


def move(
    config: Learning, multipliers: Array, dual: optax.OptState, violation: Array
) -> tuple[Array, optax.OptState]:
    """One dual step: the next multipliers and state from violations `[m]`."""
    updates, dual = transform(config).update(violation, dual, multipliers)
    return optax.apply_updates(multipliers, updates), dual
