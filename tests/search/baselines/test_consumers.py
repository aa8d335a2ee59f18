"""The weights that leave a channel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import importance, masked, trace
from jaxprune.networks import bundled
from jaxprune.search.baselines import consumers


def two_layers(params, x):
    return jax.nn.relu(x @ params["first"]) @ params["second"]


PARAMS = {
    "first": jnp.array([[1.0, -2.0], [3.0, 4.0], [0.0, 5.0]]),
    "second": jnp.array([[1.0, -1.0], [2.0, 7.0]]),
}


@pytest.fixture
def structure():
    return trace(two_layers, PARAMS, jnp.ones((4, 3)), prune_inputs=True)


def test_axes_are_those_that_layers_read(structure):
    assert importance.reading_axes(structure) == [(0, 0), (1, 0)]


def test_totals_by_hand(structure):
    absolute = jax.tree.map(jnp.abs, PARAMS)
    np.testing.assert_array_equal(consumers.totals(structure, absolute), [3, 7, 5, 2, 9])


def test_numbers_are_spread_over_the_weights_that_leave(structure):
    spread = consumers.spread(structure, PARAMS, jnp.arange(1.0, 6.0), default=0.5)
    np.testing.assert_array_equal(spread["first"], [[1], [2], [3]])
    np.testing.assert_array_equal(spread["second"], [[4], [5]])


def test_weights_that_read_no_channel_get_the_default():
    structure = trace(two_layers, PARAMS, jnp.ones((4, 3)))
    spread = consumers.spread(structure, PARAMS, jnp.array([4.0, 5.0]), default=0.5)
    assert spread["first"] == 0.5
    np.testing.assert_array_equal(spread["second"], [[4], [5]])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lenet300", (8, 8, 1)),
        ("cnn", (8, 8, 1)),
        pytest.param("resnet20", (8, 8, 3), marks=pytest.mark.slow),
    ],
)
def test_scaled_weights_do_what_scaled_channels_do(name, shape):
    network = bundled.build(name, shape)
    variables = network.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (2, 64) if network.flat else (2, *shape))
    structure = trace(network.apply, variables, x, prune_inputs=network.flat)
    factors = jax.random.uniform(jax.random.key(2), (structure.num_channels,), minval=0.5)
    expected = masked(network.apply, structure)(variables, structure.unflatten(factors), x)
    actual = network.apply(consumers.scale(structure, variables, factors), x)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    assert float(jnp.abs(network.apply(variables, x) - expected).max()) > 1e-2
