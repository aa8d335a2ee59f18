"""What holds for all methods that choose widths: budgets of every kind, and going on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxprune
from jaxprune.files import checkpoint
from jaxprune.search import methods
from jaxprune.search.problem import shares

KEY = jax.random.PRNGKey(2)
SETTINGS = {
    "sensitivity": {"iterations": 3, "points": 3},
    "knapsack": {"iterations": 3, "points": 3},
    "evolution": {"candidates": 40, "batch": 8, "population": 16, "points": 3},
}
SIZES = (7, 6)


def weighted(network) -> float:
    """A cost that is known only of the compact network, and is no sum over groups."""
    first, second = network.widths.values()
    return 5.0 * first * second + second


@functools.cache  # so that the methods share what was compiled
def a_problem(cost, budget):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(5, 7), (7, 6), (6, 3)]
    params = {
        f"layer{i}": jax.random.normal(key, shape)
        for i, (key, shape) in enumerate(zip(keys, shapes, strict=False))
    }

    def apply(params, x):
        x = jax.nn.relu(x @ params["layer0"])
        return jax.nn.relu(x @ params["layer1"]) @ params["layer2"]

    x = jax.random.normal(keys[3], (32, 5))
    batch = x, apply(params, x).argmax(-1)
    structure = jaxprune.trace(apply, params, x)
    return jaxprune.make_problem(apply, structure, params, batch, batch, cost=cost, budget=budget)


def check(problem, archive):
    """Everything that was chosen is within every budget, whole groups apart from none."""
    chosen = archive.masks[archive.cost <= problem.budget]
    assert len(chosen)
    within = shares(problem, chosen) <= problem.limits + 1e-6
    assert within.all()
    assert (np.add.reduceat(archive.masks, [0, SIZES[0]], axis=1) >= 1).all()


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize(
    ("cost", "budget"),
    [
        ("macs", 0.3),
        (("macs", "params"), (0.5, "=30")),
        (weighted, 0.4),
        pytest.param("latency", 1.0, marks=pytest.mark.slow),
    ],
)
def test_budgets_of_every_kind(method, cost, budget) -> None:
    problem = a_problem(cost, budget)
    module = methods.get(method)
    found = module.search(module.Config(**SETTINGS[method]), problem, KEY)
    check(problem, found.archive)
    assert (shares(problem, found.mask[None]) <= problem.limits + 1e-6).all()


@settings(deadline=None, max_examples=2)  # each compiles
@given(budget=st.floats(0.1, 1))
def test_every_budget_is_met(budget) -> None:
    problem = a_problem("macs", budget)
    for method, chosen in SETTINGS.items():
        module = methods.get(method)
        check(problem, module.search(module.Config(**chosen), problem, KEY).archive)


@pytest.mark.parametrize("method", SETTINGS)
def test_resuming_from_a_checkpoint_continues_bit_for_bit(method, tmp_path) -> None:
    problem = a_problem("macs", 0.3)
    module = methods.get(method)
    config = module.Config(**SETTINGS[method])
    whole = module.search(config, problem, KEY)
    first = module.init(config, problem, KEY)
    state, _ = module.update(config, problem, first)
    checkpoint.save(tmp_path / "state", state)
    state = checkpoint.load(tmp_path / "state", like=first)
    resumed = module.search(config, problem, jax.random.PRNGKey(99), state=state)
    for expected, found in zip(whole.archive, resumed.archive, strict=True):
        np.testing.assert_array_equal(expected, found)
    again = module.search(config, problem, KEY)
    np.testing.assert_array_equal(whole.archive.masks, again.archive.masks)


@pytest.mark.parametrize("method", SETTINGS)
def test_a_budget_out_of_reach_is_refused(method, known_problem) -> None:
    problem = known_problem((2, 3), budget=0.35, accuracy=lambda mask: jnp.mean(mask))
    module = methods.get(method)
    with pytest.raises(ValueError, match=r"budget 0\.35 cannot be met"):
        module.search(module.Config(), problem, KEY)
