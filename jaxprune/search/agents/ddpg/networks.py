"""Actor and critic: multilayer perceptrons on the observation and the action.

The architecture is that of AMC's published code: the actor has two hidden layers with ReLU and a
sigmoid at its output; the critic adds a linear map of the observation and one of the action, then
has ReLU, a second hidden layer and a linear output. ACNN does not publish its networks.

Kernels are initialised by Flax's default, those of the output layers uniformly in [-0.003, 0.003]
as in DDPG (Lillicrap et al., ICLR 2016, section 7), so that an untrained actor returns about 0.5 in
every state.
"""

from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxprune.search.agents.ddpg.config import Config


class Networks(NamedTuple):
    """Something for each of the two networks: their variables, or their optimizers' states."""

    actor: Any
    critic: Any


def _small(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    return jax.random.uniform(key, shape, dtype, -3e-3, 3e-3)


class Actor(nn.Module):
    """Maps observations to the fraction of a layer to remove.

    Attributes:
        hidden: widths of the hidden layers.
    """

    hidden: tuple[int, int]

    @nn.compact
    def __call__(self, observations: Array) -> Array:
        """`[..., O]` -> actions `[...]` in (0, 1)."""
        x = observations
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
        return nn.sigmoid(nn.Dense(1, kernel_init=_small, name="output")(x))[..., 0]


class Critic(nn.Module):
    """Maps observations and actions to values.

    Attributes:
        hidden: widths of the hidden layers.
    """

    hidden: tuple[int, int]

    @nn.compact
    def __call__(self, observations: Array, actions: Array) -> Array:
        """`[..., O]` and `[...]` -> values `[...]`."""
        seen = nn.Dense(self.hidden[0], name="observation")(observations)
        done = nn.Dense(self.hidden[0], name="action")(actions[..., None])
        x = nn.relu(nn.Dense(self.hidden[1])(nn.relu(seen + done)))
        return nn.Dense(1, kernel_init=_small, name="output")(x)[..., 0]


def init(config: Config, key: Array, observation_size: int) -> Networks:
    """The variables of untrained networks for observations `[O]`."""
    actor_key, critic_key = jax.random.split(key)
    observations, actions = jnp.zeros((1, observation_size)), jnp.zeros(1)
    return Networks(
        actor=Actor(config.hidden).init(actor_key, observations),
        critic=Critic(config.hidden).init(critic_key, observations, actions),
    )


def act(config: Config, variables: Any, observations: Array) -> Array:
    """Applies the actor: observations `[..., O]` -> actions `[...]` in (0, 1)."""
    return cast(Array, Actor(config.hidden).apply(variables, observations))


def value(config: Config, variables: Any, observations: Array, actions: Array) -> Array:
    """Applies the critic: observations `[..., O]` and actions `[...]` -> values `[...]`."""
    return cast(Array, Critic(config.hidden).apply(variables, observations, actions))
