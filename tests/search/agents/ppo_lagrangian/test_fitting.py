"""Minibatches, the losses' gradients and the stop by KL divergence."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune.search.agents.ppo_lagrangian import fitting, losses, networks
from jaxprune.search.agents.ppo_lagrangian.config import Learning

KEY = jax.random.PRNGKey(0)
CONFIG = Learning(hidden=(8,), minibatch_size=8, epochs=3)


def material(count: int = 20) -> tuple[networks.Networks, networks.Networks, losses.Samples]:
    variables = networks.init(CONFIG, KEY, observation_size=2, action_size=1, num_costs=2)
    optimizers = networks.Networks(*(fitting.optimizer(CONFIG).init(one) for one in variables))
    keys = jax.random.split(KEY, 4)
    observations = jax.random.normal(keys[0], (count, 2))
    policy = networks.policy(CONFIG, variables.policy, observations)
    actions, log_probs = policy.sample_and_log_prob(seed=keys[1])
    samples = losses.Samples(
        observations=observations,
        actions=actions,
        log_probs=log_probs,
        advantages=(actions - actions.mean())[:, 0] * 5,
        reward_targets=jax.random.normal(keys[2], (count,)),
        cost_targets=jax.random.normal(keys[3], (count, 2)),
    )
    return variables, optimizers, samples


@pytest.mark.parametrize(("count", "batches", "size"), [(20, 3, 8), (16, 2, 8), (5, 1, 5)])
def test_every_sample_is_seen_in_every_epoch(count: int, batches: int, size: int) -> None:
    rows = np.asarray(fitting.minibatches(CONFIG, count, KEY))
    assert rows.shape == (3 * batches, size)
    orders = rows.reshape(3, batches * size)
    for order in orders:
        np.testing.assert_array_equal(np.sort(order[:count]), np.arange(count))
        np.testing.assert_array_equal(order[count:], order[: batches * size - count])
    if count > 5:
        assert (orders[0] != orders[1]).any()


@pytest.mark.slow
def test_the_policy_gradient_before_anything_has_moved() -> None:
    # At ratio 1 the gradient of log sigma is -mean(A * ((a - mu)^2 / sigma^2 - 1)).
    variables, _, samples = material()
    gradient = jax.grad(lambda v: losses.losses(CONFIG, v, samples)[0])(variables)
    mean = networks.policy(CONFIG, variables.policy, samples.observations).mean()[:, 0]
    squared = ((np.asarray(samples.actions)[:, 0] - np.asarray(mean)) / 0.2) ** 2
    np.testing.assert_allclose(
        gradient.policy["params"]["log_sigma"][0],
        -np.mean(np.asarray(samples.advantages) * (squared - 1)),
        rtol=1e-4,
    )
    _, parts = losses.losses(CONFIG, variables, samples)
    assert parts.policy == pytest.approx(-float(samples.advantages.mean()), abs=1e-6)
    assert parts.approx_kl == pytest.approx(0.0, abs=1e-6)
    assert parts.clip_fraction == 0.0


def test_the_critics_losses_are_mean_squared_errors() -> None:
    variables, _, samples = material()
    _, parts = losses.losses(CONFIG, variables, samples)
    values = networks.critic(CONFIG, variables.reward_critic, samples.observations)[:, 0]
    costs = networks.critic(CONFIG, variables.cost_critic, samples.observations)
    np.testing.assert_allclose(
        parts.value, np.mean((np.asarray(values) - np.asarray(samples.reward_targets)) ** 2)
    )
    np.testing.assert_allclose(
        parts.cost_value,
        np.mean((np.asarray(costs) - np.asarray(samples.cost_targets)) ** 2),
        rtol=1e-6,
    )


def test_no_network_moves_by_anothers_loss() -> None:
    variables, _, samples = material()
    silent = samples._replace(
        advantages=jnp.zeros(20),
        reward_targets=networks.critic(CONFIG, variables.reward_critic, samples.observations)[:, 0],
    )
    gradient = jax.grad(lambda v: losses.losses(CONFIG, v, silent)[0])(variables)
    assert optax.tree.norm(gradient.policy) == 0.0
    assert optax.tree.norm(gradient.reward_critic) == 0.0
    assert optax.tree.norm(gradient.cost_critic) > 0.1


def test_one_update_is_one_clipped_step_of_adam_for_each_network() -> None:
    config = dataclasses.replace(CONFIG, epochs=1, minibatch_size=20, learning_rate=0.01)
    variables, optimizers, samples = material()
    progress = jax.jit(lambda *arguments: fitting.fit(config, *arguments))(
        variables, optimizers, samples, KEY
    )
    assert progress.updates == 1
    gradient = jax.grad(lambda v: losses.losses(config, v, samples)[0])(variables)
    # Adam's first step has the size of the learning rate wherever there is a gradient.
    for before, after, slope in zip(variables, progress.networks, gradient, strict=True):
        step = jax.tree.map(lambda a, b: np.asarray(a - b), before, after)
        expected = jax.tree.map(lambda g: 0.01 * np.sign(g) * (np.abs(g) > 1e-4), slope)
        for s, e, g in zip(
            jax.tree.leaves(step), jax.tree.leaves(expected), jax.tree.leaves(slope), strict=True
        ):
            certain = np.abs(g) > 1e-4
            np.testing.assert_allclose(s[certain], e[certain], rtol=1e-2)


def test_all_minibatches_of_all_epochs_are_used_while_the_policy_stays_near() -> None:
    config = dataclasses.replace(CONFIG, learning_rate=1e-5)
    progress = fitting.fit(config, *material(), KEY)
    assert progress.updates == 3 * 3
    assert not progress.stopped


def test_a_policy_that_has_moved_too_far_stops_all_updates() -> None:
    config = dataclasses.replace(CONFIG, learning_rate=0.3)
    variables, optimizers, samples = material()
    progress = fitting.fit(config, variables, optimizers, samples, KEY)
    assert progress.stopped
    assert progress.updates == 1
    # What stands is the state after that one update, the critics' too.
    rows = fitting.minibatches(config, 20, KEY)[0]
    once = fitting.fit(
        dataclasses.replace(config, epochs=1, minibatch_size=8),
        variables,
        optimizers,
        jax.tree.map(lambda x: x[rows], samples),
        KEY,
    )
    assert once.updates == 1
    for stopped, single in zip(
        jax.tree.leaves(progress.networks), jax.tree.leaves(once.networks), strict=True
    ):
        np.testing.assert_allclose(stopped, single, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_stop_is_at_one_and_a_half_times_the_target() -> None:
    variables, optimizers, samples = material(8)
    config = dataclasses.replace(CONFIG, epochs=2, learning_rate=0.01, target_kl=1.0)
    first = fitting.fit(dataclasses.replace(config, epochs=1), variables, optimizers, samples, KEY)
    _, after_one = losses.losses(config, first.networks, samples)
    kl = float(after_one.approx_kl)
    for factor, updates in ((1.45, 2), (1.55, 1)):
        near = dataclasses.replace(config, target_kl=kl / factor)
        # Twice the same minibatch, all 8 samples: the second sees the KL of the first update.
        assert fitting.fit(near, variables, optimizers, samples, KEY).updates == updates
