"""The policy and the critics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.search.agents.ppo_lagrangian import networks
from jaxprune.search.agents.ppo_lagrangian.config import Learning

KEY = jax.random.PRNGKey(0)
CONFIG = Learning()


@pytest.fixture(scope="module")
def variables() -> networks.Networks:
    return networks.init(CONFIG, KEY, observation_size=6, action_size=3, num_costs=2)


def kernels(params: dict) -> list[tuple[int, ...]]:
    return sorted(leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim == 2)


def test_the_architecture_is_that_of_table_5_3(variables: networks.Networks) -> None:
    assert kernels(variables.policy) == [(6, 64), (64, 3), (64, 64)]
    assert kernels(variables.reward_critic) == [(6, 64), (64, 1), (64, 64)]
    assert kernels(variables.cost_critic) == [(6, 64), (64, 2), (64, 64)]
    assert variables.policy["params"]["log_sigma"].shape == (3,)
    assert networks.action_size(variables.policy) == 3


def test_the_networks_by_hand() -> None:
    config = Learning(hidden=(1,), initial_sigma=0.5)
    variables = networks.init(config, KEY, observation_size=1, action_size=1, num_costs=1)
    ones = jax.tree.map(jnp.ones_like, variables)
    # All weights and biases 1: hidden tanh(x + 1), output that plus 1; sigma is exp(1).
    output = np.tanh(0.3 + 1) + 1
    x = jnp.array([0.3])
    distribution = networks.policy(config, ones.policy, x)
    np.testing.assert_allclose(distribution.mean(), [1 / (1 + np.exp(-output))], rtol=1e-6)
    np.testing.assert_allclose(distribution.stddev(), [np.e], rtol=1e-6)
    np.testing.assert_allclose(networks.critic(config, ones.reward_critic, x), [output], rtol=1e-6)


def test_an_untrained_policy_means_a_half_and_an_untrained_critic_0(
    variables: networks.Networks,
) -> None:
    observations = jax.random.normal(KEY, (50, 6))
    distribution = networks.policy(CONFIG, variables.policy, observations)
    np.testing.assert_allclose(distribution.mean(), 0.5, atol=0.02)
    np.testing.assert_allclose(distribution.stddev(), 0.2, rtol=1e-6)
    for critic in (variables.reward_critic, variables.cost_critic):
        np.testing.assert_allclose(networks.critic(CONFIG, critic, observations), 0, atol=0.08)


def test_log_probability_by_hand_of_a_sample_beyond_1(variables: networks.Networks) -> None:
    distribution = networks.policy(CONFIG, variables.policy, jnp.ones(6))
    action = jnp.array([1.3, 0.5, -0.1])
    mean, sigma = np.asarray(distribution.mean()), 0.2
    expected = sum(
        -0.5 * ((a - m) / sigma) ** 2 - np.log(sigma) - 0.5 * np.log(2 * np.pi)
        for a, m in zip([1.3, 0.5, -0.1], mean, strict=True)
    )
    assert distribution.log_prob(action) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(networks.executed(action), [1.0, 0.5, 0.0])


def test_any_axes_may_stand_before_the_state(variables: networks.Networks) -> None:
    observations = jax.random.normal(KEY, (4, 5, 6))
    assert networks.policy(CONFIG, variables.policy, observations).mean().shape == (4, 5, 3)
    assert networks.critic(CONFIG, variables.cost_critic, observations).shape == (4, 5, 2)
