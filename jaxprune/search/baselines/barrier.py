"""Budget-aware regularisation: a barrier that sinks to the budget while the network is trained.

Lemaire, Achkar and Jodoin, "Structured pruning of neural networks with budget-aware regularization"
(CVPR 2019, arXiv 1811.09332). Each channel has a hard concrete gate, as for L0. The loss is

    (1 - distill) * cross-entropy + distill * T^2 * KL(dense network's answers, network's)
      + strength * f(V, a, b) * E[cost],     f = r^2 / (1 - r),  r = (V - a) / (b - a)

where V is the cost of the channels whose gates are open. The barrier f is zero while V is at most
a, just below the budget, and grows beyond all bounds as V comes near b (eq. 5). The ceiling b
sinks from a little above the dense network's cost to the budget, along a sigmoid of the training's
progress, so that pruning begins gently and ends gently. V is not differentiated: the slope comes
from E[cost], the cost that the gates' probabilities lead to expect.

Margin, tolerance, slope of the sigmoid and temperature are those of a public implementation of the
paper, whose own code was not read.

Departures: the cost is any that the budget limits and can be traced, relative to that of the dense
network (the paper's is the volume of the feature maps), so that the strength is this project's; f
ends at 1,000 instead of infinity, which a step that overshoots the ceiling would meet; gates are
open with probability 0.9 at first, since the ceiling lets all of them stay; the dense network
answers with BatchNorm's statistics of the batch; the paper's blocks of mixed connectivity are not
here.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxprune.dependency import Structure
from jaxprune.search.baselines import hard_concrete, sparse_training
from jaxprune.search.baselines.hard_concrete import (
    LARGEST,
    SMALLEST,
    draw,
    open_probability,
    settled,
)
from jaxprune.search.baselines.sparse_training import (
    Learner,
    Network,
    Plan,
    State,
    Step,
    descend,
    move_gates,
)
from jaxprune.search.ranges import INSIDE_UNIT, NOT_NEGATIVE, POSITIVE, UNIT, require

__all__ = ["Config", "State", "finished", "init", "search", "update"]

HIGHEST = 1e3
"""Where the barrier ends."""


@dataclass(frozen=True)
class Config(sparse_training.Training):
    """Settings of budget-aware regularisation."""

    strength: float = 0.01
    """Weight of the expected cost, as a part of the dense network's, times the barrier."""

    margin: float = 1e-4
    """The barrier vanishes this far below the budget, as a part of the dense cost."""

    tolerance: float = 0.01
    """The ceiling begins this far above the dense network's cost, as a part of it."""

    slope: float = 10.0
    """Slope of the sigmoid along which the ceiling sinks."""

    distill: float = 0.9
    """The weight of the dense network's answers in the loss; the labels have the rest."""

    distill_temperature: float = 4.0
    """What logits are divided by before answers are compared."""

    gate_learning_rate: float = 1e-2
    """Adam's learning rate for the gates."""

    drop_rate: float = 0.1
    """Probability that a gate is closed at first (roughly: before it is stretched)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, POSITIVE, "margin", "slope", "distill_temperature", "gate_learning_rate")
        require(self, NOT_NEGATIVE, "tolerance")
        require(self, UNIT, "distill")
        require(self, INSIDE_UNIT, "drop_rate")


def barrier(cost: Array, floor: Array, ceiling: Array) -> Array:
    """F of eq. 5: 0 up to the floor, 1,000 from just below the ceiling on."""
    ratio = jnp.maximum((cost - floor) / (ceiling - floor), 0.0)
    inside = ratio < 1
    risen = ratio**2 / jnp.where(inside, 1 - ratio, 1.0)
    return jnp.where(inside, jnp.minimum(risen, HIGHEST), HIGHEST)


def ceiling(config: Config, limit: float, done: Array) -> Array:
    """What may be in use after a part of the training, in [0, 1]: from all to the limit."""
    edge = jax.nn.sigmoid(-config.slope / 2)
    sunk = (jax.nn.sigmoid(config.slope * (done - 0.5)) - edge) / (1 - 2 * edge)
    return (1 - sunk) * (1 + config.tolerance) + sunk * limit


def _opened(gates: Array) -> Array:
    """1 where the finished network's gate is not 0."""
    return (settled(gates) > 0).astype(jnp.float32)


def _gates(config: Config, structure: Structure, key: Array) -> Array:
    noise = 0.01 * jax.random.normal(key, (structure.num_channels,))
    return np.log((1 - config.drop_rate) / config.drop_rate) + noise


def _step(plan: Plan, network: Network, learner: Learner, step: Step) -> tuple[Learner, Array]:
    """One step of the weights and the gates together."""
    config = plan.config
    uniform = jax.random.uniform(step.key, learner.gates.shape, minval=1e-6, maxval=1 - 1e-6)
    done = step.number / (config.epochs * plan.steps)
    height = barrier(
        plan.cost(_opened(learner.gates)),
        plan.limit - config.margin,
        ceiling(config, plan.limit, done),
    )

    def penalty(gates: Array) -> Array:
        return learner.strength * height * plan.cost(open_probability(gates))

    answers, _ = network(step.dense, jnp.ones_like(learner.gates), step.batch.x)
    advice = jax.nn.softmax(jax.lax.stop_gradient(answers) / config.distill_temperature)

    def loss(logits: Array) -> Array:
        guess = jax.nn.log_softmax(logits.astype(jnp.float32) / config.distill_temperature)
        distance = config.distill_temperature**2 * optax.kl_divergence(guess, advice).mean()
        return (1 - config.distill) * plan.loss(logits, step.batch.y) + config.distill * distance

    moved, slope, value = descend(
        plan, network, learner, step.batch, lambda gates: draw(gates, uniform), penalty, loss
    )
    moved = move_gates(plan, moved, slope)
    return moved._replace(gates=jnp.clip(moved.gates, SMALLEST, LARGEST)), value


METHOD = hard_concrete.METHOD._replace(
    step=_step, in_use=lambda plan, learner: _opened(learner.gates), gates=_gates
)

init = functools.partial(sparse_training.init, METHOD)
update = functools.partial(sparse_training.update, METHOD)
finished = sparse_training.finished
search = functools.partial(sparse_training.search, METHOD)
