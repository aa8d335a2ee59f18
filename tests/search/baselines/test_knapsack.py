"""The knapsack of widths against brute force."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.search.baselines import knapsack, widths

KEY = jax.random.PRNGKey(0)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31 - 1), budgets=st.integers(1, 3))
def test_the_solution_is_the_best_of_all_choices(seed, budgets) -> None:
    rng = np.random.default_rng(seed)
    options = rng.integers(1, 5, rng.integers(1, 5))
    values = [rng.integers(-20, 20, n).astype(float) for n in options]
    costs = [rng.integers(0, 20, (n, budgets)).astype(float) for n in options]
    every = list(itertools.product(*map(range, options)))
    spent = np.array([sum(c[k] for c, k in zip(costs, one, strict=True)) for one in every])
    limits = spent[rng.integers(len(every))]  # what one of the choices costs
    worth = np.array([sum(v[k] for v, k in zip(values, one, strict=True)) for one in every])
    least = worth[(spent <= limits).all(-1)].min()
    found = knapsack.solve(values, costs, limits)
    assert sum(v[k] for v, k in zip(values, found, strict=True)) == least
    assert (sum(c[k] for c, k in zip(costs, found, strict=True)) <= limits).all()


def test_no_choice_within_the_limits() -> None:
    with pytest.raises(ValueError, match="no choice of widths is within the limits"):
        knapsack.solve([np.zeros(2)], [np.ones((2, 1))], np.array([0.5]))


@settings(deadline=None, max_examples=3)
@given(seed=st.integers(0, 2**31 - 1))
def test_additive_losses_and_costs_give_the_best_of_all_widths(known_problem, seed) -> None:
    rng = np.random.default_rng(seed)
    sizes = (3, 4, 5)
    tables = [np.sort(rng.integers(0, 100, n + 1))[::-1] / 400 for n in sizes]
    arrays = [jnp.asarray(table, jnp.float32) for table in tables]

    def accuracy(mask):
        parts = jnp.split(mask, [3, 7])
        return 1 - sum(t[p.sum().astype(int)] for t, p in zip(arrays, parts, strict=True))

    weights = rng.integers(1, 6, 12)
    importance = rng.permutation(12).astype(float)
    problem = known_problem(
        sizes, 0.5, accuracy, weights=weights.tolist(), importance=importance.tolist()
    )
    space = widths.space(problem)
    every = np.array(list(itertools.product(*(range(1, n + 1) for n in sizes))))
    cost = widths.masks(space, every) @ weights / weights.sum()
    loss = np.array([sum(t[w] for t, w in zip(tables, one, strict=True)) for one in every])
    if not (cost <= 0.5).any():
        return
    found = knapsack.search(knapsack.Config(iterations=1, points=16), problem, KEY)
    assert found.archive.loss.min(where=found.archive.cost <= 0.5, initial=9) == pytest.approx(
        loss[cost <= 0.5].min(), abs=1e-5
    )


def test_a_linearised_product_by_hand(known_problem) -> None:
    # Cost: a b / 16. Around (2, 4), one channel more or less: 4 / 16 for a, 2 / 16 for b.
    problem = known_problem((4, 4), 0.5)
    problem = problem._replace(cost=lambda mask: mask[:4].sum() * mask[4:].sum() / 16)
    options = [np.array([4, 2, 1]), np.array([4, 3])]
    costs, left = knapsack.linearised(problem, widths.space(problem), np.array([2, 4]), options)
    np.testing.assert_allclose(costs[0][:, 0], np.array([8, 0, -4]) / 8, atol=1e-6)
    np.testing.assert_allclose(costs[1][:, 0], np.array([0, -2]) / 8, atol=1e-6)
    np.testing.assert_allclose(left, [0], atol=1e-6)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="widths must be at least 2, not 1"):
        knapsack.Config(widths=1)
    with pytest.raises(ValueError, match="points must be at least 1, not 0"):
        knapsack.Config(points=0)
