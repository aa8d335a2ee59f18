"""Advantages, PPO's objective and its gradient by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.search.agents.ppo_lagrangian.losses import (
    approximate_kl,
    clip_fraction,
    clipped_surrogate,
    combine,
    gae,
)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),  # nothing has moved: the policy gradient
        (1.0, -2.0, 2.0, 2.0),
        (1.5, 2.0, -2.4, 0.0),  # gained all it may: 1.2 * 2
        (0.5, -2.0, 1.6, 0.0),  # the same where the action is worse: 0.8 * 2
        (1.5, -2.0, 3.0, 2.0),  # moved the wrong way: pulled back
        (0.5, 2.0, -1.0, -2.0),
    ],
)
def test_one_sample(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    def of(ratio: jax.Array) -> jax.Array:
        return clipped_surrogate(ratio[None], jnp.array([advantage]), 0.2)

    value, slope = jax.value_and_grad(of)(jnp.float32(ratio))
    assert value == pytest.approx(loss, rel=1e-6)
    assert slope == pytest.approx(gradient, rel=1e-6)


def test_it_is_the_mean() -> None:
    loss = clipped_surrogate(jnp.array([1.5, 0.5]), jnp.array([2.0, 2.0]), 0.2)
    assert loss == pytest.approx(-(2.4 + 1.0) / 2)


def test_kl_by_hand() -> None:
    # rho = 2 and 1/2: 2 - 1 - log 2 and 1/2 - 1 + log 2.
    estimate = approximate_kl(jnp.log(jnp.array([2.0, 0.5])))
    assert estimate == pytest.approx(0.25, rel=1e-6)
    assert approximate_kl(jnp.zeros(5)) == 0.0


def test_kl_estimates_that_of_two_gaussians() -> None:
    # KL(N(0, 1) || N(0.1, 1)) = 0.005; the log-ratio of x is 0.1 x - 0.005.
    x = jax.random.normal(jax.random.PRNGKey(0), (20_000,))
    assert approximate_kl(0.1 * x - 0.005) == pytest.approx(0.005, rel=0.05)


def test_clip_fraction_counts_both_sides() -> None:
    np.testing.assert_allclose(clip_fraction(jnp.array([0.5, 0.9, 1.1, 1.5, 1.0]), 0.2), 0.4)


def test_gae_by_hand() -> None:
    # gamma = 0.5, lambda = 0.5, two episodes of three steps.
    rewards = jnp.array([[1.0, 0.0, 4.0], [0.0, 0.0, 1.0]])
    values = jnp.array([[2.0, 4.0, 6.0], [0.0, 0.0, 0.0]])
    # First: deltas are 1 + 2 - 2 = 1, 0 + 3 - 4 = -1, 4 + 0 - 6 = -2, and
    # A_3 = -2, A_2 = -1 + 0.25 * -2 = -1.5, A_1 = 1 + 0.25 * -1.5 = 0.625.
    # Second: A_3 = 1, A_2 = 0.25, A_1 = 0.0625.
    expected = [[0.625, -1.5, -2.0], [0.0625, 0.25, 1.0]]
    np.testing.assert_allclose(gae(rewards, values, 0.5, 0.5), expected, rtol=1e-6)


def test_with_gamma_and_lambda_1_it_is_the_reward_to_go_less_the_value_of_the_same_state() -> None:
    keys = jax.random.split(jax.random.PRNGKey(0))
    rewards, values = (jax.random.normal(key, (5, 7)) for key in keys)
    to_go = jnp.cumsum(rewards[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(gae(rewards, values, 1.0, 1.0), to_go - values, atol=1e-5)


def test_with_lambda_0_it_is_the_one_step_error() -> None:
    advantages = gae(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 5.0]]), 0.9, 0.0)
    np.testing.assert_allclose(advantages, [[1 + 0.9 * 5 - 3, 2 - 5]], rtol=1e-6)


def test_each_cost_is_on_its_own() -> None:
    keys = jax.random.split(jax.random.PRNGKey(1))
    costs, values = (jax.random.normal(key, (4, 3, 2)) for key in keys)
    both = gae(costs, values, 0.9, 0.8)
    assert both.shape == (4, 3, 2)
    for i in range(2):
        np.testing.assert_allclose(
            both[..., i], gae(costs[..., i], values[..., i], 0.9, 0.8), rtol=1e-5
        )


def test_the_combined_advantage_by_hand() -> None:
    # Centred: rewards -1, 1; first cost -2, 2; second 0.5, -0.5. With multipliers 1 and 2:
    # (-1 - (1 * -2 + 2 * 0.5)) / 4 = 0.
    rewards = jnp.array([[1.0, 3.0]])
    costs = jnp.array([[[4.0, 1.5], [8.0, 0.5]]])
    np.testing.assert_allclose(combine(rewards, costs, jnp.array([1.0, 2.0])), [[0.0, 0.0]])
    # With multipliers 3 and 0: (-1 + 6) / 4 and (1 - 6) / 4.
    np.testing.assert_allclose(combine(rewards, costs, jnp.array([3.0, 0.0])), [[1.25, -1.25]])
    np.testing.assert_allclose(combine(rewards, costs, jnp.zeros(2)), [[-1.0, 1.0]])


def test_the_multiplier_of_a_saddle_does_not_depend_on_how_much_the_policy_still_varies() -> None:
    # Reward and cost of parallel gradients: at lambda = 2 they cancel, however small the steps.
    steps = jnp.array([[-1.0, 0.25, 0.75]])
    for size in (1.0, 1e-3):
        advantages = combine(2 * size * steps, size * steps[..., None], jnp.array([2.0]))
        np.testing.assert_allclose(advantages, 0.0, atol=1e-8)
