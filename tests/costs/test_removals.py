"""Removals: what they take, the order they are made in, and that they lead to allowed widths."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.costs.limits import Allowed, any_width
from jaxprune.costs.removals import removals, turns
from jaxprune.costs.within_groups import index

TWINS = Allowed(sizes=(3, 4, 3), widths=((2, 1), (4, 2), (2, 1)), leaders=(0, 1, 0))
"""Groups 0 and 2 keep one or two of three channels alike, group 1 two or four of four."""


def ranks(allowed: Allowed, worth: np.ndarray) -> np.ndarray:
    parts = np.split(worth, np.cumsum(allowed.sizes)[:-1])
    return np.concatenate([np.argsort(np.argsort(part, kind="stable")) for part in parts])


def test_by_hand() -> None:
    found = removals(TWINS)
    assert found.total == 2
    np.testing.assert_array_equal(found.groups, [0, 1])
    np.testing.assert_array_equal(found.channels, [2, 2])
    np.testing.assert_array_equal(found.of_place, [-1, 0, 2, 1, 1, 2, 2, -1, 0, 2])
    worth = np.float32([9, 1, 5, 4, 3, 8, 1, 2, 7, 3])
    # The twins lose 1 and 2 in any case, then 5 and 3, which are worth 4; group 1 loses 3 and 1.
    expected = [3, 0, 2, 3, 1, 3, 1, 0, 3, 2]
    np.testing.assert_array_equal(turns(TWINS, ranks(TWINS, worth), worth), expected)


def test_without_limits_channels_go_one_by_one_and_the_last_stays() -> None:
    worth = np.float32([2, 1, 3, 1, 5])
    allowed = any_width((3, 2))
    np.testing.assert_array_equal(turns(allowed, ranks(allowed, worth), worth), [3, 1, 4, 2, 4])


@st.composite
def limited(draw) -> Allowed:
    """Groups of some allowed widths, the second and third perhaps always alike."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=2))
    twin = draw(st.booleans())
    widths = [
        tuple(sorted(draw(st.sets(st.integers(1, size), min_size=1)), reverse=True))
        for size in sizes
    ]
    last = len(sizes) - 1
    return Allowed(
        sizes=(*sizes, sizes[last]) if twin else tuple(sizes),
        widths=(*widths, widths[last]) if twin else tuple(widths),
        leaders=(*range(len(sizes)), last) if twin else tuple(range(len(sizes))),
    )


@settings(deadline=None, max_examples=200)
@given(allowed=limited(), seed=st.integers(0, 2**31 - 1), spread=st.sampled_from([1, 1e-7, 0]))
def test_after_any_number_of_removals_the_widths_are_allowed(allowed, seed, spread) -> None:
    rng = np.random.default_rng(seed)
    worth = np.float32(1 + spread * rng.standard_normal(sum(allowed.sizes)))  # down to all alike
    rank = ranks(allowed, worth)
    turn = turns(allowed, rank, worth)
    total = removals(allowed).total
    group, before = index(allowed.sizes), None
    for count in range(total + 1):
        mask = turn > count
        assert allowed.holds(mask)
        assert before is None or (mask <= before).all()
        assert before is None or (mask != before).sum() in removals(allowed).channels
        for g in range(len(allowed.sizes)):  # the most important are those that stay
            here = group == g
            assert set(rank[here & mask]) == set(range((~mask & here).sum(), here.sum()))
        before = mask
    assert total == sum(len(allowed.widths[g]) - 1 for g in set(allowed.leaders))


def test_inside_jit_it_is_the_same() -> None:
    rng = np.random.default_rng(0)
    for allowed in (TWINS, any_width((5, 3))):
        worth = rng.integers(0, 4, sum(allowed.sizes)).astype(np.float32)
        rank = ranks(allowed, worth)
        compiled = jax.jit(turns, static_argnums=0)(allowed, jnp.asarray(rank), jnp.asarray(worth))
        np.testing.assert_array_equal(compiled, turns(allowed, rank, worth))
