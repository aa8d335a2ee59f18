"""Learning from mini-batches: the critic's step, the actor's step, and the target networks.

After DDPG (Lillicrap et al., ICLR 2016), with AMC's moving average of rewards as a baseline and
ACNN's proximal step: with `shrinkage`, both optimizers end in a soft threshold of shrinkage times
the learning rate (ACNN, eqs. 10 and 11), behind Adam's step, where the paper prints plain gradient
steps. The target networks follow by `tau` (eqs. 12 and 13).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxprune.optim import prox, proximal_adam
from jaxprune.search.agents.ddpg import networks
from jaxprune.search.agents.ddpg.config import Config
from jaxprune.search.agents.ddpg.losses import actor_loss, critic_loss
from jaxprune.search.agents.ddpg.networks import Networks
from jaxprune.search.agents.ddpg.replay import Transitions


class Learner(NamedTuple):
    """What is learnt.

    Attributes:
        networks: variables of actor and critic.
        targets: variables of their target networks.
        optimizers: states of their optimizers.
        baseline: moving average of rewards, float32 `[]`.
        updates: mini-batches learnt from, int32 `[]`.
    """

    networks: Networks
    targets: Networks
    optimizers: Networks
    baseline: Array
    updates: Array


class Losses(NamedTuple):
    """Means over the mini-batches of a round, each before its own step, float32 `[]`.

    Attributes:
        actor: minus the value of the actor's actions.
        critic: mean squared error.
    """

    actor: Array
    critic: Array


def optimizers(config: Config) -> Networks:
    """The optimizers of actor and critic."""

    def one(rate: float) -> optax.GradientTransformation:
        if config.shrinkage == 0:
            return optax.adam(rate)
        return proximal_adam(rate, prox.l1, config.shrinkage, scaled=False)

    return Networks(one(config.actor_rate), one(config.critic_rate))


@functools.partial(jax.jit, static_argnames=("config", "observation_size"))
def init(config: Config, key: Array, observation_size: int) -> Learner:
    """A learner that has seen nothing; its targets are its networks."""
    variables = networks.init(config, key, observation_size)
    pairs = zip(optimizers(config), variables, strict=True)
    return Learner(
        networks=variables,
        targets=variables,
        optimizers=Networks(*(optimizer.init(one) for optimizer, one in pairs)),
        baseline=jnp.float32(0),
        updates=jnp.int32(0),
    )


def follow(config: Config, learner: Learner) -> Learner:
    """Moves the target networks by `tau` (ACNN, eqs. 12 and 13)."""
    targets = optax.incremental_update(learner.networks, learner.targets, config.tau)
    return learner._replace(targets=targets)


def baseline(config: Config, learner: Learner, rewards: Array) -> Array:
    """The moving average after the rewards `[B]` of one more mini-batch (AMC's published code)."""
    mean = rewards.mean()
    moved = learner.baseline + config.baseline_rate * (mean - learner.baseline)
    first = mean if config.baseline_rate > 0 else jnp.float32(0)
    return jnp.where(learner.updates == 0, first, moved)


def step(config: Config, learner: Learner, batch: Transitions) -> tuple[Learner, Losses]:
    """Learns from one mini-batch `[B]`: critic, actor, and the targets if they move now."""
    average = baseline(config, learner, batch.rewards)
    batch = batch._replace(rewards=batch.rewards - average)
    optimizer = optimizers(config)
    actor, critic = learner.networks

    wrong, gradient = jax.value_and_grad(critic_loss, 1)(config, critic, learner.targets, batch)
    update, critic_state = optimizer.critic.update(gradient, learner.optimizers.critic, critic)
    critic = optax.apply_updates(critic, update)

    missed, gradient = jax.value_and_grad(actor_loss, 1)(config, actor, critic, batch)
    update, actor_state = optimizer.actor.update(gradient, learner.optimizers.actor, actor)
    actor = optax.apply_updates(actor, update)

    learner = Learner(
        networks=Networks(actor, critic),
        targets=learner.targets,
        optimizers=Networks(actor_state, critic_state),
        baseline=average,
        updates=learner.updates + 1,
    )
    if config.targets_move == "update":
        learner = follow(config, learner)
    return learner, Losses(missed, wrong)


def learn(config: Config, learner: Learner, batches: Transitions) -> tuple[Learner, Losses]:
    """Learns from mini-batches `[M, B]`, one after the other."""
    learner, losses = jax.lax.scan(lambda kept, one: step(config, kept, one), learner, batches)
    if config.targets_move == "round":
        learner = follow(config, learner)
    return learner, Losses(losses.actor.mean(), losses.critic.mean())
