"""The dual step by hand, and the traps of its published versions."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.search.agents.ppo_lagrangian import multipliers
from jaxprune.search.agents.ppo_lagrangian.config import Learning

ASCENT = Learning(dual="ascent", multiplier_rate=0.5, initial_multiplier=1.0)


def follow(config: Learning, violations: list[float]) -> np.ndarray:
    value, state = multipliers.init(config, 1)
    path = []
    for violation in violations:
        value, state = multipliers.move(config, value, state, jnp.array([violation]))
        path.append(float(value[0]))
    return np.array(path)


def test_the_violation_is_that_of_an_episode_and_not_of_a_step() -> None:
    # Two episodes of four steps, paid at the end: 0.2 and 0.6 on average cost 0.4, not 0.1.
    costs = jnp.zeros((2, 4, 2)).at[:, -1, 0].set(jnp.array([0.2, 0.6])).at[:, :, 1].set(0.25)
    violation = multipliers.violations(costs, jnp.array([0.3, 1.5]))
    np.testing.assert_allclose(violation, [0.1, -0.5], rtol=1e-5)


def test_ascent_by_hand() -> None:
    np.testing.assert_allclose(follow(ASCENT, [0.4, -1.0, 0.2]), [1.2, 0.7, 0.8], rtol=1e-6)


@pytest.mark.parametrize("dual", ["ascent", "pid"])
def test_a_slack_budget_ends_with_multiplier_0_and_not_at_a_floor_above(dual: str) -> None:
    config = Learning(dual=dual, multiplier_rate=0.5, proportional_gain=1.0)
    path = follow(config, [-0.3] * 20)
    assert path[-1] == 0.0
    assert path.min() == 0.0


def test_after_a_long_slack_a_violation_counts_at_once() -> None:
    # The floor holds for the integral too: 100 slack rounds are no credit.
    assert follow(ASCENT, [-1.0] * 100 + [0.2])[-1] == pytest.approx(0.1)
    pid = Learning(dual="pid", multiplier_rate=0.5, proportional_gain=2.0)
    assert follow(pid, [-1.0] * 100 + [0.2])[-1] == pytest.approx(0.5 * 0.2 + 2.0 * 0.2)


def test_pid_by_hand() -> None:
    config = Learning(dual="pid", multiplier_rate=0.5, proportional_gain=2.0, derivative_gain=3.0)
    # Integral from 1: 1.2, 1.5, 1.4. Lambda: 1.2 + 0.8; 1.5 + 1.2 + 3 * 0.2; 1.4 - 0.4.
    np.testing.assert_allclose(follow(config, [0.4, 0.6, -0.2]), [2.0, 3.3, 1.0], rtol=1e-6)


def test_a_small_violation_moves_little() -> None:
    # Adam would step by its rate.
    assert follow(ASCENT, [1e-3])[0] == pytest.approx(1.0005, rel=1e-6)
