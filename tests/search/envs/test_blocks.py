"""Games in which blocks of filters are removed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.costs.limits import Allowed, any_width
from jaxprune.search.envs import blocks, filterwise
from jaxprune.search.envs.filterwise import Rules

# Group 0 has three filters, of which filter 1 is the most important; group 1 has five.
IMPORTANCE = np.array([1.0, 9.0, 2.0, 5.0, 1.0, 4.0, 2.0, 3.0])
PARTS = blocks.partition(any_width((3, 5)), IMPORTANCE, (2, 3))


def fraction(mask):
    return mask.mean()


def rules(budget):
    return Rules(fraction, budget, PARTS.sizes, PARTS)


def test_blocks_lie_in_the_order_of_importance():
    assert PARTS.sizes == (2, 3)  # {0, 2}, {1}; {4, 6, 7}, {5}, {3}
    assert PARTS.removals == (2, 1, 3, 1, 1)
    assert PARTS.block == (0, 1, 0, 4, 2, 3, 2, 2)
    assert PARTS.place == (1, 0, 0, 0, 2, 0, 1, 0)


def test_the_next_block_of_each_group_may_go():
    game = rules(0.1)
    state = filterwise.reset(game)
    np.testing.assert_array_equal(state, [2, 1, 3, 1, 1])
    np.testing.assert_array_equal(filterwise.legal(game, state), [1, 0, 1, 0, 0])
    state = filterwise.step(game, state, jnp.int32(2)).mask
    np.testing.assert_array_equal(filterwise.filters(game, state), [1, 1, 1, 1, 0, 1, 0, 0])
    np.testing.assert_array_equal(filterwise.legal(game, state), [1, 0, 0, 1, 0])
    state = filterwise.step(game, state, jnp.int32(0)).mask
    np.testing.assert_array_equal(filterwise.legal(game, state), [0, 0, 0, 1, 0])
    illegal = filterwise.step(game, state, jnp.int32(1)).mask
    np.testing.assert_array_equal(illegal, state)


def test_blocks_of_limited_widths():
    """Groups 0 and 2 keep 4 or 2 of 5 alike, group 1 keeps 4, 3 or 1 of 4."""
    allowed = Allowed((5, 4, 5), ((4, 2), (4, 3, 1), (4, 2)), (0, 1, 0))
    importance = np.r_[1:6, 1:5, 5:0:-1].astype(float)
    parts = blocks.partition(allowed, importance, (1, 2))
    assert parts.sizes == (2, 2)
    assert parts.removals == (1, 1, 2, 1)
    never = blocks.LARGEST
    assert parts.block == (1, 0, 0, 1, 1, 2, 2, 2, 3, 1, 1, 0, 0, 1)
    assert parts.place == (never, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, never)
    game = Rules(fraction, 0.6, parts.sizes, parts)
    state = filterwise.reset(game)
    np.testing.assert_array_equal(
        filterwise.filters(game, state), [0, 1, 1, 1, 1] + [1] * 4 + [1, 1, 1, 1, 0]
    )
    # Without groups 0 and 2's removal 8 of 14 remain, which is enough: all of group 1 may stay.
    over = filterwise.step(game, state, jnp.int32(0))
    assert over.done
    assert over.cost == np.float32(8 / 14)
    # Group 1 by its whole block, 9 of 14 remain; then 8 would do, and no width lies between.
    state = filterwise.step(game, state, jnp.int32(2)).mask
    np.testing.assert_array_equal(state, [1, 1, 0, 1])
    over = filterwise.step(game, state, jnp.int32(0))
    np.testing.assert_array_equal(over.mask, [0, 1, 0, 1])


@pytest.mark.parametrize(
    ("budget", "left"),
    [(6 / 8, 1), (7 / 8, 2), (0.7, 0)],
    ids=["one filter comes back", "two do", "none does"],
)
def test_the_last_block_goes_only_as_far_as_it_must(budget, left):
    game = rules(budget)
    after = filterwise.step(game, filterwise.reset(game), jnp.int32(2))
    np.testing.assert_array_equal(after.mask, [2, 1, left, 1, 1])
    assert after.cost == (5 + left) / 8
    # The most important filters of the block, 7 and then 6.
    expected = np.ones(8)
    expected[[4, 6, 7][: 3 - left]] = 0
    np.testing.assert_array_equal(filterwise.filters(game, after.mask), expected)
    assert after.done == ((5 + left) / 8 <= budget)


@settings(max_examples=5, deadline=None)
@given(st.data())
def test_games_use_the_budget_up(data):
    sizes = data.draw(st.sampled_from([(7,), (9, 1), (4, 6, 3)]))
    wanted = [data.draw(st.integers(1, 5)) for _ in sizes]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    prices = jnp.asarray(rng.integers(1, 4, sum(sizes)), jnp.float32)
    parts = blocks.partition(any_width(sizes), rng.random(sum(sizes)), wanted)
    budget = data.draw(st.floats(0.05, 0.99))
    game = Rules(lambda mask: mask @ prices / prices.sum(), budget, parts.sizes, parts)

    @jax.jit
    def look(state):
        mask = filterwise.filters(game, state)
        return (
            mask,
            filterwise.legal(game, state),
            filterwise.finished(game, state),
            filterwise.feasible(game, state),
        )

    step = jax.jit(lambda state, action: filterwise.step(game, state, action).mask)
    state, moves = filterwise.reset(game), 0
    mask, legal, finished, feasible = look(state)
    while not finished:
        action = rng.choice(np.flatnonzero(legal))
        state, kept = step(state, jnp.int32(action)), mask.sum()
        mask, legal, finished, feasible = look(state)
        assert mask.sum() < kept
        moves += 1
    assert moves <= len(parts.removals) - len(sizes)
    assert min(part.sum() for part in np.split(np.asarray(mask), np.cumsum(sizes)[:-1])) >= 1
    if not feasible:
        assert mask.sum() == len(sizes)  # nothing but the last filter of each group
    elif moves:
        *_, still = look(state.at[action].add(1))
        assert not still  # one filter of the last block more would be too many


@pytest.mark.parametrize(
    ("block", "sizes", "removed", "wanted"),
    [
        (1, (500,), (400,), None),
        (8, (4, 100), (0, 50), [3, 8]),
        ("auto", (30, 40), (20, 44), None),
        # 65 filters: 1 of 100 and 1 of 28, and so on, until 64 removals do
        ("auto", (100, 28), (50, 15), [2, 1]),
        # 1,000 of 2,000: 1 / 32 of the group would be 16 removals
        ("auto", (2000,), (1000,), [16]),
        # more groups than decisions: one removal each
        ("auto", (4,) * 100, (3,) * 100, [4] * 100),
    ],
    ids=str,
)
def test_a_game_takes_about_64_removals(block, sizes, removed, wanted):
    found = blocks.chosen(block, sizes, removed)
    assert found == wanted
