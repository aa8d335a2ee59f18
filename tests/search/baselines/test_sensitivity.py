"""Sensitivity pruning: thresholds by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.search.baselines import candidates, curves, sensitivity, widths

KEY = jax.random.PRNGKey(0)


def first_answers(problem, points=8):
    space = widths.space(problem)
    found = curves.measure(problem, space, space.greatest, points, candidates.empty(8))
    masks = sensitivity.answers(None, problem, space, found, space.greatest)
    return widths.of_masks(space, masks)


def lost(heights):
    """A loss that is the sum of what each group's number of removed channels costs."""
    tables = [jnp.asarray(height, jnp.float32) for height in heights]

    def accuracy(mask):
        gone = [4 - mask[:4].sum(), 4 - mask[4:].sum()]
        return 1 - sum(t[g.astype(int)] for t, g in zip(tables, gone, strict=True))

    return accuracy


def test_by_height_and_by_slope_by_hand(known_problem) -> None:
    # Curves over 0, 1, 2, 3 removed: .1 .2 .3 and .02 .04 .5. Three of eight channels go.
    # By height: .02, .04, then .1: one of the first and two of the second group.
    # By slope: .02, .02, then .1: the same.
    problem = known_problem((4, 4), 5 / 8, lost([[0, 0.1, 0.2, 0.3], [0, 0.02, 0.04, 0.5]]))
    np.testing.assert_array_equal(first_answers(problem)[:2], [[3, 2], [3, 2]])


def test_a_high_curve_that_is_flat(known_problem) -> None:
    # .3 .31 .32 and .1 .2 .4, four go. By height: .1, .2, .3, .31. By slope, convex: the chord
    # of the first, .32 / 3 = .107 each, and .1, .1, .2: both .1, then .107 twice.
    problem = known_problem((4, 4), 4 / 8, lost([[0, 0.3, 0.31, 0.32], [0, 0.1, 0.2, 0.4]]))
    np.testing.assert_array_equal(first_answers(problem)[0], [2, 2])
    # With five to go the slopes take the whole chord, and the heights .1 .2 .3 .31 .32.
    problem = known_problem((4, 4), 3 / 8, lost([[0, 0.3, 0.31, 0.32], [0, 0.1, 0.2, 0.4]]))
    np.testing.assert_array_equal(first_answers(problem)[:2], [[1, 2], [1, 2]])


def test_slopes_are_paid_by_cost(known_problem) -> None:
    # Equal curves, but a channel of the second group costs three times as much: 16 in all, and 7
    # must go. By height the groups lose in turn, by price the second loses all it can.
    same = [0, 0.1, 0.2, 0.3]
    problem = known_problem((4, 4), 9 / 16, lost([same, same]), weights=[1] * 4 + [3] * 4)
    by_height, by_price, *_ = first_answers(problem)
    np.testing.assert_array_equal(by_price, [4, 1])
    assert by_height[0] < 4


def test_savings_by_hand(known_problem) -> None:
    problem = known_problem((4, 4), 0.5, weights=[1] * 4 + [3] * 4)
    space = widths.space(problem)
    saved = sensitivity.savings(problem, space, np.array([2, 3]))
    np.testing.assert_allclose(saved, [1 / 16 / 0.5, 3 / 16 / 0.5], rtol=1e-5)


def test_the_search_is_the_best_of_what_it_tries(known_problem) -> None:
    problem = known_problem((4, 4), 5 / 8, lost([[0, 0.1, 0.2, 0.3], [0, 0.02, 0.04, 0.5]]))
    found = sensitivity.search(sensitivity.Config(), problem, KEY)
    np.testing.assert_array_equal(widths.of_masks(widths.space(problem), [found.mask])[0], [3, 2])
    assert int(found.state.iteration) == 4
    np.testing.assert_array_equal(found.state.bases[:2], [[4, 4], [2, 3]])
