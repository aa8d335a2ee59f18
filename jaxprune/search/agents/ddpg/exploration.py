"""Actions that explore: uniform at first, then normal around the actor's, within [0, 1].

AMC's schedule: uniform in the first `warmup` episodes, then a truncated normal whose deviation is
`sigma` and falls by `sigma_decay` from each episode to the next. Episodes played side by side have
the deviations of their numbers, as if they were played one after another. ACNN says only that its
agent explores first.
"""

import jax
import jax.numpy as jnp
from jax import Array

from jaxprune.search.agents.ddpg.config import Config

LEAST_SIGMA = 1e-6
"""A deviation that says nothing more, and that float32 can divide by."""


def sigma(config: Config, episode: Array) -> Array:
    """The deviation in an episode counted from 0, `[...]`; in the warm-up that of its end."""
    age = jnp.maximum(episode - config.warmup, 0).astype(jnp.float32)
    return jnp.maximum(config.sigma * config.sigma_decay**age, LEAST_SIGMA)


def explore(config: Config, actions: Array, episode: Array, key: Array) -> Array:
    """What is done instead of the actor's actions.

    Args:
        config: the settings.
        actions: in [0, 1], float32 `[K]`.
        episode: the number of each one's episode, int32 `[K]`.
        key: consumed.

    Returns:
        float32 `[K]` in [0, 1].
    """
    uniform_key, normal_key = jax.random.split(key)
    deviation = sigma(config, episode)
    low, high = -actions / deviation, (1 - actions) / deviation
    noise = jax.random.truncated_normal(normal_key, low, high, actions.shape)
    around = jnp.clip(actions + deviation * noise, 0.0, 1.0)
    anywhere = jax.random.uniform(uniform_key, actions.shape)
    return jnp.where(episode < config.warmup, anywhere, around)
