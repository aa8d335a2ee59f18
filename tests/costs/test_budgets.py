"""Limits as they are typed, costs that are traced and costs that are measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import UserError, compact, make_problem, trace
from jaxprune.costs import budgets, counting
from jaxprune.costs.budgets import Limit, make_budgets, parse_limit
from jaxprune.search.baselines import candidates, global_l1, random_mask, uniform_l1
from jaxprune.search.problem import relative_cost, shares

KEYS = jax.random.split(jax.random.key(0), 3)
PARAMS = {
    "first": jax.random.normal(KEYS[0], (5, 8)),
    "second": jax.random.normal(KEYS[1], (8, 6)),
    "third": jax.random.normal(KEYS[2], (6, 3)),
}
X = jnp.ones((1, 5))


def apply(params, x):
    return jax.nn.relu(jax.nn.relu(x @ params["first"]) @ params["second"]) @ params["third"]


@pytest.fixture(scope="module")
def structure():
    return trace(apply, PARAMS, X)


def make(structure, *allowed, **options):
    return make_budgets(apply, structure, PARAMS, X, allowed, **options)


def mask_of(first: int, second: int) -> np.ndarray:
    return np.concatenate([np.arange(8) < first, np.arange(6) < second]).astype(np.uint8)


def total_width(network) -> float:
    return float(sum(network.widths.values()))


# ------------------------------------------------------------------------------------------ limits


@pytest.mark.parametrize(
    ("cost", "text", "limit"),
    [
        ("macs", "0.25", Limit(0.25)),
        ("macs", 0.25, Limit(0.25)),
        ("macs", "1", Limit(1.0)),
        ("params", "10%", Limit(0.1)),
        ("latency", "0.4ms", Limit(0.4, relative=False)),
        ("latency", "0.4", Limit(0.4)),
        ("params", "=200000", Limit(200_000, relative=False)),
        ("mine:energy", "=0.7", Limit(0.7, relative=False)),
    ],
)
def test_limits_as_typed(cost, text, limit):
    assert parse_limit(cost, text) == pytest.approx(limit)


@pytest.mark.parametrize(
    ("cost", "text", "says"),
    [
        ("macs", "0", r"budget 0 is outside \(0, 1\].*write =0"),
        ("macs", "25", r"budget 25 is outside \(0, 1\].*write =25"),
        ("macs", "120%", r"budget 120% is outside"),
        ("macs", "nan", r"budget nan is outside"),
        ("macs", "0.4ms", "budget 0.4ms is a time, but the cost is macs"),
        ("macs", "half", "budget 'half' is no number; give a part"),
        ("macs", "=-1", "budget =-1 must be a number above 0"),
        ("macs", "=inf", "budget =inf must be a number above 0"),
        ("latency", "xms", "budget xms must be a number above 0"),
    ],
)
def test_impossible_limits(cost, text, says):
    with pytest.raises(UserError, match=says):
        parse_limit(cost, text)


# ------------------------------------------------------------------------------------ traced costs


def test_shares_of_traced_costs_by_hand(structure):
    macs, params = make(structure, ("macs", 0.5), ("params", "=60"))
    dense = 5 * 8 + 8 * 6 + 6 * 3
    assert (macs.dense, params.dense) == (dense, dense)
    assert (macs.limit, macs.amount, macs.target) == (0.5, None, 0.5)
    assert (params.limit, params.amount) == (60 / dense, 60)
    assert macs.least == (5 + 1 + 3) / dense
    masks = np.stack([mask_of(8, 6), mask_of(2, 3)])
    expected = [1, (5 * 2 + 2 * 3 + 3 * 3) / dense]
    np.testing.assert_allclose(macs.shares(masks), expected, rtol=1e-6)
    assert macs.allows(53, dense)
    assert not macs.allows(53.1, dense)
    assert params.allows(60, 1e9)  # an amount, whatever the dense network has
    assert not params.allows(61, 1e9)
    assert str(macs) == "50% of macs"
    assert str(params) == "60 params"


def test_several_budgets_are_met_together_or_not_at_all(structure):
    problem = make_problem(
        apply,
        structure,
        PARAMS,
        (X, jnp.zeros(1, int)),
        (X, jnp.zeros(1, int)),
        cost=["macs", "neurons"],
        budget=[0.5, "50%"],
    )
    np.testing.assert_allclose(problem.limits, [0.5, 0.5])
    masks = np.stack([mask_of(8, 6), mask_of(7, 1), mask_of(2, 3)])
    parts = shares(problem, masks)
    np.testing.assert_allclose(
        parts, [[1, 1], [(35 + 7 + 3) / 106, 8 / 14], [25 / 106, 5 / 14]], rtol=1e-6
    )
    expected = [2, 2 * 8 / 14, 2 * 5 / 14]
    assert problem.budget == 1
    np.testing.assert_allclose(relative_cost(problem, parts), expected, rtol=1e-6)
    np.testing.assert_allclose(candidates.relative_costs(problem, masks), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(problem.cost))(masks), expected, rtol=1e-6)
    for mask in (uniform_l1(problem), global_l1(problem), random_mask(problem, KEYS[0])):
        assert (shares(problem, mask[None]) <= 0.5).all()


# ---------------------------------------------------------------------------------- measured costs


def test_a_function_of_the_compact_network_is_a_cost(structure):
    seen = []

    def bytes_of(network):
        seen.append(dict(network.widths))
        return sum(leaf.nbytes for leaf in jax.tree.leaves(network.params))

    (budget,) = make(structure, (bytes_of, "=200"))
    assert (budget.dense, budget.limit) == (4 * 106, 200 / 424)
    assert budget.traced is None
    np.testing.assert_allclose(budget.shares([mask_of(2, 3)]), [100 / 424], rtol=1e-6)
    calls = len(seen)
    assert seen[-1] == {"first": 2, "second": 3}
    budget.shares([mask_of(2, 3), mask_of(8, 6)])
    assert len(seen) == calls  # every network is measured once


def test_a_function_may_take_the_input_too(structure):
    (budget,) = make(structure, (lambda network, x: network(network.params, x).size * x.size, 1.0))
    assert budget.dense == 3 * 5


def test_functions_are_found_by_name(structure, tmp_path, monkeypatch):
    (tmp_path / "named_costs.py").write_text(
        "class Chip:\n    @staticmethod\n    def energy(network):\n        return 3.5\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (budget,) = make(structure, ("named_costs:Chip.energy", 1.0))
    assert (budget.name, budget.dense) == ("named_costs:Chip.energy", 3.5)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda network: "fast", "returned 'fast', a str, for the widths .*'first': 8"),
        (lambda network: None, "returned None, a NoneType"),
        (lambda network: True, "returned True, a bool"),
        (lambda network: jnp.ones(2), "a finite number"),
        (lambda network: float("nan"), "returned nan, for the widths"),
        (lambda network: float("inf"), "returned inf"),
        (lambda network: -1, "returned -1"),
        (lambda network: 1 / 0, r"raised ZeroDivisionError: division by zero \(for the widths"),
        (lambda network: 0, "of the dense network is 0; it must be above 0"),
    ],
)
def test_bad_cost_functions_are_named_with_what_they_did(structure, function, says):
    with pytest.raises(UserError, match=says):
        make(structure, (function, 0.5))


def test_numpy_and_jax_numbers_count(structure):
    for value in (np.float32(2), np.int64(2), jnp.float32(2), np.array(2.0)):
        (budget,) = make(structure, (lambda network, value=value: value, 1.0))
        assert budget.dense == 2


def test_impossible_budgets_name_the_smallest_one(structure):
    with pytest.raises(UserError, match=r"one channel left in every group 9 parameters remain.*=9"):
        make(structure, ("params", "=8"))
    with pytest.raises(UserError, match=r"0.1429 of the .*total_width remain.* at least 0.1429"):
        make(structure, (total_width, 0.1))
    make(structure, (total_width, 0.1429))
    with pytest.raises(UserError, match=r"no part of .* can be a budget, since removing"):
        make(structure, (lambda network: 30 - total_width(network), 0.9))
    make(structure, ("params", "=9"))


def test_latency_is_measured_once_for_the_same_widths(structure, monkeypatch):
    times = iter([10.0])
    pairs = iter([(11.0, 10.0), (24.0, 20.0), (13.0, 11.0)])  # the second on a slower machine
    monkeypatch.setattr(counting, "latency", lambda *arguments, **options: next(times))
    monkeypatch.setattr(counting, "latencies", lambda *arguments, **options: list(next(pairs)))
    known: dict = {}
    (budget,) = make(structure, ("latency", "20ms"), margin=0.25, known=known)
    assert (budget.dense, budget.limit, budget.target, budget.least) == (10, 2, 1.5, 1.1)
    other = np.roll(mask_of(3, 6), 1)  # other channels, equal widths
    other[8:] = 1
    other[0] = 0
    other[4] = 0
    widths = structure.widths(structure.unflatten(other.astype(np.float32)))
    first = budget.shares([mask_of(int(widths[0]), 6)])
    np.testing.assert_allclose(budget.shares([other]), first)
    assert known["latency"] == {"8-6": 10, "1-1": 11, f"{int(widths[0])}-6": 12}
    small = compact(apply, structure, PARAMS, structure.unflatten(other))
    assert budget.meter.beside_dense(small) == (13, 11)  # measured now, whatever is known
    assert str(budget) == "20 ms latency"


def test_what_was_measured_before_is_not_measured_again(structure):
    known = {"latency": {"8-6": 4.0, "1-1": 1.0, "2-3": 2.0}}
    (budget,) = make(structure, ("latency", 0.5), known=known)
    np.testing.assert_allclose(budget.shares([mask_of(2, 3)]), [0.5])


def test_real_latencies_are_positive_and_of_the_right_size(structure):
    (budget,) = make(structure, ("latency", "1000ms"), repeats=5)
    assert 0 < budget.dense < 1000


def test_magnitude_and_random_meet_measured_budgets(structure):
    problem = make_problem(
        apply,
        structure,
        PARAMS,
        (X, jnp.zeros(1, int)),
        (X, jnp.zeros(1, int)),
        cost=lambda network: sum(leaf.size for leaf in jax.tree.leaves(network.params)),
        budget=0.5,
    )
    same = make_problem(
        apply,
        structure,
        PARAMS,
        (X, jnp.zeros(1, int)),
        (X, jnp.zeros(1, int)),
        cost="params",
        budget=0.5,
    )
    assert not problem.traceable
    assert same.traceable
    for prune in (uniform_l1, global_l1, lambda p: random_mask(p, KEYS[1])):
        np.testing.assert_array_equal(prune(problem), prune(same))
    with pytest.raises(UserError, match="known only after it was measured"):
        problem.cost(jnp.ones(14))


def test_names_of_costs():
    with pytest.raises(UserError, match="a cost is a name or a function, not 3"):
        budgets.find(3)
