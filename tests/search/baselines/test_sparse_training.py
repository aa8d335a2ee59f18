"""Methods that train a network to be sparse: L0, AutoPrune, group lasso, CGES."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxprune import make_problem, masked, optim, trace, training
from jaxprune.costs.budgets import make_budgets
from jaxprune.errors import UserError
from jaxprune.files import checkpoint
from jaxprune.search.baselines import (
    admm,
    autoprune,
    barrier,
    cges,
    group_lasso,
    group_sparsity,
    hard_concrete,
)
from jaxprune.search.baselines.sparse_training import Batch, Learner, Plan, Step
from jaxprune.search.problem import assemble
from jaxprune.search.trainer import make_trainer
from jaxprune.training.data import Split

KEY = jax.random.PRNGKey(5)
METHODS = {
    "l0": hard_concrete,
    "autoprune": autoprune,
    "lasso": group_lasso,
    "cges": cges,
    "barrier": barrier,
    "admm": admm,
}
RECIPE = training.Recipe(epochs=1, batch_size=32, learning_rate=0.2, weight_decay=0.0)
TELLING = (1, 4, 6)
"""The features that tell the class; nine others are noise."""


class Small(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="out")(nn.relu(nn.Dense(8, name="hidden")(x)))


def planted(count, seed):
    """Images of 12 pixels, of which the telling ones decide between three classes."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 1, 12, 1), np.uint8)
    x = images.reshape(count, 12)[:, TELLING].astype(np.float32)
    directions = np.array([[1, 1, -1], [-1, 1, 1], [1, -1, 1]], np.float32)
    return Split(images, (x @ directions.T).argmax(-1).astype(np.int32))


def flatten(images):
    return images.reshape(len(images), -1).astype(jnp.float32) / 127.5 - 1


@pytest.fixture(scope="module")
def problem():
    model = Small()

    class Network:  # what the trainer asks of a bundled model
        def init(self, key):
            return {"params": model.init(key, jnp.zeros((1, 12)))["params"]}

        def apply(self, variables, x):
            return model.apply(variables, x)

        def apply_train(self, variables, x):
            return model.apply(variables, x), {}

    network = Network()
    variables = network.init(jax.random.PRNGKey(0))
    train, validation = planted(640, 0), planted(320, 1)
    batches = [
        (flatten(jnp.asarray(part.images)), jnp.asarray(part.labels))
        for part in (train, validation)
    ]
    structure = trace(network.apply, variables, batches[0][0], prune_inputs=True)
    trainer = make_trainer(
        network,
        structure,
        variables,
        train,
        flatten,
        finetune=RECIPE,
        pretrain=RECIPE,
        scored=network.apply,
        train=batches[0],
        validation=batches[1],
        held_out=validation,
    )
    budgets = make_budgets(
        network.apply, structure, variables, batches[0][0][:1], [("neurons", 0.5)]
    )
    return assemble(
        structure,
        masked(network.apply, structure),
        variables,
        *batches,
        budgets=budgets,
        trainer=trainer,
    )


def quick(method, **settings):
    if method is barrier:  # the problem's dense network was not trained
        settings = {"distill": 0.0, **settings}
    return method.Config(epochs=40, **settings)


@pytest.fixture(scope="module")
def found(problem):
    """{method: (result, metrics of each epoch)}."""
    results = {}
    for name, method in METHODS.items():
        lines = []
        result = method.search(
            quick(method), problem, KEY, progress=lambda _, line, lines=lines: lines.append(line)
        )
        results[name] = result, lines
    return results


@pytest.mark.parametrize("name", METHODS)
def test_the_telling_features_are_kept(problem, found, name):
    result, lines = found[name]
    assert problem.structure.groups[0].name == "input"
    kept = set(np.flatnonzero(result.mask[:12]))
    assert set(TELLING) <= kept
    assert result.mask.sum() == 10  # of 20 neurons, half
    assert result.archive.validation[0] > 0.9
    assert lines[-1]["best_accuracy"] == result.archive.validation[0]


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("barrier", "admm")])
def test_the_strength_follows_what_is_in_use(found, name):
    _, lines = found[name]
    in_use = np.array([line["in_use"] for line in lines])
    assert in_use[0] > 0.7
    assert in_use[-1] < 0.65
    assert lines[-1]["limit"] == 0.5
    # Forty epochs: at twice the budget the logarithm rises by 6 / 40 in each of them.
    moves = np.diff(np.log([line["strength"] for line in lines]))
    assert moves[0] == pytest.approx(6 / 40 * min(1, 2 * in_use[:2].mean() - 1), rel=0.1)
    violations = np.clip((in_use[1:] + in_use[:-1]) - 1, -1, 1)  # means of an epoch's two ends
    assert np.corrcoef(moves, violations)[0, 1] > 0.9


