"""Fitting the three networks to a batch of steps: minibatches, epochs, the stop by KL divergence.

A batch of N steps is cut into `ceil(N / minibatch_size)` minibatches of equal size, in a new random
order each epoch. Where the size does not divide N, the last minibatch is filled up from the start
of the same order: every step is seen at least once an epoch, and a few, different ones each time,
are seen twice. A batch smaller than a minibatch is one minibatch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxprune.search.agents.ppo_lagrangian.config import Learning
from jaxprune.search.agents.ppo_lagrangian.networks import Networks, critic, policy
from jaxprune.search.agents.ppo_lagrangian.surrogate import (
    approximate_kl,
    clip_fraction,
    clipped_surrogate,
)

KL_TOLERANCE = 1.5
"""Learning stops above this multiple of the target, as in stable-baselines."""


class Samples(NamedTuple):
    """Steps, in any order.

    Attributes:
        observations: normalised, `[N, O]`.
        actions: as sampled, `[N, A]`.
        log_probs: their log-probabilities when they were sampled, `[N]`.
        advantages: of the Lagrangian, `[N]`.
        reward_targets: what the reward critic should say, `[N]`.
        cost_targets: what the cost critic should say, `[N, m]`.
    """

    observations: Array
    actions: Array
    log_probs: Array
    advantages: Array
    reward_targets: Array
    cost_targets: Array


class Losses(NamedTuple):
    """What a set of samples says about the networks, all `[]`.

    Attributes:
        policy: minus the clipped surrogate objective.
        value: mean squared error of the reward critic, in normalised units.
        cost_value: mean squared error of the cost critic, in normalised units.
        approx_kl: estimate of the KL divergence from the policy that took the actions.
        clip_fraction: fraction of the samples whose probability ratio is beyond the clip.
    """

    policy: Array
    value: Array
    cost_value: Array
    approx_kl: Array
    clip_fraction: Array


class Progress(NamedTuple):
    """What the updates of a batch hand on.

    Attributes:
        networks: the variables of the networks.
        optimizers: their optimizers' states.
        stopped: whether the policy has moved too far, bool `[]`.
        updates: number of updates made, int32 `[]`.
    """

    networks: Networks
    optimizers: Networks
    stopped: Array
    updates: Array


def optimizer(config: Learning) -> optax.GradientTransformation:
    """The optimizer of each network: Adam behind a clip of the gradient's norm."""
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm), optax.adam(config.learning_rate)
    )


def losses(config: Learning, networks: Networks, samples: Samples) -> tuple[Array, Losses]:
    """The sum of the three losses, and its parts.

    The networks share no variables, so that the gradient of the sum is for each network that of its
    own loss, and no weights between them are needed.
    """
    observations = samples.observations
    log_probs = policy(config, networks.policy, observations).log_prob(samples.actions)
    log_ratios = log_probs - samples.log_probs
    ratios = jnp.exp(log_ratios)
    values = critic(config, networks.reward_critic, observations)[..., 0]
    cost_values = critic(config, networks.cost_critic, observations)
    parts = Losses(
        policy=clipped_surrogate(ratios, samples.advantages, config.clip),
        value=jnp.mean(jnp.square(values - samples.reward_targets)),
        cost_value=jnp.mean(jnp.square(cost_values - samples.cost_targets)),
        approx_kl=approximate_kl(log_ratios),
        clip_fraction=clip_fraction(ratios, config.clip),
    )
    return parts.policy + parts.value + parts.cost_value, parts


def minibatches(config: Learning, count: int, key: Array) -> Array:
    """The rows of each minibatch of each epoch.

    Args:
        config: the settings.
        count: N >= 1, the number of samples.
        key: consumed.

    Returns:
        int32 `[epochs * ceil(N / B), B]` with B = min(minibatch_size, N).
    """
    size = min(config.minibatch_size, count)
    number = -(-count // size)

    def epoch(key: Array) -> Array:
        order = jax.random.permutation(key, count)
        return jnp.concatenate([order, order[: number * size - count]])

    rows = jax.vmap(epoch)(jax.random.split(key, config.epochs))
    return rows.reshape(config.epochs * number, size)


def fit(
    config: Learning, networks: Networks, optimizers: Networks, samples: Samples, key: Array
) -> Progress:
    """Updates the networks, minibatch by minibatch, until the epochs or the target KL are used up.

    Before each update the KL divergence is estimated on its minibatch. Once it is above 1.5 times
    the target, this update and all later ones of the batch are left out, the critics' too, as in
    stable-baselines. The update that led there stands, so that the target may be passed.

    Args:
        config: the settings.
        networks: the variables of the networks that took the actions.
        optimizers: their optimizers' states.
        samples: N >= 1 samples.
        key: consumed.

    Returns:
        The networks after the updates.
    """
    differentiate = jax.grad(lambda *args: losses(config, *args), has_aux=True)

    def attempt(progress: Progress, rows: Array) -> Progress:
        networks, optimizers, _, updates = progress
        minibatch = jax.tree.map(lambda x: x[rows], samples)
        gradients, parts = differentiate(networks, minibatch)
        pairs = [
            _step(config, *arguments)
            for arguments in zip(gradients, optimizers, networks, strict=True)
        ]
        moved = Progress(
            networks=Networks(*(variables for variables, _ in pairs)),
            optimizers=Networks(*(state for _, state in pairs)),
            stopped=jnp.zeros((), bool),
            updates=updates + 1,
        )
        stays = progress._replace(stopped=jnp.ones((), bool))
        too_far = parts.approx_kl > KL_TOLERANCE * config.target_kl
        return jax.tree.map(lambda a, b: jnp.where(too_far, a, b), stays, moved)

    def visit(progress: Progress, rows: Array) -> tuple[Progress, None]:
        return jax.lax.cond(
            progress.stopped, lambda progress, _: progress, attempt, progress, rows
        ), None

    start = Progress(networks, optimizers, jnp.zeros((), bool), jnp.zeros((), jnp.int32))
    progress, _ = jax.lax.scan(visit, start, minibatches(config, len(samples.log_probs), key))
    return progress


def _step(
    config: Learning, gradient: optax.Updates, state: optax.OptState, variables: optax.Params
) -> tuple[optax.Params, optax.OptState]:
    updates, state = optimizer(config).update(gradient, state, variables)
    return optax.apply_updates(variables, updates), state
