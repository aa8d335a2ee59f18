"""The reconstruction criterion: against least squares, one removal after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxprune
from jaxprune import importance
from jaxprune.importance.reconstruction import BLOCK, _removal_errors

DAMPING = 1e-6


def network(params, x):
    return jnp.tanh(x @ params["hidden"]) @ params["out"]


@pytest.fixture(scope="module")
def case():
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "hidden": jax.random.normal(keys[0], (4, 6)),
        "out": jax.random.normal(keys[1], (6, 3)),
    }
    x = jax.random.normal(keys[2], (200, 4))
    return params, x, jaxprune.trace(network, params, x)


def least_squares(read, weights, left):
    """The mean squared error of the best approximation of `read @ weights` by some columns."""
    wanted = read @ weights
    kept = read[:, sorted(left)]
    solution, *_ = np.linalg.lstsq(kept, wanted, rcond=None)
    return ((wanted - kept @ solution) ** 2).sum(1).mean()


def test_scores_are_the_errors_of_greedy_least_squares(case):
    params, x, structure = case
    scores = importance.reconstruction(structure, network, params, x, damping=DAMPING)
    read = np.asarray(jnp.tanh(x @ params["hidden"]), np.float64)
    read -= read.mean(0)
    weights, left, expected = np.asarray(params["out"], np.float64), set(range(6)), np.zeros(6)
    while left:
        errors = {
            gone: least_squares(read, weights, left - {gone})
            if len(left) > 1
            else ((read @ weights) ** 2).sum(1).mean()
            for gone in left
        }
        gone = min(errors, key=errors.get)
        expected[gone] = errors[gone]
        left.remove(gone)
    np.testing.assert_allclose(scores, expected, rtol=2e-3, atol=1e-4)


def test_of_two_equal_channels_one_goes_first_whatever_its_weights(case):
    params, x, structure = case
    twins = {
        "hidden": params["hidden"].at[:, 3].set(params["hidden"][:, 1]),
        "out": params["out"].at[1].multiply(10.0).at[3].multiply(10.0),
    }
    scores = np.asarray(importance.reconstruction(structure, network, twins, x, damping=1e-4))
    first, second = sorted([scores[1], scores[3]])
    assert first == scores.min() < 0.05 * second
    assert np.asarray(importance.l2(structure, twins)).argmin() not in (1, 3)


@pytest.mark.slow
def test_a_flattened_map_is_compared_place_by_place():
    class Flattened(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(5, (3, 3), name="conv")(x))
            return nn.Dense(4, name="out")(x.reshape(len(x), -1))

    module = Flattened()
    x = jax.random.normal(jax.random.key(1), (40, 3, 3, 2))
    variables = module.init(jax.random.key(2), x)
    structure = jaxprune.trace(module.apply, variables, x)
    (covariance,) = jaxprune.dependency.second_moments(
        module.apply, structure, variables, x, centred=True
    )
    kernel = variables["params"]["conv"]
    read = nn.relu(
        jax.lax.conv_general_dilated(
            x, kernel["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        + kernel["bias"]
    )
    read = np.asarray(read, np.float64).reshape(40, 9, 5)
    read -= read.mean(0)
    expected = np.einsum("bpi,bpj->ij", read, read) / 40
    np.testing.assert_allclose(covariance, expected, rtol=1e-4, atol=1e-5)
    scores = importance.reconstruction(structure, module.apply, variables, x)
    assert scores.shape == (5,)
    assert len(np.unique(scores)) == 5


def test_chunks_are_averaged(case):
    params, x, structure = case

    def scores(x, chunk=100):
        return importance.reconstruction(structure, network, params, x, chunk=chunk)

    repeated = jnp.concatenate([x[:100], x[:100]])
    np.testing.assert_allclose(scores(repeated), scores(x[:100]), rtol=1e-4)
    np.testing.assert_array_equal(scores(x[:150]), scores(x[:100]))
    swapped = jnp.concatenate([x[100:], x[:100]])
    np.testing.assert_allclose(scores(swapped), scores(x), rtol=1e-4)
    assert not np.allclose(scores(x), scores(x[:100]), rtol=1e-2)


def test_damping_must_be_positive(case):
    params, x, structure = case
    with pytest.raises(ValueError, match=r"damping is 0\.0, but must be above 0"):
        importance.reconstruction(structure, network, params, x, damping=0.0)


def test_blocks_of_removals_are_removals_one_by_one():
    size = 2 * BLOCK + 17  # two whole blocks and a part
    keys = jax.random.split(jax.random.key(0))
    seen = jax.random.normal(keys[0], (3 * size, size))
    read = jax.random.normal(keys[1], (size, 5))
    covariance, products = seen.T @ seen / len(seen), read @ read.T
    found = _removal_errors(covariance, products, 0.1)

    scale = np.trace(np.asarray(covariance, np.float64)) / size
    inverse = np.linalg.inv(np.asarray(covariance, np.float64) / scale + 0.1 * np.eye(size))
    weights = np.asarray(read, np.float64)
    left, total, errors = list(range(size)), 0.0, np.zeros(size)
    while left:
        rises = [weights[i] @ weights[i] / inverse[i, i] for i in left]
        worst = left.pop(int(np.argmin(rises)))
        total += min(rises)
        errors[worst] = total * scale
        share = inverse[:, worst] / inverse[worst, worst]
        weights -= np.outer(share, weights[worst])
        inverse -= np.outer(share, inverse[worst])
    np.testing.assert_array_equal(np.argsort(found), np.argsort(errors))
    np.testing.assert_allclose(found, errors, rtol=1e-3)