def test_what_is_in_use_follows_the_sinking_ceiling(found):
    _, lines = found["barrier"]
    in_use = np.array([line["in_use"] for line in lines])
    done = np.arange(1, 41) / 40
    ceilings = np.asarray(barrier.ceiling(barrier.Config(), 0.5, done))
    # Adam takes some epochs to close a gate; from then on nothing is above the ceiling.
    assert (in_use[10:] <= ceilings[:-10]).all()
    assert (in_use[:4] == 1).all()
    assert in_use[-1] <= 0.5
    assert all(line["strength"] == pytest.approx(0.01) for line in lines)


def test_the_archive_holds_the_answer_alone_with_its_own_weights(problem, found):
    for result, _ in found.values():
        assert len(result.archive.cost) == 1
        scores = problem.trainer.validate(result.variables, jnp.asarray(result.mask)[None])
        assert result.archive.validation[0] == float(scores.accuracy[0])


def test_the_gates_are_taken_into_the_weights(problem, found):
    result, _ = found["l0"]
    learner = result.state.learner
    gates = hard_concrete.settled(learner.gates) * result.mask
    material = problem.trainer.material
    x = flatten(jnp.asarray(material.validation[0]))
    expected, _ = material.function(learner.variables, gates, x)
    actual, _ = material.function(result.variables, jnp.asarray(result.mask, jnp.float32), x)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_the_same_key_gives_the_same_and_a_resumed_search_too(problem, name, tmp_path):
    method = METHODS[name]
    config = dataclasses.replace(quick(method), epochs=3)
    whole = method.search(config, problem, KEY)
    state, _ = method.update(config, problem, method.init(config, problem, KEY))
    checkpoint.save(tmp_path / "state", state)
    state = checkpoint.load(tmp_path / "state", like=method.init(config, problem, KEY))
    resumed = method.search(config, problem, jax.random.PRNGKey(99), state=state)
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    other = method.search(config, problem, jax.random.PRNGKey(6))
    assert not np.array_equal(
        other.variables["params"]["out"]["kernel"], whole.variables["params"]["out"]["kernel"]
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_fixed_strength_stays(problem, name):
    method = METHODS[name]
    config = dataclasses.replace(quick(method, strength=0.25), epochs=2)
    result = method.search(config, problem, KEY)
    assert float(result.state.learner.strength) == 0.25


def test_it_may_begin_with_the_trained_network(problem):
    config = group_lasso.Config(from_dense=True, epochs=1)
    state = group_lasso.init(config, problem, KEY)
    dense = problem.trainer.material.dense
    jax.tree.map(np.testing.assert_array_equal, state.learner.variables, dense)


# --- the parts -----------------------------------------------------------------------------------


def a_plan(problem, config):
    return Plan(config, RECIPE, problem.structure, problem.cost, problem.budget, 10, 32)


def test_gates_are_closed_as_often_as_the_probability_says():
    uniform = jax.random.uniform(KEY, (200_000,), minval=1e-6)
    for log_odds in (-2.0, 0.0, 1.5):
        gates = hard_concrete.draw(jnp.full(200_000, log_odds), uniform)
        assert float(gates.min()) >= 0
        assert float(gates.max()) <= 1
        probability = float(hard_concrete.open_probability(log_odds))
        assert float((gates > 0).mean()) == pytest.approx(probability, abs=5e-3)


def test_gates_by_hand():
    # The middle of the noise: sigmoid(0) = 1/2, stretched to 0.5 * 1.2 - 0.1.
    assert float(hard_concrete.draw(jnp.array(0.0), jnp.array(0.5))) == pytest.approx(0.5)
    # sigmoid(ln 3 / (2/3)) = 1 / (1 + 3 ** -1.5) = 0.8386; 0.8386 * 1.2 - 0.1 = 0.9063
    gate = hard_concrete.draw(jnp.log(3.0), jnp.array(0.5))
    assert float(gate) == pytest.approx(0.90629, abs=1e-4)
    # 1 / (1 + (1/11) ** (2/3)) = 0.8318
    assert float(hard_concrete.open_probability(jnp.array(0.0))) == pytest.approx(0.83182, abs=1e-4)
    np.testing.assert_allclose(hard_concrete.settled(jnp.array([-9.0, 0.0, 9.0])), [0, 0.5, 1])


def test_the_cost_of_probabilities_is_the_expected_cost(problem):
    structure = problem.structure
    two = make_problem(
        lambda variables, x: Small().apply(variables, x),
        structure,
        problem.trainer.material.dense,
        (jnp.zeros((1, 12)), jnp.zeros(1, int)),
        (jnp.zeros((1, 12)), jnp.zeros(1, int)),
        cost="params",
        budget=0.5,
    )
    probability = jax.random.uniform(KEY, (structure.num_channels,))
    draws = jax.random.uniform(jax.random.key(1), (20_000, structure.num_channels)) < probability
    mean = jax.vmap(two.cost)(draws.astype(jnp.float32)).mean()
    assert float(two.cost(probability)) == pytest.approx(float(mean), rel=0.01)


def test_autoprune_descends_by_the_signs_of_the_weights(problem):
    """A linear network whose loss is known: compared with differences of its own parts."""
    plan = a_plan(problem, autoprune.Config())
    material = problem.trainer.material
    variables = problem.trainer.initial(KEY)
    batch = Batch(flatten(jnp.asarray(material.train[0][:32])), jnp.asarray(material.train[1][:32]))
    gates = jax.random.normal(KEY, (20,))
    slope = autoprune.gates_slope(
        plan, material.function, variables, gates, jnp.float32(0.7), batch
    )

    opened = np.asarray(gates) > 0
    kernels = {name: np.asarray(variables["params"][name]["kernel"]) for name in ("hidden", "out")}
    closed = {
        "hidden": kernels["hidden"] * opened[:12, None],
        "out": kernels["out"] * opened[12:, None],
    }

    def loss(kernels):
        params = {
            name: {"kernel": kernels[name], "bias": variables["params"][name]["bias"]}
            for name in kernels
        }
        logits = Small().apply({"params": params}, batch.x)
        targets = jax.nn.one_hot(batch.y, 3)
        return -(jax.nn.log_softmax(logits) * targets).sum(-1).mean()

    with_respect_to_t = jax.grad(loss)(closed)
    fall = np.concatenate(
        [(with_respect_to_t[name] * np.sign(kernels[name])).sum(1) for name in ("hidden", "out")]
    )
    price = 0.7 * (1 / 20) / 0.5  # one neuron of twenty, against half of them
    expected = (fall + price) / (1 + np.exp(-np.asarray(gates)))
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)


