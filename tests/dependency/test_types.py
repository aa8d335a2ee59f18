"""Parameters of every type that JAX has: counted, scored, masked and compacted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune
from jaxprune import costs, importance

REAL = ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz")
QUANTISED = ("int4", "uint4", "int8", "uint8", "int32")
WIDE = jnp.float32


def kernel(seed, shape, dtype):
    """Small numbers that every type holds exactly."""
    values = np.random.default_rng(seed).integers(-3 if dtype[0] != "u" else 0, 4, shape)
    if dtype == "complex64":
        values = values + 1j * np.random.default_rng(seed + 9).integers(-3, 4, shape)
    return jnp.asarray(values.astype(np.complex64 if dtype == "complex64" else WIDE), dtype)


def network(dtype):
    """A network (apply, params, x) of 4 and 5 channels, with what else trees of parameters hold."""
    kernels = {name: kernel(i, s, dtype) for i, (name, s) in enumerate(SHAPES.items())}
    rest = {
        "key": jax.random.key(3),
        "step": jnp.int32(2),
        "seen": jnp.ones((4,), bool),
        "order": jnp.array([[2, 0, 1]]),
    }

    def apply(params, x):
        wide = jnp.complex64 if dtype == "complex64" else WIDE
        a, b, o = (params[name].astype(wide) for name in SHAPES)
        x = x[:, params["order"][0]]
        noise = jax.random.normal(jax.random.fold_in(params["key"], params["step"]), (4,))
        h = jnp.where(params["seen"], x @ a + noise, 0.0)
        h = h / jnp.sqrt(1 + (abs(h) ** 2).mean(-1, keepdims=True))
        return abs(jnp.tanh(h) @ b) @ o

    return apply, {**kernels, **rest}, jnp.asarray(np.random.default_rng(7).normal(size=(6, 3)))


SHAPES = {"a": (3, 4), "b": (4, 5), "o": (5, 2)}
MASKS = {"a": np.array([1, 0, 1, 1]), "b": np.array([1, 1, 0, 0, 1])}
COUNT = 3 * 4 + 4 * 5 + 5 * 2


@pytest.mark.parametrize("dtype", [*REAL, *QUANTISED, "complex64"])
def test_every_type_is_counted_scored_masked_and_compacted(dtype):
    apply, params, x = network(dtype)
    structure = jaxprune.trace(apply, params, x)
    assert {group.name: group.size for group in structure.groups} == {"a": 4, "b": 5}
    assert costs.counting.dense(structure, "params") == COUNT
    np.testing.assert_allclose(
        importance.l1(structure, params),
        np.concatenate([abs(np.asarray(params[k], np.complex64)).sum(0) for k in "ab"]),
        rtol=1e-6,
    )
    small = jaxprune.compact(apply, structure, params, MASKS)
    assert small.params["b"].dtype == params["b"].dtype
    np.testing.assert_array_equal(
        np.asarray(small.params["b"]), np.asarray(params["b"])[MASKS["a"] > 0][:, MASKS["b"] > 0]
    )
    np.testing.assert_array_equal(small.params["seen"], [True] * 3)
    expected = jaxprune.masked(apply, structure)(params, MASKS, x)
    np.testing.assert_allclose(small(small.params, x), expected, rtol=1e-5, atol=1e-5)
    half = jaxprune.prune(apply, params, x, cost="params", budget=0.5)
    assert sum(half.params[name].size for name in SHAPES) <= COUNT // 2


def by_hand(criterion, structure, params):
    """The scores of complex kernels, in NumPy's own arithmetic."""
    a, b = (np.asarray(params[name]) for name in "ab")
    if criterion == "l2":
        return np.concatenate([np.linalg.norm(k, axis=0) for k in (a, b)])
    between = [np.linalg.norm(k[:, :, None] - k[:, None], axis=0).sum(1) for k in (a, b)]
    return np.concatenate(between)


@pytest.mark.parametrize("criterion", ["l2", "fpgm"])
def test_complex_kernels_are_scored_by_their_moduli(criterion):
    apply, params, x = network("complex64")
    structure = jaxprune.trace(apply, params, x)
    found = importance.get(criterion)(structure, params)
    np.testing.assert_allclose(found, by_hand(criterion, structure, params), rtol=1e-4)


@pytest.mark.parametrize(
    ("criterion", "dtype"),
    [
        ("activation", "bfloat16"),
        ("activation", "float8_e4m3fn"),
        ("taylor_activation", "complex64"),
        ("taylor_activation", "int8"),
        ("reconstruction", "complex64"),
    ],
)
def test_criteria_that_look_at_data_take_every_type(criterion, dtype):
    apply, params, x = network(dtype)
    structure = jaxprune.trace(apply, params, x)
    scores = importance.score(criterion, structure, apply, params, x, loss=lambda y: abs(y).mean())
    assert scores.dtype == np.float32
    assert (np.asarray(scores) > 0).any()


