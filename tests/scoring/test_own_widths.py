"""Candidates evaluated at their own widths score as those evaluated at full width."""

import importlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune import make_problem, masked, trace
from jaxprune.networks import bundled
from jaxprune.scoring.evaluation import Scores, evaluate
from jaxprune.scoring.own_widths import Evaluator, Remembering, evaluator, pays, programs, widths
from jaxprune.scoring.own_widths.cutting import cut
from jaxprune.scoring.own_widths.partial_sums import PartialSums
from jaxprune.scoring.own_widths.pieces import run
from jaxprune.search.agents import acnn, ppo_lagrangian
from jaxprune.search.baselines import random
from marks import slow_if_in

evaluator_module = importlib.import_module("jaxprune.scoring.own_widths.evaluator")

# name, image, examples, prune inputs, batch statistics
CASES = {
    "lenet300": ("lenet300", (28, 28, 1), 20, False, False),
    "lenet300-inputs": ("lenet300", (28, 28, 1), 20, True, False),
    "lenet5": ("lenet5", (28, 28, 1), 6, False, False),
    "cnn-inputs": ("cnn", (8, 8, 3), 12, True, True),
    "vgg11": ("vgg11", (32, 32, 3), 4, False, True),
    "resnet20": ("resnet20", (8, 8, 3), 6, False, True),
}
QUICK = ("lenet300-inputs", "cnn-inputs")


def posed(name, image_shape, examples, prune_inputs, batch_statistics):
    network = bundled.build(name, image_shape)
    variables = network.init(jax.random.key(0))
    shape = (examples, int(np.prod(image_shape))) if network.flat else (examples, *image_shape)
    x = jax.random.normal(jax.random.key(1), shape)
    y = jax.random.randint(jax.random.key(2), (examples,), 0, 10)

    def apply(variables, x):
        if batch_statistics:
            return network.apply_train(variables, x)[0]
        return network.apply(variables, x)

    structure = trace(apply, variables, x[:2], prune_inputs=prune_inputs)
    return apply, structure, variables, x, y


def random_masks(structure, count, seed=0):
    """Masks of random widths: the first candidate has one channel a group, the second all."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, structure.num_channels), np.float32)
    for k, (index, group) in itertools.product(range(count), enumerate(structure.groups)):
        width = {0: 1, 1: group.size}.get(k, rng.integers(1, group.size + 1))
        channels = np.flatnonzero(structure.group_index == index)
        masks[k, rng.choice(channels, width, replace=False)] = 1
    return masks


def at_full_width(apply, structure, variables, masks, x, y):
    flat = structure.unflatten(jnp.asarray(masks.reshape(-1, masks.shape[-1])))
    return evaluate(masked(apply, structure), variables, flat, x, y)


def check(found, expected):
    np.testing.assert_allclose(found.loss.reshape(-1), expected.loss, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(found.accuracy.reshape(-1), expected.accuracy, rtol=1e-6)


@pytest.mark.parametrize("case", slow_if_in(set(CASES) - set(QUICK), CASES))
def test_scores_are_those_at_full_width(case):
    apply, structure, variables, x, y = posed(*CASES[case])
    count = 5 if case != "vgg11" else 3
    masks = random_masks(structure, count)
    first = structure.groups[0].size  # two candidates begin alike
    masks[-1, :first] = masks[-2, :first]
    scores = evaluator(apply, structure, variables, x, y)
    assert isinstance(scores, Evaluator)
    assert not scores.network.pinned
    expected = at_full_width(apply, structure, variables, masks, x, y)
    assert len(np.unique(expected.loss)) == count
    check(scores(masks), expected)


def residual(params, x):
    """Two convolutions and a sum of both, with the batch's own statistics after each."""

    def layer(kernel, x):
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return (y - y.mean((0, 1, 2))) / (y.std((0, 1, 2)) + 0.1)

    first = jax.nn.relu(layer(params["one"], x))
    both = jax.nn.relu(first + layer(params["two"], first))
    return both.mean((1, 2)) @ params["three"]


