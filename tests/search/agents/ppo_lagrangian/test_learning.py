"""A round of learning."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.search.agents.ppo_lagrangian import fitting, learning, networks, normalization
from jaxprune.search.agents.ppo_lagrangian.config import Learning
from jaxprune.search.agents.ppo_lagrangian.learning import Learner, Trajectories

KEY = jax.random.PRNGKey(0)
CONFIG = Learning(hidden=(8,), minibatch_size=8, epochs=2, dual="ascent", multiplier_rate=0.5)
EPISODES, STEPS = 5, 4
BUDGETS = jnp.array([0.3, 2.0])


def play(learner: Learner, config: Learning = CONFIG, key: jax.Array = KEY) -> Trajectories:
    """Episodes whose observations are far from normal, paid at the end."""
    noise, act = jax.random.split(key)
    observations = 30.0 + 10.0 * jax.random.normal(noise, (EPISODES, STEPS, 3))
    actions, log_probs = learning.act(config, learner, observations, act)
    seen = networks.executed(actions)
    last = functools.partial(jnp.zeros((EPISODES, STEPS)).at[:, -1].set)
    costs = [last(seen.mean((1, 2))), last(seen[:, 0, 0])]
    return Trajectories(
        observations, actions, log_probs, last(seen[:, -1].sum(-1)), jnp.stack(costs, -1)
    )


@pytest.fixture(scope="module")
def learner() -> Learner:
    return learning.init(CONFIG, KEY, 3, 2, 2)


def same(left: object, right: object) -> bool:
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_a_new_learner(learner: Learner) -> None:
    np.testing.assert_array_equal(learner.multipliers, [1.0, 1.0])
    assert learner.observations.mean.shape == (3,)
    assert learner.rewards.mean.shape == ()
    assert learner.costs.mean.shape == (2,)
    assert learner.updates == 0


def test_actions_are_samples_about_the_mean_and_log_probs_theirs(learner: Learner) -> None:
    observations = jnp.tile(jnp.array([0.5, -1.0, 2.0]), (2000, 1))
    actions, log_probs = learning.act(CONFIG, learner, observations, KEY)
    mean = learning.mean_action(CONFIG, learner, observations[0])
    np.testing.assert_allclose(actions.mean(0), mean, atol=0.02)
    np.testing.assert_allclose(actions.std(0), 0.2, atol=0.01)
    assert (actions < 0).any()
    assert (actions > 1).any()
    z = (np.asarray(actions) - np.asarray(mean)) / 0.2
    by_hand = (-0.5 * z**2 - np.log(0.2 * np.sqrt(2 * np.pi))).sum(-1)
    np.testing.assert_allclose(log_probs, by_hand, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_round_by_its_numbers(learner: Learner) -> None:
    trajectories = play(learner)
    after, metrics = learning.learn(CONFIG, learner, trajectories, BUDGETS, KEY)
    rewards = np.asarray(trajectories.rewards).sum(1)
    costs = np.asarray(trajectories.costs).sum(1)
    np.testing.assert_allclose(metrics.reward, rewards.mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics.costs, costs.mean(0), rtol=1e-6)
    violations = costs.mean(0) - np.asarray(BUDGETS)
    np.testing.assert_allclose(metrics.violations, violations, rtol=1e-5)
    # Ascent of rate 0.5 from 1.
    moved = np.maximum(1 + 0.5 * violations, 0)
    np.testing.assert_allclose(after.multipliers, moved, rtol=1e-6)
    np.testing.assert_array_equal(metrics.multipliers, after.multipliers)
    # Statistics: those of episodes for what is paid, of steps for what is seen.
    np.testing.assert_allclose(normalization.deviation(after.rewards), rewards.std(), rtol=1e-5)
    np.testing.assert_allclose(normalization.deviation(after.costs), costs.std(0), rtol=1e-5)
    assert (after.rewards.count, after.costs.count) == (EPISODES, EPISODES)
    assert after.observations.count == EPISODES * STEPS
    assert metrics.updates == after.updates
    assert 1 <= metrics.updates <= 2 * 3
    sigma = np.exp(np.asarray(after.networks.policy["params"]["log_sigma"]))
    np.testing.assert_allclose(metrics.sigma, sigma.mean(), rtol=1e-6)
    by_hand = (0.5 * np.log(2 * np.pi * np.e) + np.log(sigma)).sum()
    np.testing.assert_allclose(metrics.entropy, by_hand, rtol=1e-5)
    assert metrics.approx_kl >= 0


def test_the_multipliers_move_before_the_policy(learner: Learner) -> None:
    trajectories = play(learner)
    after, _ = learning.learn(CONFIG, learner, trajectories, BUDGETS, KEY)
    assert abs(float(after.multipliers[1]) - 1) > 0.5
    fixed = dataclasses.replace(CONFIG, multiplier_rate=0.0)
    moved = learner._replace(multipliers=after.multipliers)
    alike, _ = learning.learn(fixed, moved, trajectories, BUDGETS, KEY)
    assert same(after.networks, alike.networks)
    unmoved, _ = learning.learn(fixed, learner, trajectories, BUDGETS, KEY)
    assert not same(after.networks, unmoved.networks)


def test_the_policy_learns_with_the_observations_as_it_saw_them(learner: Learner) -> None:
    # Were the statistics of this round used, nothing would have to move for the ratios to leave 1.
    still = dataclasses.replace(CONFIG, learning_rate=1e-12)
    after, metrics = learning.learn(still, learner, play(learner), BUDGETS, KEY)
    assert metrics.approx_kl < 1e-6
    assert metrics.updates == 2 * 3
    # From the next round on they are: what was far from normal is normal.
    np.testing.assert_allclose(after.observations.mean, 30.0, atol=8.0)
    again = play(after)
    _, metrics = learning.learn(still, after, again, BUDGETS, KEY)
    assert metrics.approx_kl < 1e-6


def test_observations_known_beforehand_can_be_shown(learner: Learner) -> None:
    observations = jnp.array([[1.0, 10.0, 100.0], [3.0, 10.0, 300.0]])
    shown = learning.observe(learner, observations)
    np.testing.assert_allclose(
        normalization.normalize(shown.observations, observations), [[-1, 0, -1], [1, 0, 1]]
    )
    assert same(shown.networks, learner.networks)


def test_rewards_and_costs_are_normalised_per_episode() -> None:
    # Totals 1, 2, 3, 6 of two steps: mean 3, deviation sqrt(3.5).
    payments = jnp.array([[0.5, 0.5], [0.0, 2.0], [3.0, 0.0], [2.0, 4.0]])
    statistics = normalization.update(normalization.init(()), payments.sum(1))
    normalized = np.asarray(learning.normalized_payments(statistics, payments))
    np.testing.assert_allclose(
        normalized.sum(1), np.array([-2, -1, 0, 3]) / np.sqrt(3.5), rtol=1e-6
    )
    np.testing.assert_allclose(normalized[:, 0], np.array([0.5, 0, 3, 2]) / np.sqrt(3.5), rtol=1e-6)


def test_advantages_and_targets_of_critics_that_say_0(learner: Learner) -> None:
    config = dataclasses.replace(CONFIG, reward_gamma=0.5, reward_lambda=1.0)
    silent = learner.networks._replace(
        reward_critic=jax.tree.map(jnp.zeros_like, learner.networks.reward_critic),
        cost_critic=jax.tree.map(jnp.zeros_like, learner.networks.cost_critic),
    )
    trajectories = Trajectories(
        observations=jnp.zeros((2, 2, 3)),
        actions=jnp.zeros((2, 2, 2)),
        log_probs=jnp.zeros((2, 2)),
        rewards=jnp.array([[0.0, 4.0], [0.0, -4.0]]),
        costs=jnp.array([[[0.0, 0.0], [1.0, 3.0]], [[0.0, 0.0], [-1.0, 5.0]]]),
    )
    samples = learning.prepare(config, silent, jnp.array([1.0, 2.0]), trajectories)
    np.testing.assert_allclose(samples.reward_targets, [2, 4, -2, -4])
    np.testing.assert_allclose(samples.cost_targets, [[1, 3], [1, 3], [-1, 5], [-1, 5]])
    # Centred: rewards 2, 4, -2, -4; costs 1, 1, -1, -1 and -1, -1, 1, 1; 1 + 1 + 2 = 4.
    np.testing.assert_allclose(samples.advantages, [0.75, 1.25, -0.75, -1.25])


def test_the_same_key_gives_the_same_learner_bit_for_bit(learner: Learner) -> None:
    trajectories = play(learner)
    one = learning.learn(CONFIG, learner, trajectories, BUDGETS, KEY)
    two = learning.learn(CONFIG, learner, trajectories, BUDGETS, KEY)
    other = learning.learn(CONFIG, learner, trajectories, BUDGETS, jax.random.PRNGKey(1))
    assert same(one, two)
    assert not same(one[0].networks, other[0].networks)
    assert same(learning.init(CONFIG, KEY, 3, 2, 2), learner)


def test_rounds_go_on_from_each_other(learner: Learner) -> None:
    made = 0
    for round_ in range(3):
        key = jax.random.fold_in(KEY, round_)
        learner, metrics = learning.learn(CONFIG, learner, play(learner, key=key), BUDGETS, key)
        made += int(metrics.updates)
    assert learner.updates == made
    assert learner.rewards.count == 3 * EPISODES
    assert learner.observations.count == 3 * EPISODES * STEPS


def test_a_huge_learning_rate_is_stopped_by_the_kl(learner: Learner) -> None:
    wild = dataclasses.replace(CONFIG, learning_rate=1.0)
    _, metrics = learning.learn(wild, learner, play(learner), BUDGETS, KEY)
    assert 1 <= metrics.updates < 2 * 3
    assert metrics.approx_kl > fitting.KL_TOLERANCE * wild.target_kl
    assert metrics.clip_fraction > 0.5


@pytest.mark.slow
def test_it_runs_inside_other_compiled_code(learner: Learner) -> None:
    # An unclipped sum of floats may be added up in another order there, so: nearly the same.
    trajectories = play(learner)
    budgets = jnp.stack([BUDGETS, BUDGETS / 2])
    _, both = jax.vmap(lambda budgets: learning.learn(CONFIG, learner, trajectories, budgets, KEY))(
        budgets
    )
    _, one = learning.learn(CONFIG, learner, trajectories, budgets[1], KEY)
    np.testing.assert_allclose(both.multipliers[1], one.multipliers, rtol=1e-6)
    assert both.updates[1] == one.updates
