"""Statistics within groups, against numpy and scipy."""

import numpy as np
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.costs import within_groups

SIZES = st.sampled_from([(1,), (7,), (3, 1, 5), (2, 4, 4, 1)])


def test_hand_computed() -> None:
    sizes = (2, 3)
    values = np.array([4.0, 2.0, 1.0, 5.0, 3.0], np.float32)
    np.testing.assert_array_equal(within_groups.index(sizes), [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(within_groups.size(sizes), [2, 2, 3, 3, 3])
    np.testing.assert_array_equal(within_groups.total(sizes, values), [6, 9])
    np.testing.assert_array_equal(within_groups.mean(sizes, values), [3, 3])
    np.testing.assert_array_equal(within_groups.maximum(sizes, values), [4, 5])
    np.testing.assert_array_equal(within_groups.rank(sizes, values), [1, 0, 0, 2, 1])


@settings(deadline=None)
@given(SIZES, st.data())
def test_rank_is_scipys_within_each_group(sizes: tuple[int, ...], data: st.DataObject) -> None:
    count = sum(sizes)
    # Few distinct values, so that ties are common: they are broken by position.
    values = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    values = np.asarray(values, np.float32)
    found = np.asarray(within_groups.rank(sizes, values))
    for group in range(len(sizes)):
        inside = within_groups.index(sizes) == group
        expected = scipy.stats.rankdata(values[inside], method="ordinal") - 1
        np.testing.assert_array_equal(found[inside], expected)
