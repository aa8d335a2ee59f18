"""PPO's objective and its gradient by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.search.agents.ppo_lagrangian.surrogate import (
    approximate_kl,
    clip_fraction,
    clipped_surrogate,
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
