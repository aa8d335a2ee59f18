r"""Learning on a constrained problem whose optimum is known in closed form.

Three steps; the observation says which. The reward, paid at the end, is
:math:`\sum_t w_t a_t - 2 a_t^2` with w = (3, 2, 1); the costs, paid at the end, are the mean of the
actions and the first action. With multipliers :math:`\lambda_1, \lambda_2` of reward per cost the
optimum is :math:`a_t = (w_t - \lambda_1 / 3 - [t = 1] \lambda_2) / 4`, inside (0, 1):

- no budget binds: a = (0.75, 0.5, 0.25), both multipliers 0;
- mean 0.4: sum a = (6 - lambda_1) / 4 = 1.2, so lambda_1 = 1.2 and a = (0.65, 0.4, 0.15);
- first action 0.5 too: the others sum to 0.7 = (3 - 2 lambda_1 / 3) / 4, so lambda_1 = 0.3,
  a = (0.5, 0.475, 0.225) and lambda_2 = 3 - 2 - 0.1 = 0.9.

The learner's multipliers weigh normalised costs against the normalised reward; times the deviation
of the rewards over that of the cost they are those above.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.search.agents.ppo_lagrangian import learning, networks, normalization
from jaxprune.search.agents.ppo_lagrangian.config import Learning
from jaxprune.search.agents.ppo_lagrangian.learning import Learner, Metrics, Trajectories

EPISODES, ROUNDS = 64, 300
STEPS = jnp.eye(3)
SLACK = 0.9
# With gamma = lambda = 1 rewards and costs are followed alike, and the optimum is the one above.
SETTINGS = {"learning_rate": 3e-3, "reward_gamma": 1.0, "reward_lambda": 1.0}


def paid_at_the_end(payments: jax.Array) -> jax.Array:
    """`[K, ...]` -> `[K, 3, ...]`."""
    return jnp.zeros((len(payments), 3, *payments.shape[1:])).at[:, -1].set(payments)


@functools.partial(jax.jit, static_argnames="config")
def solve(
    config: Learning, budgets: jax.Array, seed: jax.Array
) -> tuple[Learner, Metrics, jax.Array]:
    """The learner after all rounds, and the metrics and mean actions of each."""
    key = jax.random.PRNGKey(seed)

    def round_(learner: Learner, key: jax.Array) -> tuple[Learner, tuple[Metrics, jax.Array]]:
        act_key, learn_key = jax.random.split(key)
        observations = jnp.tile(STEPS, (EPISODES, 1, 1))
        actions, log_probs = learning.act(config, learner, observations, act_key)
        a = networks.executed(actions)[..., 0]
        rewards = (jnp.array([3.0, 2.0, 1.0]) * a - 2 * a**2).sum(1)
        costs = jnp.stack([a.mean(1), a[:, 0]], axis=-1)
        trajectories = Trajectories(
            observations, actions, log_probs, paid_at_the_end(rewards), paid_at_the_end(costs)
        )
        learner, metrics = learning.learn(config, learner, trajectories, budgets, learn_key)
        return learner, (metrics, learning.mean_action(config, learner, STEPS)[:, 0])

    learner = learning.observe(learning.init(config, key, 3, 1, 2), STEPS)
    learner, (metrics, actions) = jax.lax.scan(round_, learner, jax.random.split(key, ROUNDS))
    return learner, metrics, actions


def in_the_problems_units(learner: Learner) -> np.ndarray:
    rewards, costs = (normalization.deviation(s) for s in (learner.rewards, learner.costs))
    return np.asarray(learner.multipliers * rewards / costs)


@pytest.mark.parametrize("dual", ["ascent", "pid"])
@pytest.mark.parametrize(
    ("budgets", "optimum", "multipliers"),
    [
        pytest.param((0.8, SLACK), (0.75, 0.5, 0.25), (0.0, 0.0), marks=pytest.mark.slow),
        pytest.param((0.4, SLACK), (0.65, 0.4, 0.15), (1.2, 0.0), marks=pytest.mark.slow),
        ((0.4, 0.5), (0.5, 0.475, 0.225), (0.3, 0.9)),
    ],
    ids=["none binds", "one binds", "both bind"],
)
def test_the_optimum_is_found(
    dual: str,
    budgets: tuple[float, float],
    optimum: tuple[float, ...],
    multipliers: tuple[float, float],
) -> None:
    config = Learning(dual=dual, **SETTINGS)
    learner, metrics, actions = solve(config, jnp.array(budgets), 0)
    np.testing.assert_allclose(actions[-1], optimum, atol=0.05)
    # The last tenth of the rounds, in which learning still samples.
    costs = np.asarray(metrics.costs)[-30:].mean(0)
    for cost, budget, multiplier in zip(costs, budgets, multipliers, strict=True):
        if multiplier:
            assert cost == pytest.approx(budget, abs=0.02)
        else:
            assert cost < budget - 0.02
    found = in_the_problems_units(learner)
    np.testing.assert_allclose(found, multipliers, atol=0.15)
    for value, multiplier in zip(found, multipliers, strict=True):
        assert (value == 0.0) == (multiplier == 0.0)
    assert np.isfinite(metrics.reward).all()


def test_the_pid_overshoots_less_than_ascent_of_the_same_rate() -> None:
    below = {}
    for dual in ("ascent", "pid"):
        swings = []
        for seed in range(3):
            _, metrics, _ = solve(Learning(dual=dual, **SETTINGS), jnp.array([0.4, SLACK]), seed)
            cost = np.asarray(metrics.costs)[:, 0]
            met = int(np.argmax(cost <= 0.4))
            swings.append(0.4 - cost[met:].min())
        below[dual] = np.mean(swings)
    # Both start at a multiplier of 1, which is too high; measured: 0.22 and 0.13.
    assert below["pid"] < 0.75 * below["ascent"]
