"""What numpy can read, and what stays JAX's."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import compact, trace
from jaxprune.dependency.concrete import fetch, is_concrete, namespace, put

PARAMS = {
    "first": jnp.arange(12.0).reshape(3, 4),
    "scale": jnp.arange(4, dtype=jnp.bfloat16),
    "last": jnp.arange(8.0).reshape(4, 2),
    "shift": jnp.ones(2),
}
MASKS = {"first": np.array([0, 1, 1, 0])}


def apply(params, x):
    return (x @ params["first"] * params["scale"]) @ params["last"] + params["shift"]


def small_params(params):
    structure = trace(apply, params, jax.ShapeDtypeStruct((1, 3), jnp.float32))
    return compact(apply, structure, params, MASKS).params


def test_arrays_and_numbers_are_numpys_keys_and_traced_values_are_not():
    known = [np.ones(2), jnp.ones(2), 3, True, np.float32(1)]
    assert is_concrete(known)
    assert namespace(known) is np
    key = jax.random.key(0)
    assert is_concrete(key)
    assert namespace(key) is jnp
    assert not is_concrete([jax.ShapeDtypeStruct((), jnp.float32)])

    def inside(value):
        assert not is_concrete(value)
        assert namespace([value, *known]) is jnp
        assert fetch([value])[0] is value
        assert put(value) is value
        return value

    jax.eval_shape(inside, 1.0)


def test_arrays_are_put_where_the_original_is():
    array = jax.device_put(jnp.ones(2), jax.devices()[-1])
    assert array.committed
    found = put(np.zeros(3, np.float32), array)
    assert found.committed
    assert found.sharding == array.sharding
    assert not put(np.zeros(3, np.float32), jnp.ones(2)).committed
    assert put(array) is array


def test_parameters_are_cut_alike_inside_jit_and_outside():
    found = small_params(PARAMS)
    np.testing.assert_array_equal(found["first"], [[1, 2], [5, 6], [9, 10]])
    np.testing.assert_array_equal(found["last"], [[2, 3], [4, 5]])
    np.testing.assert_array_equal(found["scale"], [1, 2])
    assert found["scale"].dtype == jnp.bfloat16
    assert found["shift"] is not PARAMS["shift"]  # either may be donated
    traced = jax.jit(small_params)(PARAMS)
    for name, leaf in found.items():
        np.testing.assert_array_equal(leaf, traced[name])


def test_a_gradient_flows_to_the_parameters_that_were_cut():
    slope = jax.grad(lambda params: small_params(params)["first"].sum())(PARAMS)["first"]
    np.testing.assert_array_equal(slope, np.tile([0.0, 1.0, 1.0, 0.0], (3, 1)))
