"""Giving back what a budget still allows."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.search.baselines.removal import refill


def test_refill_by_hand(known_problem) -> None:
    # Seven of ten may stay, four do. Of three lost in each group, those of importance 3 and 30 come
    # back first; of the next two, which tie, that of the later group: 20.
    importance = [4, 1, 3, 2, 60, 50, 40, 30, 20, 10]
    problem = known_problem((4, 6), budget=0.7, importance=importance)
    mask = [[1, 0, 0, 0, 1, 1, 1, 0, 0, 0]]
    np.testing.assert_array_equal(
        refill(problem, jnp.asarray(mask)), [[1, 0, 1, 0] + [1] * 5 + [0]]
    )


def test_a_candidate_that_breaks_the_budget_stays_as_it_is(known_problem) -> None:
    problem = known_problem((4, 6), budget=0.5)
    mask = np.array([[1, 1, 0, 1, 1, 1, 1, 0, 1, 0]], np.uint8)
    np.testing.assert_array_equal(refill(problem, jnp.asarray(mask)), mask)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31 - 1), budget=st.sampled_from([0.4, 0.65, 1.0]))
def test_nothing_is_lost_and_the_budget_is_used_up(known_problem, seed, budget) -> None:
    rng = np.random.default_rng(seed)
    sizes = (5, 2, 7)
    problem = known_problem(sizes, budget=budget, importance=rng.permutation(14) + 1.0)
    masks = rng.integers(0, 2, (6, 14))
    masks[:, [0, 5, 7]] = 1
    for before, after in zip(masks, np.asarray(refill(problem, jnp.asarray(masks))), strict=True):
        if before.mean() > budget:
            np.testing.assert_array_equal(after, before)
            continue
        assert (after >= before).all()
        assert after.mean() <= budget
        # The cost is the part of the channels that stays: one more would be too much.
        assert after.all() or (after.sum() + 1) / 14 > budget
        for group in np.split(np.arange(14), [5, 7]):
            came = [i for i in group if after[i] > before[i]]
            still_out = [i for i in group if not after[i]]
            importance = np.asarray(problem.importance)
            assert all(importance[i] > importance[j] for i in came for j in still_out)
