"""The game of removing one filter at a time."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.search.envs import filterwise
from jaxprune.search.envs.filterwise import Rules

WEIGHTS = jnp.array([1.0, 1.0, 2.0, 2.0, 4.0])


def weighted(mask: jax.Array) -> jax.Array:
    return (mask * WEIGHTS).sum() / WEIGHTS.sum()


RULES = Rules(weighted, budget=0.5, sizes=(2, 3))


def test_rules_come_from_the_problem(known_problem) -> None:
    problem = known_problem((2, 3), budget=0.5, weights=[1, 1, 2, 2, 4])
    rules = filterwise.rules(problem)
    assert rules.sizes == (2, 3)
    assert rules.num_filters == 5
    assert rules.budget == 0.5
    assert rules == filterwise.rules(problem)  # or every call of a jitted function would compile
    assert hash(rules) == hash(filterwise.rules(problem))


def test_first_state_keeps_everything() -> None:
    mask = filterwise.reset(RULES)
    np.testing.assert_array_equal(mask, np.ones(5, np.uint8))
    assert mask.dtype == jnp.uint8
    assert not filterwise.finished(RULES, mask)
    assert filterwise.legal(RULES, mask).all()


def test_the_last_filter_of_a_group_and_removed_filters_are_not_legal() -> None:
    legal = filterwise.legal(RULES, jnp.array([0, 1, 1, 0, 1], jnp.uint8))
    np.testing.assert_array_equal(legal, [False, False, True, False, True])


def test_step_by_hand() -> None:
    first = filterwise.step(RULES, filterwise.reset(RULES), jnp.int32(2))
    np.testing.assert_array_equal(first.mask, [1, 1, 0, 1, 1])
    np.testing.assert_allclose(first.cost, 0.8)
    assert not first.done
    second = filterwise.step(RULES, first.mask, jnp.int32(4))
    np.testing.assert_array_equal(second.mask, [1, 1, 0, 1, 0])
    np.testing.assert_allclose(second.cost, 0.4)
    assert second.done


def test_a_cost_equal_to_the_budget_meets_it() -> None:
    assert filterwise.feasible(RULES, jnp.array([1, 0, 0, 0, 1], jnp.uint8))  # 5 of 10
    assert not filterwise.feasible(RULES, jnp.array([1, 1, 0, 0, 1], jnp.uint8))  # 6 of 10


def test_illegal_actions_and_finished_games_change_nothing() -> None:
    one_left = jnp.array([0, 1, 1, 1, 1], jnp.uint8)
    for action in (0, 1):  # removed already, last of its group
        step = filterwise.step(RULES, one_left, jnp.int32(action))
        np.testing.assert_array_equal(step.mask, one_left)
    over = jnp.array([1, 1, 1, 0, 0], jnp.uint8)
    step = filterwise.step(RULES, over, jnp.int32(0))
    np.testing.assert_array_equal(step.mask, over)
    assert step.done


def test_a_game_without_legal_removals_is_over_above_the_budget() -> None:
    unreachable = Rules(weighted, budget=0.1, sizes=(2, 3))
    mask = jnp.array([1, 0, 1, 0, 0], jnp.uint8)
    assert not filterwise.feasible(unreachable, mask)
    assert filterwise.finished(unreachable, mask)


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 2**31 - 1), budget=st.floats(0.05, 0.95))
def test_random_games(seed: int, budget: float) -> None:
    rng = np.random.default_rng(seed)
    sizes = (1, 5, 3)
    weights = jnp.asarray(rng.uniform(0.1, 1.0, sum(sizes)), jnp.float32)
    rules = Rules(lambda mask: (mask * weights).sum() / weights.sum(), budget, sizes)
    mask, removed = filterwise.reset(rules), 0
    while not filterwise.finished(rules, mask):
        action = rng.choice(np.flatnonzero(filterwise.legal(rules, mask)))
        before = filterwise.cost(rules, mask)
        mask, cost, _ = filterwise.step(rules, mask, jnp.int32(action))
        removed += 1
        assert cost < before
        assert mask.sum() == rules.num_filters - removed
    assert filterwise.kept_per_group(rules, mask).min() >= 1
    assert filterwise.feasible(rules, mask) or removed == rules.num_filters - len(sizes)


def test_jit_and_vmap_give_the_same() -> None:
    rng = np.random.default_rng(0)
    masks = jnp.asarray(rng.integers(0, 2, (64, 5)), jnp.uint8).at[:, (0, 4)].set(1)
    actions = jnp.asarray(rng.integers(0, 5, 64))
    together = jax.jit(jax.vmap(lambda mask, action: filterwise.step(RULES, mask, action)))(
        masks, actions
    )
    for row in range(64):
        alone = filterwise.step(RULES, masks[row], actions[row])
        np.testing.assert_array_equal(together.mask[row], alone.mask)
        np.testing.assert_allclose(together.cost[row], alone.cost, rtol=1e-6)
        assert together.done[row] == alone.done
