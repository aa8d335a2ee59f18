"""What each cost can come to, before a search."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import Kept, Limits, costs, make_problem, trace
from jaxprune.costs.budgets import make_budgets
from jaxprune.costs.outlook import Outlook, outlook, uniform_mask
from jaxprune.search.baselines import uniform_l1

SIZES = (4, 8, 8, 2)
KEYS = jax.random.split(jax.random.key(0), 3)
PARAMS = {
    f"layer{i}": jax.random.normal(key, shape)
    for i, (key, shape) in enumerate(zip(KEYS, itertools.pairwise(SIZES), strict=True))
}
X = jnp.ones((1, 4))


def apply(params, x):
    for kernel in params.values():
        x = x @ kernel
    return x


STRUCTURE = trace(apply, PARAMS, X)


def test_by_hand():
    """Widths a and b of two hidden layers: 4 a + a b + 2 b multiply-adds, as many parameters."""
    limits = Limits(round_to=2, groups={"layer1": Kept(most=6)})
    found = outlook(STRUCTURE, make_budgets(apply, STRUCTURE, PARAMS, X, [("macs", 0.5)]), limits)
    # Dense 8 and 8: 112. Half is 56: 6 and 6 are 72, too many; 4 and 6 are 52. 2 and 2 are 16.
    assert found[0] == Outlook("macs", "multiply-adds", 112, 52, 16, 56.0)
    assert found[1] == Outlook("params", "parameters", 112, 52, 16, None)
    assert found[2] == Outlook("neurons", "neurons", 16, 10, 4, None)
    mask = uniform_mask(STRUCTURE, [], limits)  # without a budget only what the limits forbid goes
    np.testing.assert_array_equal(mask, [1] * 8 + [0, 0] + [1] * 6)


def test_without_looking_for_uniform_widths():
    budgets = make_budgets(apply, STRUCTURE, PARAMS, X, [("params", "=60")])
    found = outlook(STRUCTURE, budgets, uniform=False)
    assert found[0] == Outlook("params", "parameters", 112, None, 7, 60.0)
    assert {row.uniform for row in found} == {None}


def widest(network):
    return max(network.widths.values())


@pytest.mark.parametrize("limits", [Limits(), Limits(round_to=3, equal=[["layer*"]])], ids=str)
@pytest.mark.parametrize(
    ("cost", "budget"),
    [("macs", 0.4), (["macs", "neurons"], [0.6, 0.5]), (widest, 0.6)],
    ids=["one", "two", "measured"],
)
def test_uniform_is_what_the_baseline_prunes(limits, cost, budget):
    data = X.repeat(4, 0), jnp.zeros(4, jnp.int32)
    problem = make_problem(
        apply, STRUCTURE, PARAMS, data, data, cost=cost, budget=budget, limits=limits
    )
    baseline = STRUCTURE.unflatten(np.asarray(uniform_l1(problem)))
    ours = STRUCTURE.unflatten(uniform_mask(STRUCTURE, problem.budgets, limits))
    np.testing.assert_array_equal(STRUCTURE.widths(ours), STRUCTURE.widths(baseline))
    rows = outlook(STRUCTURE, problem.budgets, limits)
    assert [row.cost for row in rows][: len(problem.budgets)] == [b.name for b in problem.budgets]
    for row in rows:
        if row.cost in costs.NAMES:
            assert row.uniform == costs.exact(STRUCTURE, baseline, row.cost)
        assert row.least <= row.uniform <= row.dense
        assert row.budget is None or row.uniform <= row.budget
