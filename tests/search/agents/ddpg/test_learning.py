"""Critic, actor, baseline, targets and the proximal step, against numbers worked out by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune.search.agents.ddpg import Config, learning, losses, networks
from jaxprune.search.agents.ddpg.networks import Networks
from jaxprune.search.agents.ddpg.replay import Transitions

KEY = jax.random.PRNGKey(0)
CONFIG = Config(hidden=(1, 1), gamma=0.5, tau=0.25, batch=2)


def same(left, right) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


def dense(kernel, bias):
    return {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray([bias], jnp.float32)}


def critic(scale):
    """Q(s, a) = scale * (s + 2 a) for s + 2 a > 0."""
    return {
        "params": {
            "observation": dense([[1.0]], 0.0),
            "action": dense([[2.0]], 0.0),
            "Dense_0": dense([[1.0]], 0.0),
            "output": dense([[scale]], 0.0),
        }
    }


def actor(bias):
    """mu(s) = sigmoid(bias) whatever s is."""
    return {
        "params": {
            "Dense_0": dense([[0.0]], 0.0),
            "Dense_1": dense([[0.0]], 0.0),
            "output": dense([[0.0]], bias),
        }
    }


TWO = Transitions(
    observations=jnp.array([[1.0], [3.0]]),
    actions=jnp.array([0.5, 0.25]),
    rewards=jnp.array([0.2, -1.0]),
    following=jnp.array([[3.0], [9.0]]),
    continues=jnp.array([1.0, 0.0]),
)


def test_the_networks_are_the_shape_they_say():
    np.testing.assert_allclose(
        networks.value(CONFIG, critic(3.0), TWO.observations, TWO.actions), [6.0, 10.5]
    )
    np.testing.assert_allclose(networks.act(CONFIG, actor(0.0), TWO.observations), [0.5, 0.5])
    wide = networks.init(Config(), KEY, 10)
    sizes = {name: layer["kernel"].shape for name, layer in wide.actor["params"].items()}
    assert sizes == {"Dense_0": (10, 300), "Dense_1": (300, 300), "output": (300, 1)}
    sizes = {name: layer["kernel"].shape for name, layer in wide.critic["params"].items()}
    assert sizes == {
        **{"observation": (10, 300), "action": (1, 300)},
        **{"Dense_0": (300, 300), "output": (300, 1)},
    }
    seen = jax.random.uniform(KEY, (50, 10))
    np.testing.assert_allclose(networks.act(Config(), wide.actor, seen), 0.5, atol=0.02)


def test_the_critics_loss_on_two_steps():
    targets = Networks(actor(0.0), critic(2.0))
    # First: 0.2 + 0.5 * 2 * (3 + 2 * 0.5) = 4.2 against 1 * (1 + 2 * 0.5) = 2; the second is the
    # last of its episode: -1 against 3 + 2 * 0.25 = 3.5.
    loss = losses.critic_loss(CONFIG, critic(1.0), targets, TWO)
    np.testing.assert_allclose(loss, (2.2**2 + 4.5**2) / 2, rtol=1e-6)


def test_the_actor_goes_where_the_value_rises():
    loss, gradient = jax.value_and_grad(losses.actor_loss, 1)(CONFIG, actor(0.0), critic(1.0), TWO)
    np.testing.assert_allclose(loss, -(2 + 4) / 2, rtol=1e-6)  # a = 0.5 in both states
    # d(s + 2 sigmoid(b)) / db = 2 * 0.25, to be ascended.
    np.testing.assert_allclose(gradient["params"]["output"]["bias"], [-0.5], rtol=1e-6)


def test_targets_follow_by_tau():
    learner = learning.init(CONFIG, KEY, 1)
    learner = learner._replace(
        networks=Networks(actor(4.0), critic(8.0)), targets=Networks(actor(0.0), critic(4.0))
    )
    targets = learning.follow(CONFIG, learner).targets
    np.testing.assert_allclose(targets.actor["params"]["output"]["bias"], [1.0])
    np.testing.assert_allclose(targets.critic["params"]["output"]["kernel"], [[5.0]])


def test_the_baseline_is_a_moving_average_of_minibatches():
    learner = learning.init(CONFIG, KEY, 1)
    learner, _ = learning.step(CONFIG, learner, TWO)
    np.testing.assert_allclose(learner.baseline, -0.4, rtol=1e-6)  # the first mean
    learner, _ = learning.step(CONFIG, learner, TWO._replace(rewards=jnp.array([1.0, 2.0])))
    np.testing.assert_allclose(learner.baseline, -0.4 + 0.5 * 1.9, rtol=1e-6)
    none = dataclasses.replace(CONFIG, baseline_rate=0.0)
    learner, _ = learning.step(none, learning.init(none, KEY, 1), TWO)
    assert learner.baseline == 0


def test_the_baseline_comes_off_the_rewards_that_the_critic_learns():
    learner = learning.init(CONFIG, KEY, 1)
    variables = Networks(actor(0.0), critic(1.0))
    learner = learner._replace(networks=variables, targets=variables, updates=jnp.int32(1))
    learner = learner._replace(baseline=jnp.float32(0.6))
    _, found = learning.step(CONFIG, learner, TWO)
    # b = 0.6 + 0.5 * (-0.4 - 0.6) = 0.1; 0.1 + 0.5 * 4 = 2.1 against 2, -1.1 against 3.5.
    np.testing.assert_allclose(found.critic, (0.1**2 + 4.6**2) / 2, rtol=1e-5)


@pytest.mark.slow
def test_a_step_is_adams_step_and_then_the_soft_threshold():
    """ACNN, eqs. 8 to 11, with Adam's step for the gradient's."""
    config = dataclasses.replace(
        CONFIG, hidden=(4, 4), shrinkage=0.5, actor_rate=0.02, critic_rate=0.04, baseline_rate=0.0
    )
    learner = learning.init(config, KEY, 1)
    after, _ = learning.step(config, learner, TWO)

    def expected(variables, gradient, rate):
        adam = optax.adam(rate)
        update, _ = adam.update(gradient, adam.init(variables), variables)
        half = optax.apply_updates(variables, update)
        return jax.tree.map(
            lambda w: np.sign(w) * np.maximum(np.abs(np.asarray(w)) - 0.5 * rate, 0), half
        )

    before = learner.networks
    gradient = jax.grad(losses.critic_loss, 1)(config, before.critic, learner.targets, TWO)
    wanted = expected(before.critic, gradient, 0.04)
    for a, b in zip(jax.tree.leaves(after.networks.critic), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    gradient = jax.grad(losses.actor_loss, 1)(config, before.actor, after.networks.critic, TWO)
    wanted = expected(before.actor, gradient, 0.02)
    for a, b in zip(jax.tree.leaves(after.networks.actor), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.slow
def test_without_shrinkage_no_weight_becomes_zero():
    config = dataclasses.replace(CONFIG, hidden=(8, 8), critic_rate=0.01)
    shrunk = dataclasses.replace(config, shrinkage=0.9)
    batches = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], 30, 0), TWO)
    zeros = {}
    for one in (config, shrunk):
        learner, _ = learning.learn(one, learning.init(one, KEY, 1), batches)
        kernel = learner.networks.critic["params"]["Dense_0"]["kernel"]
        zeros[one.shrinkage] = float((kernel == 0).mean())
    assert zeros[0.0] == 0
    assert zeros[0.9] > 0.3


@pytest.mark.parametrize("moves", ["update", "round"])
def test_when_the_targets_move(moves):
    config = dataclasses.replace(CONFIG, hidden=(4, 4), targets_move=moves)
    start = learning.init(config, KEY, 1)
    batches = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], 3, 0), TWO)
    after, losses = learning.learn(config, start, batches)
    assert after.updates == 3

    learner, parts = start, []
    for _ in range(3):
        learner, loss = learning.step(config, learner, TWO)
        parts.append(loss)
    if moves == "round":
        same(learner.targets, start.targets)
        learner = learning.follow(config, learner)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(learner), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses.critic, np.mean([part.critic for part in parts]), rtol=1e-5)
    np.testing.assert_allclose(losses.actor, np.mean([part.actor for part in parts]), rtol=1e-5)
