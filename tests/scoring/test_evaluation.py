import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import Archive, UserError, best, compact, costs, importance, trace
from jaxprune.networks import bundled
from jaxprune.scoring.evaluation import evaluate
from jaxprune.search.problem import make_problem


@pytest.fixture(scope="module")
def cnn():
    network = bundled.build("cnn", (8, 8, 1))
    variables = network.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (40, 8, 8, 1))
    y = jax.random.randint(jax.random.key(2), (40,), 0, 10)
    return network, variables, trace(network.apply, variables, x[:1]), x, y


def random_flat_masks(structure, count, seed=0):
    rng = np.random.default_rng(seed)
    masks = (rng.random((count, structure.num_channels)) < 0.5).astype(np.float32)
    masks[:, np.unique(structure.group_index, return_index=True)[1]] = 1
    return masks


@pytest.mark.parametrize("chunk", [None, 1, 2, 7])
def test_scores_are_those_of_the_compact_networks(cnn, chunk):
    network, variables, structure, x, y = cnn
    flat = random_flat_masks(structure, 5)
    problem = make_problem(network.apply, structure, variables, (x, y), (x[:9], y[:9]), chunk=chunk)
    scores, validation = problem.evaluate(flat), problem.validate(flat)
    for k, mask in enumerate(flat):
        small = compact(network.apply, structure, variables, structure.unflatten(mask))
        logits = np.asarray(small(small.params, x), np.float64)
        right = logits.argmax(-1) == np.asarray(y)
        picked = logits[np.arange(40), np.asarray(y)]
        loss = (np.log(np.exp(logits).sum(-1)) - picked).mean()
        np.testing.assert_allclose(scores.accuracy[k], right.mean(), rtol=1e-6)
        np.testing.assert_allclose(scores.loss[k], loss, rtol=1e-4)
        np.testing.assert_allclose(validation.accuracy[k], right[:9].mean(), rtol=1e-6)


@pytest.mark.parametrize("chunk", [None, 1, 2, 7])
def test_steps_of_pruning_score_as_each_network_does_alone(cnn, chunk):
    network, variables, structure, x, y = cnn
    final = random_flat_masks(structure, 3)
    steps = len(structure.groups)
    undecided = structure.group_index[None, :] > np.arange(steps)[:, None]
    masks = np.where(undecided, 1, final[:, None])  # [K, T, N]
    problem = make_problem(network.apply, structure, variables, (x, y), (x[:9], y[:9]), chunk=chunk)
    together = problem.evaluate_steps(masks)
    alone = problem.evaluate(masks.reshape(-1, masks.shape[-1]))
    assert together.accuracy.shape == (3, steps)
    assert len(np.unique(alone.loss)) == 3 * steps
    np.testing.assert_allclose(together.accuracy.reshape(-1), alone.accuracy, rtol=1e-6)
    np.testing.assert_allclose(together.loss.reshape(-1), alone.loss, rtol=1e-5)


def test_no_recompile_for_other_masks(cnn):
    network, variables, structure, x, y = cnn
    problem = make_problem(network.apply, structure, variables, (x, y), (x, y))
    problem.evaluate(random_flat_masks(structure, 3))
    before = evaluate._cache_size()
    problem.evaluate(random_flat_masks(structure, 3, seed=1))
    assert evaluate._cache_size() == before


def test_cost_is_a_fraction_of_the_dense_cost(cnn):
    network, variables, structure, x, y = cnn
    problem = make_problem(network.apply, structure, variables, (x, y), (x, y), cost="params")
    (mask,) = random_flat_masks(structure, 1)
    expected = costs.exact(structure, structure.unflatten(mask), "params") / 24_058
    np.testing.assert_allclose(problem.cost(mask), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(problem.cost)(np.ones(112)), 1.0)


@pytest.mark.parametrize(
    ("cost", "budget", "message"),
    [
        ("macs", 0.0, r"budget 0 is outside \(0, 1\]"),
        ("macs", 1.5, r"budget 1.5 is outside \(0, 1\]"),
        ("macs", 1e-5, "budget 1e-05 cannot be reached: .* at least 0.00"),
        ("time", 0.5, "unknown cost 'time'"),
    ],
)
def test_impossible_budgets(cnn, cost, budget, message):
    network, variables, structure, x, y = cnn
    with pytest.raises(UserError, match=message):
        make_problem(network.apply, structure, variables, (x, y), (x, y), cost=cost, budget=budget)


def test_the_smallest_budget_named_can_be_reached(cnn):
    network, variables, structure, x, y = cnn
    with pytest.raises(UserError) as error:
        make_problem(network.apply, structure, variables, (x, y), (x, y), budget=1e-5)
    least = float(str(error.value).rsplit(" ", 1)[1])
    make_problem(network.apply, structure, variables, (x, y), (x, y), budget=least)


def test_best_is_feasible_and_breaks_ties():
    def archive(**columns):
        n = len(columns["cost"])
        return Archive(
            np.eye(n, dtype=np.uint8), *(np.array(columns[c]) for c in Archive._fields[1:])
        )

    candidates = archive(
        cost=[0.6, 0.5, 0.4, 0.5, 0.5],
        loss=[0.0, 1.0, 1.0, 0.5, 0.4],
        accuracy=[1.0, 0.9, 0.8, 0.9, 0.9],
        validation=[1.0, 0.7, 0.7, 0.7, 0.6],
    )
    assert best(candidates, 0.5) == 3
    assert best(candidates, 0.4) == 2
    assert best(candidates, 1.0) == 0
    with pytest.raises(ValueError, match=r"none of the 5 candidates has a cost of at most 0.1"):
        best(candidates, 0.1)


def test_l1_importance_by_hand():
    network = bundled.build("resnet20", (8, 8, 3))
    variables = network.init(jax.random.key(0))
    structure = trace(network.apply, variables, jnp.ones((1, 8, 8, 3)))
    scores = structure.unflatten(importance.l1(structure, variables))
    norms2 = structure.unflatten(importance.l2(structure, variables))
    p = variables["params"]

    def kernel(path):
        tree = p
        for part in path.split("/"):
            tree = tree[part]
        return np.asarray(tree["kernel"], np.float64)

    for group in structure.groups:
        kernels = [kernel(layer) for layer in group.layers]
        expected = sum(np.abs(k).sum((0, 1, 2)) for k in kernels)
        np.testing.assert_allclose(scores[group.name], expected, rtol=1e-5)
        expected = np.sqrt(sum((k**2).sum((0, 1, 2)) for k in kernels))
        np.testing.assert_allclose(norms2[group.name], expected, rtol=1e-5)