def test_the_activation_of_complex_channels_is_their_mean_modulus():
    params = {"a": kernel(0, (3, 4), "complex64"), "o": kernel(1, (4, 2), "complex64")}
    x = jnp.asarray(np.random.default_rng(7).normal(size=(6, 3)), jnp.complex64)

    def apply(params, x):
        return (x @ params["a"]) @ params["o"]

    structure = jaxprune.trace(apply, params, x)
    found = importance.activation(structure, apply, params, x)
    np.testing.assert_allclose(found, abs(np.asarray(x @ params["a"])).mean(0), rtol=1e-5)


def test_taylor_of_complex_kernels_is_the_change_of_the_loss():
    params = {"a": kernel(0, (3, 4), "complex64"), "o": kernel(1, (4, 2), "complex64")}
    x = jnp.ones((2, 3), jnp.complex64)

    def loss(params):
        return (abs((x @ params["a"]) @ params["o"]) ** 2).mean()

    structure = jaxprune.trace(lambda p, x: (x @ p["a"]) @ p["o"], params, x)
    scores = importance.taylor(structure, params, jax.grad(loss)(params))
    for channel in range(4):
        direction = {
            "a": jnp.zeros((3, 4)).at[:, channel].set(1.0) * params["a"],
            "o": 0 * params["o"],
        }
        _, change = jax.jvp(loss, (params,), (direction,))
        np.testing.assert_allclose(scores[channel], change**2, rtol=1e-4)


def test_a_complex_loss_is_refused():
    apply, params, x = network("complex64")
    with pytest.raises(jaxprune.UserError, match="the loss is complex64; return a real number"):
        jaxprune.prune(apply, params, x, importance="taylor_activation", loss=lambda y: y.mean())


def test_taylor_names_the_kernel_of_integers():
    apply, params, x = network("int8")
    with pytest.raises(jaxprune.UserError, match="'a' holds integers and has no gradient; use"):
        jaxprune.prune(apply, params, x, importance="taylor", loss=lambda y: y.mean())


@pytest.mark.parametrize("dtype", REAL)
def test_maxima_ignore_removed_channels_in_every_type(dtype):
    """Some types have no infinity; what takes its place is their least number."""
    params = {
        "a": -abs(kernel(0, (3, 4), dtype)) - jnp.asarray(1, dtype),
        "o": kernel(1, (4, 2), dtype),
    }

    def apply(params, x):
        h = (x.astype(WIDE) @ params["a"].astype(WIDE)).astype(dtype)
        highest, lowest = (f(h, -1, keepdims=True).astype(WIDE) for f in (jnp.max, jnp.min))
        return h.astype(WIDE) @ params["o"].astype(WIDE) + highest - 2 * lowest

    x = jnp.ones((2, 3), dtype)
    structure = jaxprune.trace(apply, params, x)
    masks = {"a": MASKS["a"]}
    small = jaxprune.compact(apply, structure, params, masks)
    expected = jaxprune.masked(apply, structure)(params, masks, x)
    np.testing.assert_allclose(small(small.params, x), expected, rtol=1e-5)


def test_a_table_of_indices_is_no_parameter():
    params = {"table": jnp.ones((5, 3)), "index": jnp.array([[0, 2], [1, 4]])}
    structure = jaxprune.trace(
        lambda p, x: p["table"][p["index"]].sum((0, 1)) * x, params, jnp.ones((2, 3))
    )
    assert costs.counting.dense(structure, "params") == 15


def test_a_quantised_embedding_is_a_parameter():
    params = {"embedding": jnp.ones((7, 4), jnp.int8), "o": jnp.ones((4, 2))}
    structure = jaxprune.trace(
        lambda p, x: p["embedding"][x].astype(jnp.float32) @ p["o"],
        params,
        jax.ShapeDtypeStruct((3,), jnp.int32),
    )
    assert costs.counting.dense(structure, "params") == 7 * 4 + 4 * 2


def test_weights_of_integers_make_up_for_removed_channels_by_integers():
    apply, params, x = network("int8")
    structure = jaxprune.trace(apply, params, x)
    adjusted = jaxprune.compensate(apply, structure, params, MASKS, x)
    assert adjusted["b"].dtype == jnp.int8
    real = {**params, **{name: params[name].astype(jnp.float32) for name in SHAPES}}
    wanted = jaxprune.compensate(apply, structure, real, MASKS, x)
    np.testing.assert_array_equal(adjusted["o"], np.round(wanted["o"]))


def test_costs_are_per_example_whatever_comes_before_the_examples():
    params = {"a": jnp.ones((3, 4)), "o": jnp.ones((4, 2))}

    def apply(params, key, scale, x):
        return (x @ params["a"] * scale + jax.random.normal(key, (4,))) @ params["o"]

    structure = jaxprune.trace(apply, params, jax.random.key(0), 2.0, jnp.ones((6, 3)))
    assert costs.counting.dense(structure, "macs") == 3 * 4 + 4 * 2
