"""Uniform and global magnitude pruning: tight budgets, against brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.search.baselines import global_l1, magnitude, uniform_l1
from jaxprune.search.baselines.removal import least_removal

KEY = jax.random.PRNGKey(0)


def test_uniform_by_hand(known_problem) -> None:
    # Half of each group must go: the two smallest of four, the three smallest of six.
    importance = [4, 1, 3, 2, 60, 50, 40, 30, 20, 10]
    problem = known_problem((4, 6), budget=0.5, importance=importance)
    np.testing.assert_array_equal(uniform_l1(problem), [1, 0, 1, 0, 1, 1, 1, 0, 0, 0])


def test_uniform_takes_no_more_than_the_budget_asks(known_problem) -> None:
    # One of ten must go. Of the six, 0.5 / 6 comes before 0.5 / 4.
    importance = [4, 1, 3, 2, 60, 50, 40, 30, 20, 10]
    problem = known_problem((4, 6), budget=0.91, importance=importance)
    np.testing.assert_array_equal(uniform_l1(problem), [1, 1, 1, 1, 1, 1, 1, 1, 1, 0])


def test_global_by_hand(known_problem) -> None:
    # Divided by the means 2.5 and 20: .4 .8 1.2 1.6 and .5 .75 1 1.75; four of eight go.
    problem = known_problem((4, 4), budget=0.5, importance=[1, 2, 3, 4, 10, 15, 20, 35])
    np.testing.assert_array_equal(global_l1(problem), [0, 0, 1, 1, 0, 0, 1, 1])


def test_global_keeps_one_of_a_group_of_no_importance(known_problem) -> None:
    problem = known_problem((2, 4), budget=0.5, importance=[0, 0, 1, 2, 3, 4])
    np.testing.assert_array_equal(global_l1(problem), [0, 1, 0, 0, 1, 1])


def test_a_budget_of_one_removes_nothing(known_problem) -> None:
    problem = known_problem((2, 3), budget=1.0)
    assert uniform_l1(problem).sum() == 5
    assert global_l1(problem).sum() == 5


def test_a_budget_out_of_reach_is_refused(known_problem) -> None:
    problem = known_problem((2, 3), budget=0.35)
    with pytest.raises(ValueError, match=r"budget 0\.35 .* relative cost is 0\.4"):
        global_l1(problem)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31 - 1), data=st.data())
def test_the_removal_is_the_least_in_its_order(
    known_problem, seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    sizes = data.draw(st.sampled_from([(6,), (2, 2, 8), (5, 2, 3, 7)]))
    count, group = sum(sizes), np.repeat(np.arange(len(sizes)), sizes)
    weights = rng.integers(1, 9, count).astype(np.float32)
    score = rng.permutation(count).astype(np.float32)

    # Brute force: walk through the order, keeping the last of each group, and try every length.
    kept, tries = np.ones(count), [np.ones(count)]
    for filter_ in np.argsort(score):
        if kept[group == group[filter_]].sum() > 1:
            kept[filter_] = 0
            tries.append(kept.copy())
    costs = np.array([(mask * weights).sum() / weights.sum() for mask in tries])
    budget = float(rng.uniform(costs[-1], 1))
    expected = tries[int(np.argmax(costs <= budget))]

    problem = known_problem(sizes, budget, weights=weights.tolist())
    np.testing.assert_array_equal(least_removal(problem, jnp.asarray(score)), expected)


def test_search_takes_the_better_by_validation(known_problem) -> None:
    # Filter 0 is all that counts; the global ranking removes it, the uniform one does not.
    problem = known_problem(
        (4, 4), 0.75, lambda mask: mask[0], importance=[20, 21, 22, 23, 1, 100, 100, 101]
    )
    problem = problem._replace(importance=jnp.asarray([0.1, 0, 5, 5, 4, 4, 4, 4.0]))
    seen = []
    result = magnitude.search(
        magnitude.Config(), problem, KEY, progress=lambda state, metrics: seen.append(metrics)
    )
    np.testing.assert_array_equal(result.archive.masks[0], uniform_l1(problem))
    np.testing.assert_array_equal(result.archive.masks[1], global_l1(problem))
    np.testing.assert_array_equal(result.archive.validation, [1, 0])
    np.testing.assert_array_equal(result.mask, uniform_l1(problem))
    np.testing.assert_array_equal(result.archive.cost, [0.75, 0.75])
    assert result.episodes == 2
    assert [metrics["best_accuracy"] for metrics in seen] == [1.0]


def test_a_candidate_for_each_scope(known_problem) -> None:
    # All groups of a chain are alike: the two of lowest score go, wherever they are.
    problem = known_problem((3, 3), budget=4 / 6, importance=[1, 2, 9, 30, 20, 10])
    config = magnitude.Config(scopes=("uniform", "isomorphic"))
    result = magnitude.search(config, problem, KEY)
    np.testing.assert_array_equal(result.archive.masks, [[0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1]])
    for scopes, got in ((("local",), "'local'"), ((), "nothing")):
        with pytest.raises(ValueError, match=f"scopes must be some of global, .* not {got}"):
            magnitude.Config(scopes=scopes)


def test_a_finished_search_is_not_repeated(known_problem) -> None:
    problem = known_problem((2, 3), budget=0.85)
    state = magnitude.search(magnitude.Config(), problem, KEY).state
    again = magnitude.search(magnitude.Config(), problem, KEY, state=state)
    assert len(again.archive.cost) == 2
