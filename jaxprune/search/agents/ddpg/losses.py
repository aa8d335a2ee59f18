"""What critic and actor minimise, after Lillicrap et al. (DDPG, ICLR 2016).

The critic's target is

    y = r - b + gamma Q_targ(s', mu_targ(s'))        (ACNN, eq. 5; no Q after the last step)

and the actor ascends `Q(s, mu(s))`. (ACNN's eqs. 4 and 6 print a minimum, but its eq. 8 ascends.)
`b` is AMC's moving average of rewards, which `learning` subtracts.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxprune.search.agents.ddpg import networks
from jaxprune.search.agents.ddpg.config import Config
from jaxprune.search.agents.ddpg.networks import Networks
from jaxprune.search.agents.ddpg.replay import Transitions


def critic_loss(config: Config, critic: Any, targets: Networks, batch: Transitions) -> Array:
    """The critic's mean squared error on steps `[B]` whose rewards are less the baseline."""
    action = networks.act(config, targets.actor, batch.following)
    later = networks.value(config, targets.critic, batch.following, action)
    aim = batch.rewards + config.gamma * batch.continues * later
    found = networks.value(config, critic, batch.observations, batch.actions)
    return jnp.square(jax.lax.stop_gradient(aim) - found).mean()


def actor_loss(config: Config, actor: Any, critic: Any, batch: Transitions) -> Array:
    """Minus the mean value of the actor's actions in the states of steps `[B]`."""
    action = networks.act(config, actor, batch.observations)
    return -networks.value(config, critic, batch.observations, action).mean()
