"""AutoPrune: gates with parameters of their own (Xiao, Wang and Rajasekaran, NeurIPS 2019).

A channel is open while its gate's parameter m is positive. Weights w and parameters m take turns:
the weights descend the loss on the training split with the closed channels removed, t = w h(m);
the parameters descend the loss on the validation split, through the softplus in the place of the
step function h, and with the weights' signs in the place of the weights:

    m <- m - rate * softplus'(m) * (sum of dL/dt * sign(w) over the weights that leave the channel
                                    + strength * dR/dh)

A channel that was closed may open again.

The paper's settings are not public; those here are this project's. R is the cost of the budget, as
a part of it, and its strength holds the budget unless a number is given. Parameters are changed by
Adam, so that `rate` does not depend on how many weights leave a channel.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
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
    descended,
)
from jaxprune.search.ranges import POSITIVE, require

__all__ = ["Config", "State", "finished", "init", "search", "update"]


@dataclass(frozen=True)
class Config(sparse_training.Config):
    """Settings of AutoPrune."""

    gate_learning_rate: float = 1e-2
    """Adam's learning rate for the gates' parameters."""

    initial_gate: float = 1.0
    """The gates' parameters before training: all channels are open."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, POSITIVE, "gate_learning_rate", "initial_gate")


def opened(gates: Array) -> Array:
    """h(m): 1 where a channel is open, 0 where it is closed."""
    return (gates > 0).astype(jnp.float32)


def _gates(config: Config, structure: Structure, key: Array) -> Array:
    """All parameters alike, but for a little noise that orders the channels."""
    noise = 0.01 * jax.random.normal(key, (structure.num_channels,))
    return config.initial_gate * (1 + noise)


def _gate_optimizer(config: Config) -> optax.GradientTransformation:
    return optax.adam(config.gate_learning_rate)


def _step(
    plan: Plan,
    network: Network,
    learner: Learner,
    batch: Batch,
    held_out: Batch,
    number: Array,
    key: Array,
) -> tuple[Learner, Array]:
    """A step of the weights, then one of the gates."""
    del number, key
    params = learner.variables["params"]

    def loss(params: Any, variables: Any, gates: Array, on: Batch) -> tuple[Array, Any]:
        logits, new = network({**variables, "params": params}, gates, on.x)
        return plan.loss(logits, on.y), new

    (value, new), slope = jax.value_and_grad(loss, has_aux=True)(
        params, learner.variables, opened(learner.gates), batch
    )
    learner = descended(plan, learner, slope, new)
    gate_slope = gates_slope(
        plan, network, learner.variables, learner.gates, learner.strength, held_out
    )
    gate_change, gate_state = _gate_optimizer(plan.config).update(
        gate_slope, learner.gate_optimizer, learner.gates
    )
    gates = learner.gates + gate_change
    return learner._replace(gates=gates, gate_optimizer=gate_state), value


def gates_slope(
    plan: Plan, network: Network, variables: Any, gates: Array, strength: Array, batch: Batch
) -> Array:
    """What the gates' parameters descend, `[N]`; see the module."""
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


def _in_use(plan: Plan, learner: Learner) -> Array:
    del plan
    return opened(learner.gates)


def _scores(plan: Plan, learner: Learner) -> Array:
    del plan
    return learner.gates


def _weights(plan: Plan, learner: Learner) -> Any:
    """As they are: closed channels are removed, or were ready to be opened."""
    del plan
    return learner.variables


METHOD = Method(_gates, _gate_optimizer, _step, _in_use, _scores, _weights, on_validation=True)

init = functools.partial(sparse_training.init, METHOD)
update = functools.partial(sparse_training.update, METHOD)
finished = sparse_training.finished
search = functools.partial(sparse_training.search, METHOD)