def test_groups_shrink_as_the_proximal_operator_says(problem):
    plan = a_plan(problem, group_lasso.Config())
    variables = problem.trainer.initial(KEY)
    shrunk = group_sparsity.shrink_groups(plan, variables, jnp.full(20, 0.3))
    for name in ("hidden", "out"):
        kernel = variables["params"][name]["kernel"]
        expected = optim.prox.group_l2(kernel, 0.3, axis=1)
        np.testing.assert_allclose(shrunk["params"][name]["kernel"], expected, atol=1e-6)
        np.testing.assert_array_equal(
            shrunk["params"][name]["bias"], variables["params"][name]["bias"]
        )


def test_a_group_below_its_threshold_is_gone(problem):
    plan = a_plan(problem, group_lasso.Config())
    variables = problem.trainer.initial(KEY)
    norms = group_sparsity.norms(plan, variables)
    middle = float(jnp.median(norms))
    left = group_sparsity.norms(
        plan, group_sparsity.shrink_groups(plan, variables, jnp.full(20, middle))
    )
    np.testing.assert_allclose(left, np.maximum(norms - middle, 0), atol=1e-6)
    assert (np.asarray(left) == 0).sum() in (10, 11)


def test_soft_thresholds_by_hand(problem):
    plan = a_plan(problem, cges.Config())
    variables = problem.trainer.initial(KEY)
    thresholds = jnp.arange(20) / 40
    shrunk = group_sparsity.shrink_weights(plan, variables, thresholds)
    kernel = np.asarray(variables["params"]["hidden"]["kernel"])
    expected = np.sign(kernel) * np.maximum(np.abs(kernel) - np.arange(12)[:, None] / 40, 0)
    np.testing.assert_allclose(shrunk["params"]["hidden"]["kernel"], expected, atol=1e-7)
    np.testing.assert_array_equal(
        shrunk["params"]["hidden"]["bias"], variables["params"]["hidden"]["bias"]
    )


