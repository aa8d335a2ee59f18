"""Fitting the three networks to a batch of steps: mini-batches, epochs, early stopping by KL.

Every epoch shuffles the batch of N steps and cuts it into `ceil(N / minibatch_size)` mini-batches
of equal size. Where the size does not divide N, the last one is filled up from the start of the
same order: every step is seen at least once an epoch, and a few, different ones each time, are seen
twice. A batch smaller than a mini-batch is one mini-batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxprune.search.agents.ppo_lagrangian.config import Learning
from jaxprune.search.agents.ppo_lagrangian.losses import Samples, losses
from jaxprune.search.agents.ppo_lagrangian.networks import Networks

KL_TOLERANCE = 1.5
"""Learning stops above this multiple of the target, as in stable-baselines."""


class Progress(NamedTuple):
    """Where fitting to a batch has got to.

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
    """Each network's optimizer: Adam on gradients clipped by their global norm."""
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm), optax.adam(config.learning_rate)
    )


def minibatches(config: Learning, count: int, key: Array) -> Array:
    """The rows of each mini-batch of each epoch.

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
    """Updates the networks, mini-batch by mini-batch, until the epochs or the target KL run out.

    Before each update the KL divergence is estimated on its mini-batch. Once it exceeds 1.5 times
    the target, this update and all later ones of the batch are skipped, the critics' too, as in
    stable-baselines. The update that led there stands, so the target may be overshot.

    Args:
        config: the settings.
        networks: the variables of the networks that took the actions.
        optimizers: their optimizers' states.
        samples: N >= 1 samples.
        key: consumed.
    """
    differentiate = jax.grad(lambda *args: losses(config, *args), has_aux=True)

    def attempt(progress: Progress, rows: Array) -> Progress:
        networks, optimizers, _, updates = progress
        minibatch = jax.tree.map(lambda x: x[rows], samples)
        gradients, parts = differentiate(networks, minibatch)
        changes, states = zip(
            *map(optimizer(config).update, gradients, optimizers, networks), strict=True
        )
        moved = Progress(
            networks=optax.apply_updates(networks, Networks(*changes)),
            optimizers=Networks(*states),
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