@pytest.mark.slow
def test_a_residual_sum():
    shapes = {"one": (3, 3, 2, 24), "two": (3, 3, 24, 24), "three": (24, 5)}
    keys = jax.random.split(jax.random.key(3), 3)
    params = {
        name: jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    x, y = jax.random.normal(jax.random.key(0), (7, 5, 5, 2)), jnp.arange(7) % 5
    structure = trace(residual, params, x)
    assert [group.size for group in structure.groups] == [24]
    masks = random_masks(structure, 5)
    scores = evaluator(residual, structure, params, x, y)
    assert isinstance(scores, Evaluator)
    assert not scores.network.pinned
    check(scores(masks), at_full_width(residual, structure, params, masks, x, y))


@pytest.mark.slow
@pytest.mark.parametrize("ordered", [False, True])
def test_inputs_that_a_product_and_something_else_read(ordered):
    """The product may pick the inputs that a candidate keeps; what is beside it may not."""
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = ((40, 24), (24, 3), (40, 3))
    a, b, c = (jax.random.normal(*pair) for pair in zip(keys, shapes, strict=False))
    params = {"a": a, "b": b, "c": c}
    x, y = jax.random.normal(keys[3], (6, 40)), jnp.arange(6) % 3

    def beside_a_sum(params, x):
        return jnp.tanh(x @ params["a"]) @ params["b"] + (x * x).sum(1, keepdims=True)

    def beside_a_maximum(params, x):
        return jnp.tanh(x @ params["a"]) @ params["b"] + x.max(1, keepdims=True)

    def beside_a_product(params, x):
        return jnp.tanh(x @ params["a"]) @ params["b"] + x @ params["c"]

    for apply in (beside_a_sum, beside_a_maximum, beside_a_product):
        structure = trace(apply, params, x, prune_inputs=True)
        assert sorted(group.size for group in structure.groups) == [24, 40]
        masks = np.concatenate([random_masks(structure, 6), by_order(structure, 4)])
        importance = importance_of(structure) if ordered else None
        scores = evaluator(apply, structure, params, x, y, importance=importance)
        assert isinstance(scores, Evaluator)
        check(scores(masks), at_full_width(apply, structure, params, masks, x, y))


@pytest.mark.slow
def test_a_batch_with_large_arrays_is_divided(lenet, monkeypatch):
    """The scores are those of the whole; which examples are together does not matter."""
    apply, structure, variables, x, y = lenet
    masks = np.concatenate([by_order(structure, 3), random_masks(structure, 2)])
    monkeypatch.setattr(evaluator_module, "LARGEST", len(y) * 300 * 4 // 3)
    counts = set()
    for examples in (len(y) - 1, len(y)):
        expected = at_full_width(apply, structure, variables, masks, x[:examples], y[:examples])
        scores = evaluator(
            apply,
            structure,
            variables,
            x[:examples],
            y[:examples],
            importance=importance_of(structure),
        )
        counts.add(len(scores._separate))
        assert len(scores._shared) == len(scores._separate)
        check(scores(masks), expected)
    assert len(counts) == 2


def test_a_batch_stays_whole_where_examples_depend_on_each_other(monkeypatch):
    monkeypatch.setattr(evaluator_module, "LARGEST", 1)
    keys = jax.random.split(jax.random.key(0), 4)
    params = {"a": jax.random.normal(keys[0], (6, 5)), "b": jax.random.normal(keys[1], (5, 3))}
    x, y = jax.random.normal(keys[2], (8, 6)), jnp.arange(8) % 3

    def alone(params, x):
        return jnp.tanh(x @ params["a"]) @ params["b"]

    def together(params, x):
        hidden = x @ params["a"]
        return jnp.tanh(hidden - hidden.mean(0)) @ params["b"]

    for apply, count in ((alone, 8), (together, 1)):
        structure = trace(apply, params, x)
        masks = random_masks(structure, 4)
        scores = evaluator(apply, structure, params, x, y)
        assert len(scores._separate) == count
        check(scores(masks), at_full_width(apply, structure, params, masks, x, y))
    equal = jnp.broadcast_to(x[:1], x.shape)  # nothing can be learned from these
    assert len(evaluator(alone, trace(alone, params, x), params, equal, y)._separate) == 1


@pytest.mark.slow
def test_soft_masks():
    apply, structure, variables, x, y = posed(*CASES["cnn-inputs"])
    rng = np.random.default_rng(0)
    masks = random_masks(structure, 4) * rng.random((4, structure.num_channels))
    masks = masks.astype(np.float32)
    scores = evaluator(apply, structure, variables, x, y)
    check(scores(masks), at_full_width(apply, structure, variables, masks, x, y))


@pytest.fixture(scope="module")
def lenet():
    return posed(*CASES["lenet300-inputs"])


def steps_of_pruning(structure, finals):
    undecided = structure.group_index[None] > np.arange(len(structure.groups))[:, None]
    return np.where(undecided, np.float32(1), finals[:, None])  # [K, T, N]


def by_order(structure, count, seed=0):
    """Masks whose removed channels are the first of each group: nested, as by importance."""
    rng = np.random.default_rng(seed)
    first = [rng.integers(0, group.size, count) for group in structure.groups]
    return np.concatenate(
        [np.arange(g.size) >= f[:, None] for g, f in zip(structure.groups, first, strict=True)], 1
    ).astype(np.float32)


def importance_of(structure):
    """What `by_order` removes by: the first channels of each group first."""
    return np.concatenate([np.arange(group.size) for group in structure.groups])


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("make", [random_masks, by_order])
@pytest.mark.parametrize("case", slow_if_in(set(CASES) - {"lenet300-inputs"}, CASES))
def test_a_score_depends_on_the_mask_alone(case, make, ordered):
    """Not on what is scored with it, nor on what was scored before, bit for bit."""
    apply, structure, variables, x, y = posed(*CASES[case])
    masks = steps_of_pruning(structure, make(structure, 4))
    importance = importance_of(structure) if ordered else None
    scores = evaluator(apply, structure, variables, x, y, importance=importance)
    together = scores(masks)
    assert together.loss.shape == masks.shape[:2]
    check(together, at_full_width(apply, structure, variables, masks, x, y))
    for place in np.ndindex(*together.loss.shape):
        alone = scores(masks[place])
        assert alone.loss.shape == ()
        assert alone.loss == together.loss[place]
    shuffled = np.random.default_rng(0).permutation(together.loss.size)
    anew = evaluator(apply, structure, variables, x, y, importance=importance)
    again = anew(masks.reshape(-1, masks.shape[-1])[shuffled])
    np.testing.assert_array_equal(again.loss, together.loss.reshape(-1)[shuffled])


def test_masks_in_and_out_of_order_are_scored_together(lenet):
    apply, structure, variables, x, y = lenet
    masks = np.concatenate([by_order(structure, 4), random_masks(structure, 3)])
    masks[3, : structure.groups[0].size] *= 0.5
    masks = masks[[4, 0, 5, 3, 1, 6, 2]]
    scores = evaluator(apply, structure, variables, x, y, importance=importance_of(structure))
    assert [scores._shared[0].suits(one) for one in scores._candidates(masks)] == [
        *(False, True, True, False, True, False, True)  # the second random mask keeps everything
    ]
    check(scores(masks), at_full_width(apply, structure, variables, masks, x, y))


@pytest.mark.parametrize("size", [16, 40, 101])
def test_partial_sums_are_products_with_the_first_channels(size):
    keys = jax.random.split(jax.random.key(size), 4)
    params = {"a": jax.random.normal(keys[0], (size, 6)), "b": jax.random.normal(keys[1], (6, 3))}
    x = jax.random.normal(keys[2], (5, size))

    def apply(params, x):
        return jnp.tanh(x @ params["a"]) @ params["b"]

    structure = trace(apply, params, x, prune_inputs=True)
    piece = next(p for p in cut(apply, structure, params, x).pieces if p.product)
    order = np.asarray(jax.random.permutation(keys[3], size))
    layout = np.array([3, 1, 0, 5, 4, 2])
    sums = PartialSums(piece, x, order, layout)
    assert sums.step == 16
    for count in range(size + 1):
        number, rows = sums.rows(count)
        data, before = sums.before(number)
        (found,) = run(sums.code, (), [data, before], [rows])
        first = order[:count]
        expected = np.asarray(x)[:, first] @ np.asarray(params["a"])[first][:, layout]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_what_is_remembered_is_not_scored_again():
    asked = []

    def score(masks):
        asked.append(masks.copy())
        return Scores(masks.sum(-1), masks[:, 0])

    remembering = Remembering(score)
    one, two, three = np.float32([[1, 0, 0], [0.5, 1, 1], [0, 0, 1]])
    found = remembering(np.stack([[one, two], [one, one]]))
    np.testing.assert_array_equal(found.loss, [[1, 2.5], [1, 1]])
    np.testing.assert_array_equal(found.accuracy, [[1, 0.5], [1, 1]])
    np.testing.assert_array_equal(asked[0], [one, two])
    np.testing.assert_array_equal(remembering(np.stack([two, three, one])).loss, [2.5, 1, 1])
    np.testing.assert_array_equal(asked[1], [three])
    assert remembering(three).loss == 1
    assert len(asked) == 2


def test_equal_candidates_are_computed_once_and_score_the_same(lenet):
    apply, structure, variables, x, y = lenet
    mask = random_masks(structure, 3)[2]
    scores = evaluator(apply, structure, variables, x, y)
    once, twice = scores(mask[None]), scores(np.stack([mask, mask]))
    np.testing.assert_array_equal(twice.loss, np.repeat(once.loss, 2))


@pytest.mark.slow
def test_compilations_are_bounded(lenet):
    """At most one a product for each pair of widths, and one of the rest for each width."""
    apply, structure, variables, x, y = lenet
    scores = evaluator(apply, structure, variables, x, y)
    sizes = {
        size: len({widths.rounded(width, size) for width in range(1, size + 1)})
        for size in (784, 300, 100)
    }
    assert sizes == {784: 25, 300: 10, 100: 7}
    run.clear_cache()
    for seed in range(30):
        scores(random_masks(structure, 2 + 4, seed))
    most = 25 * 10 + 10 * 7 + 7 + (10 + 7 + 1)
    assert 20 < run._cache_size() <= most
    before = run._cache_size()
    scores(random_masks(structure, 6, seed=3))
    assert run._cache_size() == before


@pytest.mark.slow
def test_the_loss_of_a_large_network_is_compiled_once(lenet, monkeypatch):
    """Besides the last product, which is compiled for each of its seven widths."""
    apply, structure, variables, x, y = lenet
    assert structure.groups[-1].size == 100
    masks = np.ones((7, structure.num_channels), np.float32)
    for mask, width in zip(masks, (*range(16, 97, 16), 100), strict=True):
        mask[structure.num_channels - 100 + width :] = 0
    compiled = []
    for large in (programs.LARGE, 0):
        monkeypatch.setattr(programs, "LARGE", large)
        scores = evaluator(apply, structure, variables, x, y)
        run.clear_cache()
        check(scores(masks), at_full_width(apply, structure, variables, masks, x, y))
        compiled.append(run._cache_size())
    assert compiled[1] == compiled[0] + 1


@settings(max_examples=50, deadline=None)
@given(
    size=st.integers(1, 600),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 100),
)
def test_what_is_computed_holds_what_is_kept(size, fraction, seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, np.float32)
    mask[rng.choice(size, max(1, int(fraction * size)), replace=False)] = 1
    chosen = widths.choose(mask)
    assert chosen.kept == mask.sum()
    assert set(np.flatnonzero(mask)) <= set(chosen.computed)
    assert len(chosen.computed) == widths.rounded(chosen.kept, size) <= size
    assert (np.diff(chosen.computed) > 0).all()
    assert len(chosen.computed) - chosen.kept < max(4, size / 4)


def test_loops_over_channels_are_evaluated_at_full_width():
    params = {"a": jnp.ones((3, 4)) / 3, "b": jnp.eye(4) / 2, "c": jnp.ones((4, 2))}

    def apply(params, x):
        def layer(h, _):
            return jnp.tanh(h @ params["b"]), None

        h, _ = jax.lax.scan(layer, x @ params["a"], None, length=2)
        return h @ params["c"]

    x = jax.random.normal(jax.random.key(0), (5, 3))
    y = jnp.zeros(5, jnp.int32)
    structure = trace(apply, params, x)
    assert structure.num_channels == 4
    scores = evaluator(apply, structure, params, x, y)
    assert not isinstance(scores, Evaluator)
    masks = np.float32([[[1, 1, 0, 1]], [[0, 1, 0, 0]]])
    found = scores(masks)
    assert found.loss.shape == (2, 1)
    check(found, at_full_width(apply, structure, params, masks, x, y))


def test_a_network_that_slices_its_channels_keeps_them_whole():
    params = {"a": jnp.ones((3, 6)), "b": jax.random.normal(jax.random.key(1), (4, 8))}
    params["c"] = jax.random.normal(jax.random.key(2), (8, 2))

    def apply(params, x):
        h = jnp.tanh(x @ params["a"])[:, 1:5]
        return jax.nn.relu(h @ params["b"]) @ params["c"]

    x, y = jax.random.normal(jax.random.key(0), (5, 3)), jnp.zeros(5, jnp.int32)
    structure = trace(apply, params, x)
    masks = random_masks(structure, 4)
    scores = evaluator(apply, structure, params, x, y)
    assert isinstance(scores, Evaluator)
    assert scores.network.pinned == {0}
    check(scores(masks), at_full_width(apply, structure, params, masks, x, y))


def test_it_pays_for_large_networks_on_many_examples(lenet):
    structure = lenet[1]  # 266,200 multiply-adds in three layers
    assert pays(structure, 1024)
    assert not pays(structure, 20)
    assert not pays(structure, 1024, few=True)
    assert pays(structure, 100_000, few=True)


CONFIGS = {
    "acnn": (
        acnn,
        acnn.Config(iterations=3, episodes=3, warmup=3, batch=8, validated=2, hidden=(8, 8)),
    ),
    "crl": (
        ppo_lagrangian,
        ppo_lagrangian.Config(iterations=3, episodes=4, validated=2, target_kl=1e9),
    ),
    "random": (random, random.Config(candidates=6, batch=3)),
}


@pytest.mark.parametrize("method", slow_if_in(("acnn", "crl", "random"), CONFIGS))
def test_a_search_finds_the_same_with_and_without(lenet, method):
    apply, structure, variables, x, y = lenet
    agent, config = CONFIGS[method]
    batch = x, y
    results = []
    for host in (True, False):
        problem = make_problem(
            apply, structure, variables, batch, batch, cost="neurons", budget=0.5, host=host
        )
        assert (problem.host is not None) == host
        results.append(agent.search(config, problem, jax.random.PRNGKey(0)))
    ours, theirs = (result.archive for result in results)
    np.testing.assert_array_equal(ours.masks, theirs.masks)
    np.testing.assert_array_equal(ours.accuracy, theirs.accuracy)
    np.testing.assert_array_equal(ours.validation, theirs.validation)
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-5)
    np.testing.assert_allclose(ours.cost, theirs.cost, rtol=1e-6)
    states = [r.state._replace(archive=()) for r in results]
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_search_from_the_host_is_resumed_bit_for_bit(lenet):
    apply, structure, variables, x, y = lenet
    config = acnn.Config(iterations=4, episodes=3, warmup=3, batch=8, validated=2, hidden=(8, 8))
    problem = make_problem(
        apply, structure, variables, (x, y), (x, y), cost="neurons", budget=0.5, host=True
    )
    whole = acnn.search(config, problem, jax.random.PRNGKey(0))
    state = acnn.init(config, problem, jax.random.PRNGKey(0))
    for _ in range(2):
        state, _ = acnn.update(config, problem, state)
    resumed = acnn.search(config, problem, jax.random.PRNGKey(1), state=state)
    for a, b in zip(jax.tree.leaves(whole.state), jax.tree.leaves(resumed.state), strict=True):
        np.testing.assert_array_equal(a, b)
