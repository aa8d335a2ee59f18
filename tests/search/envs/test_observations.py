"""What layerwise agents see, against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune
from jaxprune import costs
from jaxprune.networks import bundled
from jaxprune.search.envs import observations


@pytest.fixture(scope="module")
def dense_network():
    """Input 4 -> 6 -> 2 with biases; input features are prunable."""
    params = {
        "first": {"kernel": jnp.ones((4, 6)), "bias": jnp.ones(6)},
        "last": {"kernel": jnp.ones((6, 2)), "bias": jnp.ones(2)},
    }

    def apply(params, x):
        x = jax.nn.relu(x @ params["first"]["kernel"] + params["first"]["bias"])
        return x @ params["last"]["kernel"] + params["last"]["bias"]

    structure = jaxprune.trace(apply, params, jnp.ones((1, 4)), prune_inputs=True)
    assert [group.size for group in structure.groups] == [4, 6]
    return structure


def neurons(structure):
    def cost(mask):
        return costs.neurons(structure, structure.unflatten(mask)) / structure.num_channels

    return cost


def see(kind, structure, step, values, previous=0.0, limit=0.5):
    observe = observations.observer(kind, structure, neurons(structure))
    numbers = jnp.int32(step), jnp.asarray(values, jnp.float32), previous, limit
    seen = np.asarray(jax.jit(observe)(*numbers))
    assert seen.shape == (len(observations.ENTRIES[kind]),)
    return seen


def test_acnn_sees_index_neurons_and_parameters(dense_network):
    total = 4 * 6 + 6 + 6 * 2 + 2  # 44
    whole = np.ones(10)
    # Nothing is settled but the biases of the outputs; 24 weights read the input features.
    first = [0, 4 / 6, 2 / total, 24 / total]
    np.testing.assert_allclose(see("acnn", dense_network, 0, whole), first, rtol=1e-6)
    # With 3 of 4 features gone: the hidden layer has 6 + 6 + 12 parameters left.
    less = np.r_[np.zeros(3), np.ones(7)]
    second = [0.5, 1, 2 / total, (6 + 6 + 12) / total]
    np.testing.assert_allclose(see("acnn", dense_network, 1, less), second, rtol=1e-6)


def test_amc_sees_ten_entries_scaled_over_the_layers(dense_network):
    less = np.r_[np.zeros(3), np.ones(7)]
    seen = see("amc", dense_network, 1, less, previous=0.75)
    # index, convolution (none is), inputs (both 4), outputs, stride, kernel (all 1), parameters,
    # reduced: 3 of 10 neurons; rest: 12 of the 36 multiply-adds; previous action.
    wanted = [1, 0, 0, 1, 0, 0, 1, 0.3, 12 / 36, 0.75]
    np.testing.assert_allclose(seen, wanted, rtol=1e-6)
    start = see("amc", dense_network, 0, np.ones(10))
    np.testing.assert_allclose(start, [0, 0, 0, 0, 0, 0, 0, 0, 1, 0], atol=1e-6)


def test_cacp_sees_the_target_too(dense_network):
    less = np.r_[np.zeros(3), np.ones(7)]
    seen = see("cacp", dense_network, 1, less, previous=0.75, limit=0.3)
    assert seen[0] == np.float32(0.3)
    np.testing.assert_array_equal(seen[1:], see("amc", dense_network, 1, less, previous=0.75))


def test_columns_of_a_convolutional_network():
    network = bundled.build("lenet5", (28, 28, 1), 10)
    variables = jax.eval_shape(network.init, jax.random.PRNGKey(0))
    inputs = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
    structure = jaxprune.trace(network.apply, variables, inputs)
    table = observations.attributes(structure)
    # conv1 1 -> 20 (5x5, 520 parameters), conv2 20 -> 50 (25,050), fc1 800 -> 500 (400,500).
    total = 288_000 + 1_600_000 + 400_000 + 5_000
    wanted = [
        [0, 1, 0, 0, 0, 1, 0, (1_600_000 + 405_000) / total],
        [0.5, 1, 19 / 799, 30 / 480, 0, 1, 24_530 / 399_980, 405_000 / total],
        [1, 0, 1, 1, 0, 0, 1, 5_000 / total],
    ]
    np.testing.assert_allclose(table, wanted, rtol=1e-5)
    kinds = [observations.is_convolution(structure, group) for group in range(3)]
    assert kinds == [True, True, False]


def test_an_unknown_observation_is_named(dense_network):
    with pytest.raises(ValueError, match="unknown observation 'all'; it is one of acnn, amc, cacp"):
        observations.observer("all", dense_network, neurons(dense_network))