def test_cges_shares_early_and_competes_late(problem):
    parts = cges.group_parts(a_plan(problem, cges.Config()))
    np.testing.assert_allclose(parts, [0.8] * 12 + [0.6] * 8, rtol=1e-6)
    steep = cges.group_parts(a_plan(problem, cges.Config(first_mu=0.3, mu_fall=0.5)))
    np.testing.assert_allclose(steep, [0.3] * 12 + [0.0] * 8, rtol=1e-6)


@pytest.mark.parametrize("method", [group_lasso, cges])
def test_warm_up_and_healing(problem, method):
    """Two epochs of nothing but training, two of shrinking, two in which zeros stay."""
    settings = {"epochs": 6, "warm_up": 1 / 3, "healing": 1 / 3, "initial_strength": 0.1}
    lines, zeros = [], []

    def look(state, line):
        lines.append(line)
        plan = a_plan(problem, method.Config())
        zeros.append(np.asarray(group_sparsity.norms(plan, state.learner.variables)) == 0)

    method.search(method.Config(**settings), problem, KEY, progress=look)
    in_use = [line["in_use"] for line in lines]
    strength = [line["strength"] for line in lines]
    assert in_use[:2] == [1, 1]
    assert in_use[3] < 1
    assert strength[:2] == pytest.approx([0.1, 0.1])
    assert strength[2] > strength[1]
    assert strength[3] == strength[4] == strength[5]
    for later in zeros[4:]:
        np.testing.assert_array_equal(later, zeros[3])
    with pytest.raises(ValueError, match=r"must leave some of the training, not add up to 1\.2"):
        method.Config(warm_up=0.5, healing=0.7)


