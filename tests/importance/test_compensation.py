"""Compensation: least squares by hand, and networks that do better without training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxprune


def network(params, x):
    return jnp.tanh(x @ params["hidden"]) @ params["out"]


@pytest.fixture(scope="module")
def case():
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "hidden": jax.random.normal(keys[0], (4, 8)),
        "out": jax.random.normal(keys[1], (8, 3)),
    }
    x = jax.random.normal(keys[2], (200, 4))
    return params, x, jaxprune.trace(network, params, x)


MASKS = {"hidden": np.array([1, 0, 1, 1, 0, 1, 0, 1], np.float32)}


def test_the_weights_are_those_of_least_squares(case):
    params, x, structure = case
    adjusted = jaxprune.compensate(network, structure, params, MASKS, x, damping=1e-7)
    read = np.tanh(np.asarray(x, np.float64) @ np.asarray(params["hidden"], np.float64))
    keep = MASKS["hidden"] > 0
    wanted = read @ np.asarray(params["out"], np.float64)
    solution, *_ = np.linalg.lstsq(read[:, keep], wanted, rcond=None)
    np.testing.assert_allclose(adjusted["out"][keep], solution, rtol=1e-2, atol=2e-3)
    np.testing.assert_array_equal(adjusted["out"][~keep], 0)
    np.testing.assert_array_equal(adjusted["hidden"], params["hidden"])


def test_full_masks_change_nothing(case):
    params, x, structure = case
    adjusted = jaxprune.compensate(network, structure, params, structure.full_masks(), x)
    jax.tree.map(np.testing.assert_array_equal, adjusted, params)


class Convolutional(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(12, (3, 3), name="first")(x))
        y = nn.relu(nn.Conv(12, (3, 3), name="second")(x))
        x = nn.relu(x + nn.Conv(12, (1, 1), name="third")(y))
        return nn.Dense(5, name="out")(x.reshape(len(x), -1))


@pytest.mark.slow
def test_a_residual_network_with_flattened_maps_does_better():
    module = Convolutional()
    x = jax.random.normal(jax.random.key(1), (64, 6, 6, 3))
    variables = module.init(jax.random.key(2), x)
    structure = jaxprune.trace(module.apply, variables, x)
    masks = {
        group.name: (np.arange(group.size) % 3 > 0).astype(np.float32) for group in structure.groups
    }
    adjusted = jaxprune.compensate(module.apply, structure, variables, masks, x, chunk=32)
    fresh = jax.random.normal(jax.random.key(3), (64, 6, 6, 3))
    wanted = module.apply(variables, fresh)

    def error(params):
        small = jaxprune.compact(module.apply, structure, params, masks)
        return float(jnp.square(small(small.params, fresh) - wanted).mean())

    assert error(adjusted) < 0.7 * error(variables)


def test_damping_must_be_positive(case):
    params, x, structure = case
    with pytest.raises(ValueError, match=r"damping is 0, but must be above 0"):
        jaxprune.compensate(network, structure, params, MASKS, x, damping=0)
