"""Replay, exploration, rewards and settings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.search.agents import acnn, amc, cacp
from jaxprune.search.agents.ddpg import Config, episodes, replay
from jaxprune.search.agents.ddpg.replay import Transitions

KEY = jax.random.PRNGKey(0)


def steps(*numbers):
    """Steps that can be told apart by their reward."""
    values = jnp.asarray(numbers, jnp.float32)
    wide = jnp.stack([values, -values], axis=-1)
    return Transitions(wide, values / 10, values, wide + 1, jnp.ones_like(values))


# ------------------------------------------------------------------------------------------ replay


def test_the_oldest_steps_are_replaced():
    kept = replay.empty(5, 2)
    for new in (steps(1, 2, 3), steps(4, 5, 6)):
        kept = replay.add(kept, new)
    np.testing.assert_array_equal(kept.transitions.rewards, [6, 2, 3, 4, 5])
    np.testing.assert_array_equal(kept.transitions.observations[0], [6, -6])
    assert kept.written == 6


def test_a_buffer_of_one_round_is_cleared_by_the_next():
    kept = replay.add(replay.add(replay.empty(3, 2), steps(1, 2, 3)), steps(4, 5, 6))
    np.testing.assert_array_equal(kept.transitions.rewards, [4, 5, 6])


def test_minibatches_are_passes_over_what_was_written():
    kept = replay.add(replay.empty(50, 2), steps(1, 2, 3, 4, 5, 6))
    batches = replay.minibatches(kept, 3, 4, KEY)
    assert batches.observations.shape == (3, 4, 2)
    drawn = np.asarray(batches.rewards).reshape(-1)
    assert sorted(drawn[:6]) == sorted(drawn[6:]) == [1, 2, 3, 4, 5, 6]
    assert list(drawn[:6]) != [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(batches.observations[..., 0], batches.rewards)
    np.testing.assert_allclose(batches.actions, batches.rewards / 10)
    other = replay.minibatches(kept, 3, 4, jax.random.PRNGKey(1))
    assert not np.array_equal(other.rewards, batches.rewards)


# ------------------------------------------------------------------------------------- exploration


def test_the_deviation_falls_after_the_warm_up():
    config = Config(warmup=100, sigma=0.5, sigma_decay=0.95)
    deviation = episodes.sigma(config, jnp.array([0, 100, 101, 110]))
    np.testing.assert_allclose(deviation, [0.5, 0.5, 0.475, 0.5 * 0.95**10], rtol=1e-5)
    assert episodes.sigma(config, jnp.array([10_000])) == episodes.LEAST_SIGMA


def test_exploration_is_uniform_and_then_normal_within_the_range():
    config = Config(warmup=10, sigma=0.1, sigma_decay=1.0)
    actions, count = jnp.full(20_000, 0.05), 20_000
    warm = episodes.explore(config, actions, jnp.full(count, 9), KEY)
    np.testing.assert_allclose([warm.mean(), warm.std()], [0.5, 12**-0.5], atol=0.01)
    tried = np.asarray(episodes.explore(config, actions, jnp.full(count, 10), KEY))
    assert (tried >= 0).all()
    assert (tried <= 1).all()
    # Normal with mean 0.05 and deviation 0.1, cut off at 0: mean + deviation phi(h) / (1 - Phi(h)).
    expected = 0.05 + 0.1 * 0.3520653 / 0.6914625
    np.testing.assert_allclose(tried.mean(), expected, atol=0.002)


@pytest.mark.parametrize("action", [0.0, 0.3, 1.0])
def test_late_exploration_is_the_action_itself(action):
    actions = jnp.full(100, action)
    tried = episodes.explore(Config(), actions, jnp.full(100, 5_000), KEY)
    np.testing.assert_allclose(tried, action, atol=1e-5)


# ----------------------------------------------------------------------------------------- rewards


def test_balance_is_equation_3():
    config = Config(reward="balance", beta=0.5, expected_accuracy=0.9)
    accuracy = jnp.array([0.45, 0.9, 0.2])
    cost = jnp.array([0.8, 0.4, 0.1])  # compression rates 1.25, 2.5 and 10
    # Expected are an accuracy of 0.9 * 0.8 = 0.72 and a rate of 1 / 0.25 = 4.
    earned = episodes.balance(config, accuracy, jnp.float32(0.8), cost, jnp.float32(0.25))
    wanted = [0.45 / 0.72 + 0.5 * 1.25 / 4, 1 + 0.5 * 2.5 / 4, 0.2 / 0.72 + 0.5]
    np.testing.assert_allclose(earned, wanted, rtol=1e-6)


def test_the_rewards_of_amc():
    accuracy, count = jnp.array([0.9, 0.25]), jnp.array([1000.0, 10.0])
    wanted = {
        "error": [-0.1, -0.75],
        "error_log_macs": [-0.1 * np.log(1000), -0.75 * np.log(10)],
        "error_log_params": [-0.1 * np.log(1000), -0.75 * np.log(10)],
    }
    for name, numbers in wanted.items():
        found = episodes.error(Config(reward=name), accuracy, count)
        np.testing.assert_allclose(found, numbers, rtol=1e-5)


# ---------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("observation", "all"),
        ("reward", "accuracy"),
        ("targets_move", "never"),
        ("iterations", 0),
        ("episodes", 0),
        ("batch", 0),
        ("validated", 0),
        ("updates", 0),
        ("replay", 7),
        ("warmup", -1),
        ("hidden", (300,)),
        ("hidden", (300, 0)),
        ("expected_accuracy", 0.0),
        ("sigma", float("nan")),
        ("actor_rate", 0.0),
        ("critic_rate", -1.0),
        ("beta", -0.1),
        ("shrinkage", float("nan")),
        ("max_ratio", 1.1),
        ("max_ratio_dense", -0.1),
        ("gamma", 1.1),
        ("baseline_rate", 2.0),
        ("sigma_decay", 0.0),
        ("tau", 0.0),
        ("targets", (0.5, 0.0)),
    ],
)
def test_impossible_settings_are_named(field, value):
    with pytest.raises(ValueError, match=field):
        Config(**{field: value})


def test_the_published_settings():
    config = amc.Config()
    assert (config.hidden, config.actor_rate, config.critic_rate) == ((300, 300), 1e-4, 1e-3)
    assert (config.tau, config.batch, config.gamma) == (0.01, 64, 1.0)
    assert (config.warmup, config.sigma, config.sigma_decay, config.replay) == (100, 0.5, 0.95, 100)
    assert config.iterations * config.episodes == 800
    assert not config.unbounded
    only = {"observation": "cacp", "targets": (0.3, 0.5, 0.7), "iterations": 113}
    assert dataclasses.asdict(cacp.Config()) == {**dataclasses.asdict(config), **only}
    paper = acnn.Config()
    assert (paper.observation, paper.reward, paper.replay) == ("acnn", "balance", 50)
    assert (paper.critic_rate, paper.targets_move) == (1e-3, "round")
    assert paper.shrinkage > 0