def test_the_barrier_and_its_ceiling_by_hand():
    # r = 0, 1/2, 3/4: f = 0, 1/2, 9/4; below the floor 0, from the ceiling on the highest.
    heights = [float(barrier.barrier(v, 0.4, 0.8)) for v in (0.1, 0.4, 0.6, 0.7, 0.8, 0.9)]
    np.testing.assert_allclose(heights, [0, 0, 0.5, 2.25, 1000, 1000], rtol=1e-4, atol=1e-6)
    config = barrier.Config(tolerance=0.02)
    begun = [float(barrier.ceiling(config, 0.2, done)) for done in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(begun, [1.02, (1.02 + 0.2) / 2, 0.2], rtol=1e-5)
    sinking = np.asarray(barrier.ceiling(config, 0.2, np.linspace(0, 1, 50)))
    assert (np.diff(sinking) < 0).all()


def test_the_loss_of_the_barrier_written_out(problem):
    """Labels, the dense network's answers and the expected cost, each with its weight."""
    config = barrier.Config(distill=0.3, distill_temperature=2.0, strength=0.5, epochs=4)
    plan = a_plan(problem, config)
    material = problem.trainer.material
    learner = barrier.init(config, problem, KEY).learner
    learner = learner._replace(variables=problem.trainer.initial(KEY))
    batch = Batch(flatten(jnp.asarray(material.train[0][:32])), jnp.asarray(material.train[1][:32]))
    step = Step(batch, batch, jnp.int32(20), KEY, material.dense)  # half of the training
    _, loss = barrier.METHOD.step(plan, material.function, learner, step)

    uniform = jax.random.uniform(KEY, (20,), minval=1e-6, maxval=1 - 1e-6)
    gates = hard_concrete.draw(learner.gates, uniform)
    logits = np.asarray(material.function(learner.variables, gates, batch.x)[0], np.float64)
    answers = Small().apply(material.dense, batch.x)
    label_loss = -jax.nn.log_softmax(logits)[np.arange(32), batch.y].mean()
    p, q = np.asarray(jax.nn.softmax(answers / 2)), np.asarray(jax.nn.softmax(logits / 2))
    distance = 4 * (p * np.log(p / q)).sum(1).mean()
    chance = hard_concrete.open_probability(learner.gates).mean()
    # All gates are open: 1; the ceiling is at (1.01 + 0.5) / 2, so the barrier at its highest.
    expected = 0.7 * label_loss + 0.3 * distance + 0.5 * 1000 * chance
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("multipliers", ["admm", "surrogate"])
def test_admm_pulls_the_weights_towards_a_copy_within_the_budget(problem, multipliers):
    config = admm.Config(epochs=12, strength=0.1, multipliers=multipliers)
    result = admm.search(config, problem, KEY)
    learner = result.state.learner
    copy = learner.optimizer[0].copy
    kernels = [np.asarray(copy[name]["kernel"]) for name in ("hidden", "out")]
    alive = np.concatenate([kernel.any(1) for kernel in kernels])
    assert alive.sum() == 10  # of 20 neurons, half
    np.testing.assert_array_equal(alive, result.mask)
    weights = [np.asarray(learner.variables["params"][n]["kernel"]) for n in ("hidden", "out")]
    sizes = np.concatenate([np.sqrt((w**2).mean(1)) for w in weights])
    assert sizes[~alive].max() < 0.5 * np.median(sizes[alive])
    assert int(optim.sparsity(learner.variables["params"]).zeros["out"]["kernel"]) == 0


def test_the_copy_of_admm_by_hand(problem):
    """Ten of twenty channels stay: those with the largest root mean squares."""
    params = problem.trainer.initial(KEY)["params"]
    plan = a_plan(problem, admm.Config())._replace(allowed=problem.allowed)
    found = admm.project(plan, params, 1.0, 1.0)
    kernels = [np.asarray(params[name]["kernel"]) for name in ("hidden", "out")]
    sizes = np.concatenate([np.sqrt((kernel**2).mean(1)) for kernel in kernels])
    keep = sizes >= np.sort(sizes)[-10]
    for name, kernel, kept in zip(("hidden", "out"), kernels, (keep[:12], keep[12:]), strict=True):
        np.testing.assert_array_equal(found[name]["kernel"], kernel * kept[:, None])
        np.testing.assert_array_equal(found[name]["bias"], params[name]["bias"])


def test_larger_groups_pay_more_in_group_lasso(problem):
    """A step with nothing to learn: norms fall by rate * strength * root of the group's size."""
    plan = a_plan(problem, group_lasso.Config())
    variables = problem.trainer.initial(KEY)
    before = group_sparsity.norms(plan, variables)
    after = group_sparsity.norms(plan, group_lasso._shrink(plan, variables, jnp.float32(0.01)))
    roots = np.array([8**0.5] * 12 + [3**0.5] * 8)
    np.testing.assert_allclose(before - after, 0.01 * roots, atol=1e-6)


# --- errors --------------------------------------------------------------------------------------


def test_without_data_it_says_what_is_missing(problem):
    for trainer in (None, problem.trainer._replace(material=None)):
        with pytest.raises(UserError, match="this problem has no data for"):
            group_lasso.init(group_lasso.Config(), problem._replace(trainer=trainer), KEY)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (hard_concrete, {"epochs": 0}, "epochs must be at least 1, not 0"),
        (hard_concrete, {"strength": -1.0}, "strength must not be negative, not -1.0"),
        (hard_concrete, {"strength_rate": 0.0}, "strength_rate must be positive, not 0.0"),
        (hard_concrete, {"drop_rate": 1.0}, r"drop_rate must lie in \(0, 1\), not 1.0"),
        (hard_concrete, {"gate_learning_rate": 0.0}, "gate_learning_rate must be positive"),
        (autoprune, {"initial_gate": -1.0}, "initial_gate must be positive, not -1.0"),
        (cges, {"first_mu": 1.5}, r"first_mu must lie in \[0, 1\], not 1.5"),
        (barrier, {"distill": 1.5}, r"distill must lie in \[0, 1\], not 1.5"),
        (barrier, {"margin": 0.0}, "margin must be positive, not 0.0"),
        (admm, {"strength": 0.0}, "strength must be positive, not 0.0"),
        (admm, {"multipliers": "slr"}, "multipliers must be .*admm, surrogate.*"),
    ],
)
def test_bad_settings_are_refused(method, settings, message):
    with pytest.raises(ValueError, match=message):
        method.Config(**settings)


def test_learner_is_arrays_alone(problem):
    state = autoprune.init(autoprune.Config(), problem, KEY)
    assert isinstance(state.learner, Learner)
    assert all(
        isinstance(leaf, np.ndarray | jax.Array | np.integer) for leaf in jax.tree.leaves(state)
    )
