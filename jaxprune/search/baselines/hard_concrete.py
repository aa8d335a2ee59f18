"""L0 regularisation by hard concrete gates (Louizos, Welling and Kingma, ICLR 2018).

Each channel has a gate that is sampled anew at every step (eqs. 10 to 12): a stretched and clipped
concrete variable, exactly 0 or 1 with positive probability. The penalty is the network's expected
cost, which follows from the probabilities that the gates are not 0.

Settings are those of the paper and its code: temperature 2/3, stretched to [-0.1, 1.1], gates of
the input open with probability 0.8 at first and all others with 0.5.

Departures: the expectation is of the cost that the budget limits (the paper's counts the weights
that leave the open gates, and also decays their squares); its strength holds the budget unless a
number is given; weights are fitted by the recipe of the dense network, not by Adam with averaged
weights; a whole batch shares one sample of the gates, as in the paper's code for large layers.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.dependency import Structure
from jaxprune.search.baselines import consumers, sparse_training
from jaxprune.search.baselines.sparse_training import (
    Learner,
    Method,
    Network,
    Plan,
    State,
    Step,
    descend,
    move_gates,
)
from jaxprune.search.ranges import INSIDE_UNIT, POSITIVE, require

__all__ = ["Config", "State", "finished", "init", "search", "update"]

TEMPERATURE = 2 / 3
LOW, HIGH = -0.1, 1.1
SMALLEST, LARGEST = np.log(0.01), np.log(100.0)
"""The range of the gates' log-odds."""


@dataclass(frozen=True)
class Config(sparse_training.Config):
    """Settings of L0 regularisation."""

    gate_learning_rate: float = 1e-2
    """Adam's learning rate for the gates (the paper's 1e-3 takes its 200 epochs)."""

    drop_rate: float = 0.5
    """Probability that a gate is closed at first (roughly: before it is stretched)."""

    input_drop_rate: float = 0.2
    """The same for input features."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, POSITIVE, "gate_learning_rate")
        require(self, INSIDE_UNIT, "drop_rate", "input_drop_rate")


def draw(log_odds: Array, uniform: Array) -> Array:
    """Samples gates in [0, 1] from uniform numbers in (0, 1): eqs. 10 and 11."""
    noise = jnp.log(uniform) - jnp.log1p(-uniform)
    soft = jax.nn.sigmoid((noise + log_odds) / TEMPERATURE)
    return jnp.clip(soft * (HIGH - LOW) + LOW, 0.0, 1.0)


def open_probability(log_odds: Array) -> Array:
    """The probability that a gate is not 0: eq. 12."""
    return jax.nn.sigmoid(log_odds - TEMPERATURE * np.log(-LOW / HIGH))


def settled(log_odds: Array) -> Array:
    """The gates of the finished network, in [0, 1]: eq. 13."""
    return jnp.clip(jax.nn.sigmoid(log_odds) * (HIGH - LOW) + LOW, 0.0, 1.0)


def _gates(config: Config, structure: Structure, key: Array) -> Array:
    rates = [
        config.input_drop_rate if group.name.startswith("input") else config.drop_rate
        for group in structure.groups
    ]
    means = np.array([np.log((1 - rate) / rate) for rate in rates], np.float32)
    noise = 0.01 * jax.random.normal(key, (structure.num_channels,))
    return means[structure.group_index] + noise


def _step(plan: Plan, network: Network, learner: Learner, step: Step) -> tuple[Learner, Array]:
    """One step of the weights and the gates together."""
    uniform = jax.random.uniform(step.key, learner.gates.shape, minval=1e-6, maxval=1 - 1e-6)

    def expected_cost(log_odds: Array) -> Array:
        return learner.strength * (plan.cost(open_probability(log_odds)) / plan.limit)

    moved, slope, loss = descend(
        plan, network, learner, step.batch, lambda gates: draw(gates, uniform), expected_cost
    )
    moved = move_gates(plan, moved, slope)
    return moved._replace(gates=jnp.clip(moved.gates, SMALLEST, LARGEST)), loss


METHOD = Method(
    step=_step,
    in_use=lambda plan, learner: open_probability(learner.gates),
    scores=lambda plan, learner: learner.gates,
    weights=lambda plan, learner: consumers.scale(
        plan.structure, learner.variables, settled(learner.gates)
    ),
    gates=_gates,
)

init = functools.partial(sparse_training.init, METHOD)
update = functools.partial(sparse_training.update, METHOD)
finished = sparse_training.finished
search = functools.partial(sparse_training.search, METHOD)
