"""Counting exact zeros and empty groups."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune.optim import observe_sparsity, prox, proximal_sgd, sparsity


def example():
    kernel = np.ones((3, 3, 2, 4), np.float32)
    kernel[..., 1] = 0.0
    kernel[0, 0, 0, 2] = -0.0
    return {"kernel": jnp.asarray(kernel), "bias": jnp.array([0.0, 0.0, 1e-30, 1.0]), "n": None}


def test_counts_by_hand():
    seen = sparsity(example())
    assert seen.zeros == {"kernel": 19, "bias": 2, "n": None}
    assert seen.zero_groups == {"kernel": 1, "bias": 2, "n": None}
    assert seen.fraction == pytest.approx(21 / 76)
    assert seen.group_fraction == pytest.approx(3 / 8)


def test_axis_says_what_a_group_is():
    kernel = {"kernel": example()["kernel"]}
    assert sparsity(kernel, axis=(0, 1)).zero_groups["kernel"] == 2
    assert sparsity(kernel, axis=-1).zero_groups["kernel"] == 0
    with pytest.raises(ValueError, match=r"axis=\(0, 1\), but a leaf has shape \(4,\)"):
        sparsity(example(), axis=(0, 1))


def test_empty_trees_and_scalars():
    assert sparsity({}).fraction == 0.0
    assert sparsity({"a": jnp.zeros((0, 3))}).fraction == 0.0
    assert sparsity({"a": jnp.array(0.0)}).zero_groups["a"] == 1


def test_state_is_the_sparsity_of_the_parameters_to_come():
    columns = functools.partial(prox.group_l2, axis=0)
    optimizer = optax.chain(proximal_sgd(0.5, columns, 1.0), observe_sparsity())
    params = {"kernel": jnp.array([[1.0, 0.1], [1.0, 0.1]])}
    state = optimizer.init(params)
    assert state[-1].fraction == 0.0

    @jax.jit
    def step(params, state):
        gradients = jax.tree.map(jnp.zeros_like, params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    params, state = step(params, state)
    np.testing.assert_array_equal(params["kernel"][:, 1], 0.0)
    assert state[-1] == sparsity(params)
    assert state[-1].zero_groups == {"kernel": 1}
    assert state[-1].group_fraction == 0.5


def test_missing_params():
    transform = observe_sparsity()
    with pytest.raises(ValueError, match="not passing `params`"):
        transform.update(jnp.ones(2), transform.init(jnp.ones(2)))
