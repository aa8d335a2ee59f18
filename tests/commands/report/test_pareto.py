"""The Pareto front against its definition."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxprune.commands.report.pareto import front

few = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, float("nan")])


@given(st.lists(st.tuples(few, few), max_size=12))
def test_front_is_what_no_other_candidate_beats(candidates):
    known = [(c, a) for c, a in candidates if not (np.isnan(c) or np.isnan(a))]
    unbeaten = {
        (c, a)
        for c, a in known
        if not any(x <= c and y >= a and (x, y) != (c, a) for x, y in known)
    }
    cost, accuracy = np.array(candidates).reshape(-1, 2).T
    found = front(cost, accuracy)
    pairs = [(cost[i], accuracy[i]) for i in found]
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == unbeaten
    assert pairs == sorted(pairs)
    # Of equal candidates the first.
    assert all(candidates.index(pair) == index for pair, index in zip(pairs, found, strict=True))


def test_an_example_by_hand():
    np.testing.assert_array_equal(front([3, 1, 2, 2, 4], [0.9, 0.5, 0.4, 0.7, 0.9]), [1, 3, 0])
