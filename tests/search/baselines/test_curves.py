"""Widths and sensitivity curves: by hand, and what holds for all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune import Kept, Limits
from jaxprune.search.baselines import candidates, curves, widths

KEY = jax.random.PRNGKey(0)


def test_the_most_important_channels_of_each_group_are_kept(known_problem) -> None:
    problem = known_problem((3, 4), 0.9, importance=[1, 3, 2, 40, 10, 30, 20])
    space = widths.space(problem)
    masks = widths.masks(space, [[2, 1], [1, 3]])
    np.testing.assert_array_equal(masks, [[0, 1, 1, 1, 0, 0, 0], [0, 1, 0, 1, 0, 1, 1]])
    np.testing.assert_array_equal(widths.of_masks(space, masks), [[2, 1], [1, 3]])


def test_widths_within_a_users_limits(known_problem) -> None:
    problem = known_problem((8, 6, 6), 0.9)
    limits = Limits(round_to=2, groups={"layer0": Kept(most=6)}, equal=[["layer1", "layer2"]])
    space = widths.space(problem._replace(widths=limits))
    np.testing.assert_array_equal(space.greatest, [6, 6])
    np.testing.assert_array_equal(space.least, [2, 2])
    kept = widths.masks(space, [[4, 2]])[0]
    np.testing.assert_array_equal(np.add.reduceat(kept, [0, 8, 14]), [4, 2, 2])
    np.testing.assert_array_equal(curves.scored_widths(space.choices[0].widths, 8), [2, 4, 6])


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        # 12 of 24 channels may stay. Of groups in proportion 1 : 1 a half, 4 and 8.
        ([1, 1], [4, 8]),
        # Places 0.5/8, 1.5/8, ... over 2, and 0.5/16, ... over 1: 6/8 and 6/16 lie below 3/8.
        ([2, 1], [6, 6]),
        # The first group is whole, and waits.
        ([9, 1], [8, 4]),
    ],
)
def test_widths_in_proportion(known_problem, parts, expected) -> None:
    problem = known_problem((8, 16), 0.5)
    space = widths.space(problem)
    mask = widths.in_proportion(problem, space, np.array(parts))
    np.testing.assert_array_equal(widths.of_masks(space, [mask])[0], expected)


@settings(deadline=None, max_examples=4)  # each compiles
@given(seed=st.integers(0, 2**31 - 1), budget=st.floats(0.35, 1))
def test_what_is_left_meets_the_budget_and_nothing_more_fits(known_problem, seed, budget) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.choice([1, 2, 5], 15)
    weights[[0, 4, 10]] = 1
    importance = rng.permutation(15).astype(float)
    problem = known_problem((4, 6, 5), budget, weights=list(weights), importance=list(importance))
    space = widths.space(problem)
    for parts in rng.uniform(0.1, 1, (10, 3)):
        try:
            mask = widths.in_proportion(problem, space, parts)
        except ValueError:  # the most important channels are dear
            least = widths.masks(space, space.least[None])
            assert candidates.relative_costs(problem, jnp.asarray(least))[0] > budget
            continue
        kept = widths.of_masks(space, [mask])[0]
        np.testing.assert_array_equal(mask, widths.masks(space, [kept])[0])
        assert kept.min() >= 1
        wider = np.minimum(kept + np.eye(3, dtype=int), space.greatest)
        cost = candidates.relative_costs(problem, jnp.asarray(widths.masks(space, wider)))
        assert (cost > budget)[(wider != kept).any(1)].all()
        assert candidates.relative_costs(problem, jnp.asarray(mask[None]))[0] <= budget


def test_scored_widths_by_hand() -> None:
    # Of 64: 64 times 0, 1/16, 4/16, 9/16 and 1, and instead of none one.
    np.testing.assert_array_equal(curves.scored_widths(np.arange(64, 0, -1), 4), [1, 4, 16, 36, 64])
    np.testing.assert_array_equal(curves.scored_widths(np.array([3, 2, 1]), 8), [1, 2, 3])
    np.testing.assert_array_equal(curves.scored_widths(np.array([5]), 3), [5])


def test_a_curve_by_hand(known_problem) -> None:
    # The loss is what is missing of layer0 squared plus that of layer1: at the base (3, 2) of
    # sizes (4, 2) and points at the widths 1, 2, 4 and 1, 2.
    def accuracy(mask):
        first, second = 4 - mask[:4].sum(), 2 - mask[4:].sum()
        return 1 - (first**2 + second) / 20

    problem = known_problem((4, 2), 0.9, accuracy)
    space = widths.space(problem)
    empty = candidates.empty(6)
    found = curves.measure(problem, space, np.array([3, 2]), 3, empty)
    np.testing.assert_array_equal(curves.scored_widths(np.arange(4, 0, -1), 3), [1, 2, 4])
    # Width 3 is interpolated between 2 and 4.
    np.testing.assert_allclose(found.losses[0] * 20, [0, 2, 4, 9], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.losses[1] * 20, [1, 2], rtol=1e-5)
    assert len(found.archive.loss) == 5
    assert np.isnan(found.archive.validation).all()
    np.testing.assert_allclose(found.archive.cost * 6, [3, 4, 6, 4, 5], rtol=1e-6)


def test_the_convex_curve_by_hand() -> None:
    below = curves.convex(np.arange(5), np.array([0, 3, 1, 4, 5.0]))
    np.testing.assert_allclose(below, [0, 0.5, 1, 3, 5])


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=12))
def test_the_convex_curve_against_all_chords(values) -> None:
    values = np.array(values, float)
    below = curves.convex(np.arange(len(values)), values)
    for x in range(len(values)):
        chords = [
            values[i] + (values[j] - values[i]) * (x - i) / max(j - i, 1)
            for i in range(x + 1)
            for j in range(x, len(values))
        ]
        assert below[x] == pytest.approx(min(chords), abs=1e-9)
