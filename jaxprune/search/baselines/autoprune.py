"""AutoPrune: gates with parameters of their own (Xiao, Wang and Rajasekaran, NeurIPS 2019).

A channel is open while its gate's parameter m is positive. Weights w and parameters m are updated
in turn: the weights descend the loss on the training split with the closed channels removed,
t = w h(m); the parameters descend the loss on the validation split, with the softplus in place of
the step function h and the weights' signs in place of the weights:

    m <- m - rate * softplus'(m) * (sum of dL/dt * sign(w) over the weights that leave the channel
                                    + strength * dR/dh)

A channel that was closed may open again.

The paper's settings are not public; those here are this project's. R is the cost as a fraction of
the budget, and its strength holds the budget unless a number is given. The parameters are updated
by Adam, so that `rate` does not depend on how many weights leave a channel.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxprune.dependency import Structure
from jaxprune.search.baselines import consumers, sparse_training
from jaxprune.search.baselines.sparse_training import (
    Batch,
    Learner,
    Method,
    Network,
    Plan,
    State,
    Step,
    descend,
    move_gates,
)
from jaxprune.search.ranges import POSITIVE, require

__all__ = ["Config", "State", "finished", "init", "search", "update"]


@dataclass(frozen=True)
class Config(sparse_training.Config):
    """Settings of AutoPrune."""

    gate_learning_rate: float = 1e-2
    """Adam's learning rate for the gates' parameters."""

    initial_gate: float = 1.0
    """The gates' parameters before training; above 0, so that all channels are open."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, POSITIVE, "gate_learning_rate", "initial_gate")


def opened(gates: Array) -> Array:
    """h(m): 1 where a channel is open, 0 where it is closed."""
    return (gates > 0).astype(jnp.float32)


def _gates(config: Config, structure: Structure, key: Array) -> Array:
    """The same for all channels, but for a little noise that breaks ties."""
    noise = 0.01 * jax.random.normal(key, (structure.num_channels,))
    return config.initial_gate * (1 + noise)


def _step(plan: Plan, network: Network, learner: Learner, step: Step) -> tuple[Learner, Array]:
    """A step of the weights, then one of the gates."""
    learner, _, loss = descend(plan, network, learner, step.batch, opened)
    slope = gates_slope(
        plan, network, learner.variables, learner.gates, learner.strength, step.held_out
    )
    return move_gates(plan, learner, slope), loss


def gates_slope(
    plan: Plan, network: Network, variables: Any, gates: Array, strength: Array, batch: Batch
) -> Array:
    """The direction that the gates' parameters descend, `[N]`; see the module."""
    steps = opened(gates)
    closed = consumers.scale(plan.structure, variables, steps)

    def loss(params: Any) -> Array:
        logits, _ = network({**closed, "params": params}, jnp.ones_like(gates), batch.x)
        return plan.loss(logits, batch.y)

    slope = jax.grad(loss)(closed["params"])
    signed = jax.tree.map(lambda g, w: g * jnp.sign(w), slope, variables["params"])
    nothing = jax.tree.map(jnp.zeros_like, variables)
    fall = consumers.totals(plan.structure, {**nothing, "params": signed})
    price = jax.grad(plan.cost)(steps) / plan.limit
    return jax.nn.sigmoid(gates) * (fall + strength * price)


METHOD = Method(
    step=_step,
    in_use=lambda plan, learner: opened(learner.gates),
    scores=lambda plan, learner: learner.gates,
    # As they are: closed channels are removed, or were about to open again.
    weights=lambda plan, learner: learner.variables,
    gates=_gates,
)

init = functools.partial(sparse_training.init, METHOD)
update = functools.partial(sparse_training.update, METHOD)
finished = sparse_training.finished
search = functools.partial(sparse_training.search, METHOD)
