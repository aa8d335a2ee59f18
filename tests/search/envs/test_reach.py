"""The least removal of a layer with which later layers can still meet the budget."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.costs import within_groups
from jaxprune.costs.limits import any_width
from jaxprune.search.envs.reach import least_removed


def least(sizes, weights, most, step, values, limit):
    """For a cost that is a weighted sum of what is kept of each group."""
    factor = jnp.asarray(np.asarray(weights, np.float32)[within_groups.index(sizes)])

    def cost(mask):
        return (mask * factor).sum()

    rank = within_groups.rank(sizes, jnp.zeros(sum(sizes)))
    arrays = jnp.asarray(most, jnp.int32), jnp.int32(step), jnp.asarray(values, jnp.float32)
    return int(least_removed(any_width(sizes), cost, rank, *arrays, jnp.float32(limit)))


def test_it_is_amcs_closed_form_for_costs_that_add_up():
    """W = (40, 30, 60), a_max = 0.8, half of 130 to go: by hand, as in AMC's Algorithm 1."""
    sizes, weights, most = (10, 10, 10), (4, 3, 6), (8, 8, 8)
    dense = np.ones(30)
    # W_duty = 65 - 0.8 * (30 + 60) - 0 = -7: nothing has to go yet.
    assert least(sizes, weights, most, 0, dense, 65) == 0
    # After two tenths of the first, 8: W_duty = 65 - 0.8 * 60 - 8 = 9, 9 / 30 = 0.3 of the second.
    some = np.r_[np.zeros(2), np.ones(28)]
    assert least(sizes, weights, most, 1, some, 65) == 3
    # W_duty = 65 - 0 - 17 = 48 of the last: all that it may lose.
    more = np.r_[np.zeros(2), np.ones(8), np.zeros(3), np.ones(17)]
    assert least(sizes, weights, most, 2, more, 65) == 8
    # Had more gone before, 32 + 12 = 44, 21 / 60 = 0.35 would do: four whole channels.
    much = np.r_[np.zeros(8), np.ones(2), np.zeros(4), np.ones(16)]
    assert least(sizes, weights, most, 2, much, 65) == 4


def test_out_of_reach_it_is_the_most():
    assert least((4, 4), (1, 1), (3, 2), 0, np.ones(8), 1.5) == 3
    assert least((4, 4), (1, 1), (3, 2), 0, np.ones(8), 8) == 0


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_it_is_the_least_count_that_reaches_the_budget(data):
    sizes, weights = (5, 3, 6), (2, 5, 1)
    most = [data.draw(st.integers(0, size - 1)) for size in sizes]
    step = data.draw(st.integers(0, 2))
    rank = np.concatenate([np.arange(size) for size in sizes])
    group = within_groups.index(sizes)
    gone = [data.draw(st.integers(0, most[g])) if g < step else 0 for g in range(3)]
    values = (rank >= np.asarray(gone)[group]).astype(np.float32)
    limit = data.draw(st.integers(5, 31))

    def reachable(count):
        counts = [*gone[:step], count, *most[step + 1 :]]
        kept = np.asarray(sizes) - counts
        return (kept * weights).sum() <= limit

    fitting = [count for count in range(most[step] + 1) if reachable(count)]
    found = least(sizes, weights, most, step, values, limit)
    assert found == (fitting[0] if fitting else most[step])
