"""One call from a trained network to a smaller one."""

import inspect
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jaxprune
from jaxprune import Kept, Limits, UserError, costs


class Network(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        for width in (8, 12):
            x = nn.Conv(width, (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(3)(x.mean((1, 2)))


NETWORK = Network()
X = jax.random.normal(jax.random.key(1), (6, 8, 8, 2))
VARIABLES = NETWORK.init(jax.random.key(0), X)
LABELS = jnp.array([0, 1, 2, 0, 1, 2])


def test_a_linen_network_with_batch_norm():
    small = jaxprune.prune(NETWORK.apply, VARIABLES, X, cost="macs", budget=0.5, importance="l1")
    structure = jaxprune.trace(NETWORK.apply, VARIABLES, X)
    again = jaxprune.trace(small, small.params, X)
    left = costs.dense(again, "macs") / costs.dense(structure, "macs")
    assert 0.35 < left <= 0.5
    masks = {name: mask.astype(np.float32) for name, mask in small.masks.items()}
    expected = jaxprune.masked(NETWORK.apply, structure)(VARIABLES, masks, X)
    np.testing.assert_allclose(small(small.params, X), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_example_of_the_docstring_runs(capsys):
    text = inspect.getdoc(jaxprune.prune).split("::\n", 1)[1].split("\nThe result is", 1)[0]
    exec(textwrap.dedent(text), {"__name__": "example"})
    assert capsys.readouterr().out == "{'Conv_0': 16}\n"


def test_it_removes_the_least_important_channels():
    """The first kernel's filters are scaled by known factors; half of that group must go."""
    factors = jnp.array([5.0, 1, 6, 2, 7, 3, 8, 4])
    kernel = jnp.ones_like(VARIABLES["params"]["Conv_0"]["kernel"]) * factors
    variables = jax.tree.map(jnp.asarray, VARIABLES)
    variables["params"]["Conv_0"]["kernel"] = kernel
    limits = Limits(groups={"Conv_0": Kept(most=4), "Conv_1": Kept(least=1.0)})
    small = jaxprune.prune(NETWORK.apply, variables, X, "neurons", 0.8, limits=limits)
    np.testing.assert_array_equal(small.masks["Conv_0"], [1, 0, 1, 0, 1, 0, 1, 0])
    assert small.widths == {"Conv_0": 4, "Conv_1": 12}
    np.testing.assert_array_equal(
        small.params["params"]["Conv_0"]["kernel"][0, 0, 0], [5.0, 6.0, 7.0, 8.0]
    )


def test_limits_scope_and_ignored_layers():
    # Conv_1 goes from 12 to 8 channels first (1/6 before 1/4), which leaves 779 of 1,087.
    options = {"cost": "params", "scope": "uniform", "limits": Limits(round_to=4)}
    small = jaxprune.prune(NETWORK.apply, VARIABLES, X, budget=779 / 1087, **options)
    assert small.widths == {"Conv_0": 8, "Conv_1": 8}
    assert sum(leaf.size for leaf in jax.tree.leaves(small.params["params"])) == 779
    small = jaxprune.prune(NETWORK.apply, VARIABLES, X, budget=778 / 1087, **options)
    assert small.widths == {"Conv_0": 4, "Conv_1": 8}
    small = jaxprune.prune(NETWORK.apply, VARIABLES, X, budget=0.6, **options, ignore=("Conv_0",))
    assert small.widths == {"Conv_1": 4}


def cross_entropy(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def test_taylor_by_loss_and_by_gradients():
    by_loss = jaxprune.prune(
        NETWORK.apply, VARIABLES, X, importance="taylor", scope="raw", loss=cross_entropy
    )
    gradients = jax.grad(lambda v: cross_entropy(NETWORK.apply(v, X)))(VARIABLES)
    by_gradients = jaxprune.prune(
        NETWORK.apply, VARIABLES, X, importance="taylor", scope="raw", gradients=gradients
    )
    for name, mask in by_loss.masks.items():
        np.testing.assert_array_equal(mask, by_gradients.masks[name])


def test_an_importance_of_ones_own():
    def last_first(structure, params):
        return -jnp.arange(structure.num_channels)

    small = jaxprune.prune(NETWORK.apply, VARIABLES, X, "neurons", 0.5, last_first, scope="uniform")
    np.testing.assert_array_equal(small.masks["Conv_0"], [1, 1, 1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(small.masks["Conv_1"], [1] * 6 + [0] * 6)


def test_fine_tuning_in_training_mode():
    """What the docstring says: another mode of the network is made small by the same masks."""

    def apply_train(variables, x):
        return NETWORK.apply(variables, x, train=True, mutable=["batch_stats"])

    small = jaxprune.prune(NETWORK.apply, VARIABLES, X)
    structure = jaxprune.trace(NETWORK.apply, VARIABLES, X)
    train = jaxprune.compact(apply_train, structure, VARIABLES, small.masks)
    logits, state = train(small.params, X)
    assert logits.shape == (6, 3)
    mean = state["batch_stats"]["BatchNorm_0"]["mean"]
    assert mean.shape == (small.widths["Conv_0"],)


def test_errors_come_before_the_work():
    def never(structure, params):
        raise AssertionError("scored although the request cannot work")

    for options, message in [
        ({"limits": Limits(groups={"conv": Kept()})}, "'conv' matches no group"),
        ({"cost": "flops"}, "unknown cost"),
        ({"budget": 2.0}, "budget 2 is outside"),
        ({"scope": "all"}, "unknown scope"),
    ]:
        with pytest.raises(UserError, match=message):
            jaxprune.prune(NETWORK.apply, VARIABLES, X, importance=never, **options)
    for options, message in [
        ({"ignore": ["*"]}, r"no channels that can be removed \(ignored by '\*'; "),
        ({"budget": float("nan")}, "budget nan is outside"),
        ({"budget": "half"}, "budget is 'half', which is no number"),
    ]:
        with pytest.raises(UserError, match=message):
            jaxprune.prune(NETWORK.apply, VARIABLES, X, importance=never, **options)
    with pytest.raises(UserError, match=r"budget 1 removes nothing: .* such as 0\.5"):
        jaxprune.prune(NETWORK.apply, VARIABLES, X, budget=1.0)
    with pytest.raises(UserError, match="unknown importance 'l3'"):
        jaxprune.prune(NETWORK.apply, VARIABLES, X, importance="l3")
    with pytest.raises(UserError, match="'taylor' needs loss"):
        jaxprune.prune(NETWORK.apply, VARIABLES, X, importance="taylor")
