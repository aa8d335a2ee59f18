"""Which widths the limits allow, and what contradicts itself."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprune import Kept, Limits, UserError, trace
from jaxprune.costs.limits import Allowed, allowed, any_width, choices


def structure_of(**sizes):
    """A chain of matrix products whose layers have these names and sizes."""
    widths = [2, *sizes.values(), 2]
    names = [*sizes, "out"]
    shapes = dict(zip(names, itertools.pairwise(widths), strict=True))
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}

    def apply(params, x):
        for name in names:
            x = x @ params[name]
        return x

    return trace(apply, params, jax.ShapeDtypeStruct((1, 2), jnp.float32))


STRUCTURE = structure_of(conv1=10, conv2=6, fc1=10)


def widths(limits, structure=STRUCTURE):
    return {choice.groups: choice.widths.tolist() for choice in choices(structure, limits)}


def test_without_limits_one_channel_stays():
    assert widths(Limits()) == {
        (0,): [10, 9, 8, 7, 6, 5, 4, 3, 2, 1],
        (1,): [6, 5, 4, 3, 2, 1],
        (2,): [10, 9, 8, 7, 6, 5, 4, 3, 2, 1],
    }


def test_multiples_and_the_full_width():
    assert widths(Limits(round_to=4)) == {(0,): [10, 8, 4], (1,): [6, 4], (2,): [10, 8, 4]}
    assert widths(Limits(round_to=8)) == {(0,): [10, 8], (1,): [6], (2,): [10, 8]}
    assert widths(Limits(round_to=4, min_size=5)) == {(0,): [10, 8], (1,): [6], (2,): [10, 8]}


def test_groups_by_pattern():
    limits = Limits(
        min_size=2,
        groups={"conv*": Kept(least=0.5), "conv1": Kept(most=7), "fc1": Kept(least=1.0)},
    )
    assert widths(limits) == {(0,): [7, 6, 5], (1,): [6, 5, 4, 3], (2,): [10]}


def test_counts_and_fractions():
    assert Kept(least=1, most=1.0).bounds(7) == (1, 7)
    assert Kept(least=0.5, most=0.5).bounds(7) == (4, 3)
    assert Kept(least=0.1, most=0.7).bounds(30) == (3, 21)  # 0.1 * 30 and 0.7 * 30 are not exact
    assert Kept(most=100).bounds(7) == (1, 7)


@given(st.integers(1, 500), st.integers(1, 100), st.integers(1, 100))
def test_a_fraction_keeps_at_least_and_at_most_what_it_says(size, least, most):
    low, high = Kept(least=least / 100, most=most / 100).bounds(size)
    assert 100 * (low - 1) < least * size <= 100 * low
    assert 100 * high <= most * size < 100 * (high + 1)


def test_equal_groups_share_their_widths():
    limits = Limits(groups={"fc1": Kept(least=8), "conv1": Kept(most=9)}, equal=(("conv1", "fc*"),))
    assert widths(limits) == {(0, 2): [9, 8], (1,): [6, 5, 4, 3, 2, 1]}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(min_size=7), "min_size 7 is above the 6 channels of group 'conv2'; choose at most"),
        (
            Limits(groups={"conv3": Kept()}),
            "'conv3' matches no group .* the groups are conv1, conv2",
        ),
        (Limits(groups={"fc1": Kept(least=11)}), "at least 11 channels of group 'fc1', which has"),
        (
            Limits(min_size=3, groups={"fc1": Kept(most=2)}),
            "at least 3 and at most 2 of the 10 channels of group 'fc1'; compare min_size 3",
        ),
        (
            Limits(groups={"conv*": Kept(least=0.9), "conv1": Kept(most=0.5)}),
            r"at least 9 and at most 5 .* 'conv1'; .* 'conv\*', 'conv1'",
        ),
        (
            Limits(round_to=4, groups={"fc1": Kept(least=5, most=7)}),
            "group 'fc1' must keep between 5 and 7 of its 10 channels, but no multiple of 4",
        ),
        (Limits(equal=(("conv1", "conv2"),)), "of one size, but 'conv1' has 10, 'conv2' has 6"),
        (Limits(equal=(("conv2",),)), "the set of 'conv2' has only 'conv2'; name at least two"),
        (Limits(equal=(("conv1", "fc1"), ("fc*", "conv1"))), "'conv1' is in two sets"),
        (Limits(equal=(("conv1", "head"),)), "'head' matches no group"),
        (
            Limits(equal=(("conv1", "fc1"),), groups={"conv1": Kept(most=4), "fc1": Kept(least=5)}),
            "groups 'conv1', 'fc1' must have equal widths, but no width is allowed for all",
        ),
    ],
)
def test_contradictions_name_the_group_and_the_remedy(limits, message):
    with pytest.raises(UserError, match=message):
        choices(STRUCTURE, limits)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Limits(min_size=0), "min_size is 0; it is a number of channels"),
        (lambda: Limits(round_to=2.0), r"round_to is 2\.0"),
        (lambda: Limits(groups={"a": 0.5}), r"limits of 'a' are 0\.5; write Kept"),
        (lambda: Limits(equal=("conv1", "conv2")), "equal holds sets|it holds sets of patterns"),
        (lambda: Kept(least=0), "least is 0: at least one channel"),
        (lambda: Kept(most=1.5), r"most is 1\.5; give a number of channels"),
        (lambda: Kept(most=True), "most is True"),
        (lambda: Kept(least=float("nan")), "least is nan"),
    ],
)
def test_values_of_another_kind(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_numpy_counts_are_counts():
    assert Kept(least=np.int64(3)).bounds(5) == (3, 5)


def test_patterns_match_layers_too():
    """Of two layers that are added, the group has the name of the first."""
    params = {name: jnp.ones((4, 4)) for name in ("stem", "left", "right", "out")}

    def apply(params, x):
        x = x @ params["stem"]
        return (x @ params["left"] + x @ params["right"]) @ params["out"]

    structure = trace(apply, params, jnp.ones((1, 4)))
    assert [group.name for group in structure.groups] == ["stem", "left"]
    limits = Limits(groups={"rig*": Kept(least=1.0)})
    assert widths(limits, structure) == {(0,): [4, 3, 2, 1], (1,): [4]}


def test_allowed_widths_group_by_group():
    limits = Limits(round_to=4, groups={"fc1": Kept(most=9)}, equal=[["conv1", "fc1"]])
    found = allowed(STRUCTURE, limits)
    assert found == Allowed((10, 6, 10), ((8, 4), (6, 4), (8, 4)), (0, 1, 0))
    assert found is allowed(STRUCTURE, limits)
    assert hash(found) == hash(allowed(STRUCTURE, limits))
    assert found.sets == [[0, 2], [1]]
    assert allowed(STRUCTURE) == any_width((10, 6, 10))
    np.testing.assert_array_equal(found.greatest, [8, 6, 8])
    np.testing.assert_array_equal(found.least, [4, 4, 4])


def test_the_nearest_allowed_width_and_the_next_below():
    found = Allowed((10, 6), ((8, 4), (6, 5, 1)), (0, 1))
    # Of two that are as near the wider: 6 is as far from 8 as from 4, 3 as far from 5 as from 1.
    np.testing.assert_array_equal(
        found.nearest(), [[4, 4, 4, 4, 4, 4, 8, 8, 8, 8, 8], [1, 1, 1, 5, 5, 5, 6, 6, 6, 6, 6]]
    )
    np.testing.assert_array_equal(
        found.at_most(), [[4, 4, 4, 4, 4, 4, 4, 4, 8, 8, 8], [1, 1, 1, 1, 1, 5, 6, 6, 6, 6, 6]]
    )


def test_which_masks_obey():
    found = Allowed((3, 2, 3), ((3, 1), (2,), (3, 1)), (0, 1, 0))
    masks = np.array(
        [
            [1, 1, 1, 1, 1, 1, 1, 1],
            [0, 1, 0, 1, 1, 0, 0, 1],
            [0, 1, 0, 1, 1, 1, 1, 1],  # the first and the last group differ
            [0, 1, 1, 1, 1, 0, 1, 1],  # two of three
            [1, 1, 1, 1, 0, 1, 1, 1],  # the second group is not whole
        ]
    )
    np.testing.assert_array_equal(found.holds(masks), [True, True, False, False, False])
    assert found.holds(masks[0])
