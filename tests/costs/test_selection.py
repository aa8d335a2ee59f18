"""Least removal within limits: by hand, against brute force, against the baselines."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune import Kept, Limits, UserError, compact, costs, importance, select, trace
from jaxprune.costs.limits import choices
from jaxprune.search.baselines import global_l1, uniform_l1


@functools.cache
def structure_of(*sizes):
    """A chain of matrix products: groups layer0, layer1, ... of these sizes."""
    shapes = itertools.pairwise((3, *sizes, 2))
    params = {f"layer{i}": jax.ShapeDtypeStruct(s, jnp.float32) for i, s in enumerate(shapes)}

    def apply(params, x):
        for kernel in params.values():
            x = x @ kernel
        return x

    return trace(apply, params, jax.ShapeDtypeStruct((1, 3), jnp.float32))


def selected(sizes, scores, *arguments, **options):
    structure = structure_of(*sizes)
    return structure.flatten(select(structure, np.float32(scores), *arguments, **options))


def test_global_by_hand():
    # Divided by the means 2.5 and 20: .4 .8 1.2 1.6 and .5 .75 1 1.75; four of eight go.
    scores = [1, 2, 3, 4, 10, 15, 20, 35]
    found = selected((4, 4), scores, "neurons", 0.5)
    np.testing.assert_array_equal(found, [0, 0, 1, 1, 0, 0, 1, 1])


def test_raw_by_hand():
    scores = [1, 2, 3, 4, 10, 15, 20, 35]
    found = selected((4, 4), scores, "neurons", 0.5, scope="raw")
    np.testing.assert_array_equal(found, [0, 0, 0, 1, 0, 1, 1, 1])


def test_uniform_by_hand():
    scores = [4, 1, 3, 2, 60, 50, 40, 30, 20, 10]
    found = selected((4, 6), scores, "neurons", 0.5, scope="uniform")
    np.testing.assert_array_equal(found, [1, 0, 1, 0, 1, 1, 1, 0, 0, 0])


def test_isomorphic_by_hand():
    # layer0 and layer1 are alike, the features of the input are of another kind: half of each go.
    structure = trace(
        lambda p, x: x @ p["a"] @ p["b"] @ p["c"],
        {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 4)), "c": jnp.ones((4, 2))},
        jnp.ones((1, 2)),
        prune_inputs=True,
    )
    scores = np.float32([700, 800, 1, 5, 2, 3, 4, 6])
    masks = select(structure, scores, "neurons", 0.5, scope="isomorphic")
    np.testing.assert_array_equal(structure.flatten(masks), [0, 1, 0, 1, 0, 0, 1, 1])


def test_multiples_go_together_by_hand():
    # Units of two. Raw means 1.5, 3.5 and 3, 6: the first of each leaves 4 of 8.
    scores = [4, 1, 3, 2, 7, 1, 5, 5]
    limits = Limits(round_to=2)
    found = selected((4, 4), scores, "neurons", 0.5, limits, "raw")
    np.testing.assert_array_equal(found, [1, 0, 1, 0, 1, 0, 0, 1])
    # One unit is enough for three quarters.
    found = selected((4, 4), scores, "neurons", 0.75, limits, "raw")
    np.testing.assert_array_equal(found, [1, 0, 1, 0, 1, 1, 1, 1])


def test_equal_groups_lose_a_channel_each():
    scores = [1, 2, 3, 9, 8, 7, 1.5, 1.6]
    limits = Limits(equal=(("layer0", "layer1"),))
    # Units of layers 0 and 1 together: (1 + 7) / 2 = 4; of layer 2: 1.5.
    found = selected((3, 3, 2), scores, "neurons", 7 / 8, limits, "raw")
    np.testing.assert_array_equal(found, [1, 1, 1, 1, 1, 1, 0, 1])
    found = selected((3, 3, 2), scores, "neurons", 6 / 8, limits, "raw")
    np.testing.assert_array_equal(found, [0, 1, 1, 1, 1, 0, 0, 1])


def test_what_the_limits_forbid_goes_in_any_case():
    limits = Limits(groups={"layer1": Kept(most=2)})
    found = selected((3, 4), [1, 2, 3, 9, 8, 7, 6], "neurons", 1.0, limits)
    np.testing.assert_array_equal(found, [1, 1, 1, 1, 1, 0, 0])
    only = Limits(groups={"layer*": Kept(least=2, most=2)})
    found = selected((3, 4), [1, 2, 3, 9, 8, 7, 6], "neurons", 0.6, only)
    np.testing.assert_array_equal(found, [0, 1, 1, 1, 1, 0, 0])


def test_masks_are_those_of_the_structure():
    structure = structure_of(4, 4)
    masks = select(structure, np.arange(8.0), "params", 0.5)
    assert list(masks) == ["layer0", "layer1"]
    assert all(mask.dtype == np.float32 for mask in masks.values())
    structure.check_masks(masks)


def test_a_network_that_is_compacted():
    structure = structure_of(6, 4)
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [(3, 6), (6, 4), (4, 2)]
    params = {f"layer{i}": jax.random.normal(keys[i], shape) for i, shape in enumerate(shapes)}
    masks = select(structure, importance.l1(structure, params), "macs", 0.4)
    small = compact(
        lambda p, x: x @ p["layer0"] @ p["layer1"] @ p["layer2"], structure, params, masks
    )
    macs = sum(leaf.size for leaf in small.params.values())
    assert macs == costs.exact(structure, masks, "macs")
    assert macs <= 0.4 * costs.dense(structure, "macs")


SIZES = st.sampled_from([(3,), (2, 4), (4, 3, 4), (2, 5, 2)])


@st.composite
def requests(draw):
    """Sizes, scores with ties, a budget within reach, and a scope."""
    sizes = draw(SIZES)
    count = sum(sizes)
    scores = draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))
    budget = draw(st.floats(len(sizes) / count, 1 - 1 / count))
    return sizes, scores, budget, draw(st.sampled_from(["global", "uniform"]))


@settings(deadline=None, max_examples=25)
@given(request=requests(), weighted=st.booleans())
def test_without_limits_it_is_the_baseline(known_problem, request, weighted):
    sizes, scores, budget, scope = request
    weights = [1.0 + weighted * (i % 3) for i in range(sum(sizes))]
    problem = known_problem(sizes, 0.999 * budget + 0.001, weights=weights, importance=scores)

    def cost(structure, masks):
        return problem.cost(structure.flatten(masks))

    baseline = {"global": global_l1, "uniform": uniform_l1}[scope]
    try:
        expected = baseline(problem)
    except ValueError:
        with pytest.raises(UserError, match=r"cannot be reached|removes nothing"):
            select(problem.structure, scores, cost, problem.budget, scope=scope)
        return
    if expected.all():
        return
    masks = select(problem.structure, scores, cost, problem.budget, scope=scope)
    np.testing.assert_array_equal(problem.structure.flatten(masks), expected)


@settings(deadline=None, max_examples=30)
@given(request=requests())
def test_no_mask_with_more_channels_meets_the_budget(request):
    """Exhaustive: of all masks of a single group, the largest feasible with the best scores."""
    sizes, scores, budget, scope = request
    sizes, scores = sizes[:1], np.array(scores[: sizes[0]])
    if budget * sizes[0] < 1:
        return
    found = selected(sizes, scores, "neurons", budget, scope=scope)
    everything = np.array(list(itertools.product([0, 1], repeat=sizes[0])))
    feasible = everything[everything.sum(1) <= budget * sizes[0]]
    best = max(feasible.tolist(), key=lambda mask: (sum(mask), np.dot(mask, scores)))
    assert found.sum() == sum(best)
    assert found @ scores == np.dot(best, scores)


def one_by_one(structure, scores, cost, budget, limits, scope):
    """The removals written out: next widths of each group, the least worth first, until enough.

    Returns the masks before and after the last removal, the first of them None if there was none.
    """
    sizes = [group.size for group in structure.groups]
    parts = np.split(np.asarray(scores, np.float64), np.cumsum(sizes)[:-1])
    orders = [np.argsort(part, kind="stable") for part in parts]
    if scope == "global":
        worth = [p / p.mean() if p.mean() > 0 else p for p in parts]
    elif scope == "raw":
        worth = parts
    elif scope == "isomorphic":  # all groups of a chain are alike
        flat = np.concatenate(parts)
        worth = np.split(flat.argsort(kind="stable").argsort() + 0.5, np.cumsum(sizes)[:-1])
    else:
        worth = [(o.argsort() + 0.5) / len(o) for o in orders]
    allowed = choices(structure, limits)
    level = [0] * len(allowed)

    def masks():
        result = {}
        for choice, at in zip(allowed, level, strict=True):
            for g in choice.groups:
                mask = np.ones(sizes[g], np.float32)
                mask[orders[g][: sizes[g] - choice.widths[at]]] = 0
                result[structure.groups[g].name] = mask
        return result

    def next_worth(choice, at):
        lost = [
            worth[g][orders[g][sizes[g] - choice.widths[at] : sizes[g] - choice.widths[at + 1]]]
            for g in choice.groups
        ]
        return round(float(np.mean(np.concatenate(lost))), 5)

    dense = costs.dense(structure, cost)
    before = None
    while costs.exact(structure, masks(), cost) / dense > budget:
        ready = [c for c, choice in enumerate(allowed) if level[c] + 1 < len(choice.widths)]
        if not ready:
            return before, None
        before = masks()
        level[min(ready, key=lambda c: (next_worth(allowed[c], level[c]), c))] += 1
    return before, masks()


LIMITS = st.builds(
    Limits,
    min_size=st.integers(1, 3),
    round_to=st.integers(1, 4),
    groups=st.sampled_from(
        [{}, {"layer1": Kept(least=0.5)}, {"layer0": Kept(most=5)}, {"*": Kept(least=2, most=8)}]
    ),
    equal=st.sampled_from([(), (("layer0", "layer2"),)]),
)


@settings(deadline=None, max_examples=60)
@given(
    limits=LIMITS,
    scores=st.lists(st.integers(0, 40), min_size=24, max_size=24),
    cost=st.sampled_from(costs.NAMES),
    budget=st.floats(0.15, 0.95),
    scope=st.sampled_from(["global", "uniform", "isomorphic", "raw"]),
)
def test_limits_hold_the_budget_is_met_and_one_unit_fewer_breaks_it(
    limits, scores, cost, budget, scope
):
    structure = structure_of(8, 8, 8)
    # Scores without ties, so that float32 and float64 agree on the order.
    scores = np.float32(scores) + np.float32(0.013) * np.arange(24) ** 2
    before, expected = one_by_one(structure, scores, cost, budget, limits, scope)
    arguments = (structure, scores, cost, budget, limits, scope)
    if expected is None:
        with pytest.raises(UserError, match="cannot be reached"):
            select(*arguments)
        return
    if all(mask.all() for mask in expected.values()):
        with pytest.raises(UserError, match="removes nothing"):
            select(*arguments)
        return
    masks = select(*arguments)
    np.testing.assert_array_equal(structure.flatten(masks), structure.flatten(expected))

    dense = costs.dense(structure, cost)
    assert costs.exact(structure, masks, cost) <= budget * dense
    if before is not None:
        assert costs.exact(structure, before, cost) > budget * dense
    kept = [int(mask.sum()) for mask in masks.values()]
    for width, group in zip(kept, structure.groups, strict=True):
        assert width >= limits.min_size
        assert width % limits.round_to == 0 or width == group.size
    if limits.equal:
        assert kept[0] == kept[2]
    if "layer1" in limits.groups:
        assert kept[1] >= 4
    if "layer0" in limits.groups:
        assert kept[0] <= 5


def test_the_smallest_reachable_budget_is_reachable():
    structure = structure_of(6, 4)
    limits = Limits(min_size=2)
    smallest = (3 * 2 + 2 * 2 + 2 * 2) / (3 * 6 + 6 * 4 + 4 * 2)  # 0.28
    with pytest.raises(UserError, match=r"0\.28 of the macs remain; .* at least 0\.28 or loosen"):
        select(structure, np.arange(10.0), "macs", 0.2799, limits)
    masks = select(structure, np.arange(10.0), "macs", 0.28, limits)
    assert costs.exact(structure, masks, "macs") / costs.dense(structure, "macs") == smallest
    assert [mask.sum() for mask in masks.values()] == [2, 2]


def test_a_cost_of_ones_own_that_rises_in_between():
    """A staircase as hardware shows it: 5 channels cost more than 6. The budget is met."""
    table = {8: 8.0, 7: 6.0, 6: 5.0, 5: 5.5, 4: 4.0, 3: 3.9, 2: 1.0, 1: 1.0}

    def cost(structure, masks):
        return table[int(masks["layer0"].sum())]

    for budget in (0.9, 0.7, 0.65, 0.5, 0.2):
        kept = selected((8,), np.arange(8.0), cost, budget).sum()
        assert table[int(kept)] <= budget * 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 1.0}, "budget 1 removes nothing: .* a smaller fraction, such as 0.5"),
        ({"budget": float("nan")}, r"budget nan is outside \(0, 1\]"),
        ({"budget": "0.5"}, "budget is '0.5', which is no number"),
        ({"budget": None}, "budget is None, which is no number"),
        ({"cost": lambda s, m: "much"}, "value of the cost function is 'much', which is no number"),
        ({"limits": {"min_size": 2}}, "limits is of type dict; write Limits"),
        ({"scores": {"layer0": np.ones(3)}}, "importance is a dict; .* structure.flatten"),
        ({"budget": 0.0}, r"budget 0 is outside \(0, 1\]"),
        ({"budget": 1.5}, r"budget 1\.5 is outside"),
        ({"cost": "flops"}, "unknown cost 'flops'; the costs are: macs"),
        (
            {"scope": "local"},
            "unknown scope 'local'; the scopes are: global, uniform, isomorphic, raw",
        ),
        ({"limits": Limits(min_size=3)}, "min_size 3 is above the 2 channels of group 'layer1'"),
        ({"limits": Limits(round_to=8)}, "keep every group whole, .* round_to 8"),
        ({"cost": lambda s, m: 0.0}, "cost of the whole network is 0"),
        (
            {"cost": lambda s, m: 1.0 if all(v.all() for v in m.values()) else float("nan")},
            r"returns nan for the widths \{'layer0': 1, 'layer1': 1\}",
        ),
        ({"scores": np.ones(4)}, r"shape \(4,\) instead of \(5,\)"),
        ({"scores": np.r_[1, 1, 1, np.inf, 1]}, "group 'layer1' is not finite"),
    ],
)
def test_what_is_refused(options, message):
    options = {"scores": np.arange(5.0), **options}
    with pytest.raises(UserError, match=message):
        select(structure_of(3, 2), **options)


def test_a_network_without_channels():
    structure = trace(lambda p, x: x @ p["w"], {"w": jnp.ones((2, 2))}, jnp.ones((1, 2)))
    assert costs.dense(structure, "macs") == costs.smallest(structure, "macs") == 4
    with pytest.raises(UserError, match=r"can be removed \(the function returns them\): print"):
        select(structure, np.zeros(0))


def test_what_is_no_structure():
    with pytest.raises(TypeError, match=r"structure is of type ndarray; give what jaxprune\.trace"):
        select(np.ones(5), structure_of(3, 2))
