"""Compact functions take at its small size what compact functions return."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune

KEEP = np.array([1, 0, 1, 1, 0])


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def check_close(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected
    )


# -- training steps -------------------------------------------------------------------------------

PARAMS = {"a": normal(0, 3, 5), "b": normal(1, 5, 4), "o": normal(2, 4, 2)}
MASKS = {"a": KEEP, "b": np.array([0, 1, 1, 0])}
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))


def apply(params, x):
    return jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"]) @ params["o"]


def step(apply, params, state, x):
    grads = jax.grad(lambda p: (apply(p, x) ** 2).mean())(params)
    updates, state = OPTIMIZER.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def test_a_training_step_takes_small_moments_from_wherever_they_come():
    x = normal(3, 6, 3)
    structure = jaxprune.trace(apply, PARAMS, x)
    small = jaxprune.compact(apply, structure, PARAMS, MASKS)
    train = jaxprune.compact(lambda *args: step(apply, *args), structure, PARAMS, MASKS)
    fresh = OPTIMIZER.init(small.params)
    expected = step(small, small.params, fresh, x)
    first = train(small.params, fresh, x)  # before it has seen dense moments
    check_close(first, expected)
    second = train(*first, normal(4, 2, 3))  # and for another number of examples
    check_close(second, step(small, *expected, normal(4, 2, 3)))
    dense = OPTIMIZER.init(PARAMS)
    check_close(train(small.params, dense, x), expected)
    check_close(train(small.params, jaxprune.shrink(structure, MASKS, dense), x), expected)


def test_a_training_step_runs_in_a_loop():
    x = normal(3, 6, 3)
    structure = jaxprune.trace(apply, PARAMS, x)
    train = jaxprune.compact(lambda *args: step(apply, *args), structure, PARAMS, MASKS)
    small = jaxprune.compact(apply, structure, PARAMS, MASKS)
    carry = small.params, OPTIMIZER.init(small.params)
    looped, _ = jax.jit(
        lambda carry: jax.lax.scan(lambda c, _: (train(*c, x), None), carry, length=3)
    )(carry)
    for _ in range(3):
        carry = train(*carry, x)
    check_close(looped, carry)


# -- latents, carries and caches ------------------------------------------------------------------


def test_a_decoder_takes_the_latents_of_an_encoder():
    params = {"in": normal(0, 3, 5), "latent": normal(1, 5, 5), "out": normal(2, 5, 3)}

    def encode(params, x):
        return jnp.tanh(jnp.tanh(x @ params["in"]) @ params["latent"])

    def decode(params, z):
        return z @ params["out"]

    x = normal(3, 4, 3)
    structure = jaxprune.trace(lambda p, x: decode(p, encode(p, x)), params, x)
    masks = {"in": np.array([1, 1, 0, 1, 1]), "latent": KEEP}
    encoder, decoder = (jaxprune.compact(f, structure, params, masks) for f in (encode, decode))
    latents = encoder(encoder.params, x)
    assert latents.shape == (4, 3)
    expected = jaxprune.masked(lambda p, x: decode(p, encode(p, x)), structure)(params, masks, x)
    check_close(decoder(decoder.params, latents), expected)


def test_a_recurrent_step_takes_its_state():
    params = {"x": normal(0, 3, 20), "h": normal(1, 5, 20), "o": normal(2, 5, 2)}

    def cell(params, state, x):
        c, h = state
        i, f, g, o = jnp.split(x @ params["x"] + h @ params["h"], 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return c, jax.nn.sigmoid(o) * jnp.tanh(c)

    def network(params, xs):
        start = (jnp.zeros((xs.shape[1], 5)),) * 2
        (_, h), _ = jax.lax.scan(lambda s, x: (cell(params, s, x), None), start, xs)
        return h @ params["o"]

    xs = normal(3, 6, 4, 3)
    structure = jaxprune.trace(network, params, xs)
    masks = {group.name: KEEP for group in structure.groups}
    small, one = (jaxprune.compact(f, structure, params, masks) for f in (network, cell))
    state = (jnp.zeros((4, 3)),) * 2
    for x in xs:
        state = one(one.params, state, x)
    assert state[0].shape == (4, 3)
    check_close(state[1] @ one.params["o"], small(small.params, xs))


HEADS, SIZE, LENGTH = 5, 2, 4


def attention(params, cache, x, at):
    """One token [B, D] that attends to those before it: grouped keys and values in a cache."""
    q, k, v = (jnp.einsum("bd,dhk->bhk", x, params[name]) for name in "qkv")
    keys, values = (
        jax.lax.dynamic_update_index_in_dim(old, new, at, 1)
        for old, new in zip(cache, (k, v), strict=True)
    )
    scores = jnp.einsum("bhk,bthk->bht", q, keys)
    scores = jnp.where(jnp.arange(LENGTH) <= at, scores, -1e9)
    found = jnp.einsum("bht,bthk->bhk", jax.nn.softmax(scores), values)
    return jnp.einsum("bhk,hkd->bd", found, params["o"]), (keys, values)


@pytest.mark.parametrize("seen", ["nothing", "a dense call"])
def test_attention_takes_a_cache_of_the_heads_that_are_left(seen):
    params = {n: normal(i, 3, HEADS, SIZE) for i, n in enumerate("qkv")}
    params["o"] = normal(3, HEADS, SIZE, 3)

    def whole(params, xs):
        cache = (jnp.zeros((xs.shape[0], LENGTH, HEADS, SIZE)),) * 2
        out = []
        for at in range(LENGTH):
            y, cache = attention(params, cache, xs[:, at], at)
            out.append(y)
        return jnp.stack(out, 1)

    xs = normal(4, 6, LENGTH, 3)
    structure = jaxprune.trace(whole, params, xs)
    heads = next(group.name for group in structure.groups if group.size == HEADS)
    masks = structure.full_masks() | {heads: KEEP}
    token = jaxprune.compact(attention, structure, params, masks)
    if seen == "a dense call":
        dense = jax.ShapeDtypeStruct((6, LENGTH, HEADS, SIZE), jnp.float32)
        jax.eval_shape(token, token.params, (dense, dense), xs[:, 0], 0)
    cache = (jnp.zeros((6, LENGTH, 3, SIZE)),) * 2
    expected = jaxprune.masked(whole, structure)(params, masks, xs)
    for at in range(LENGTH):
        y, cache = token(token.params, cache, xs[:, at], at)
        np.testing.assert_allclose(y, expected[:, at], rtol=1e-4, atol=1e-5)
    assert cache[0].shape == (6, LENGTH, 3, SIZE)


def test_inputs_without_the_features_that_are_gone():
    params = {"a": normal(0, 6, 5), "o": normal(1, 5, 2)}
    x = normal(2, 3, 6)

    def network(params, x):
        return jnp.tanh(x @ params["a"]) @ params["o"]

    structure = jaxprune.trace(network, params, x, prune_inputs=True)
    left = np.array([0, 1, 1, 0, 1, 0])
    small = jaxprune.compact(network, structure, params, {"input": left, "a": KEEP})
    check_close(small(small.params, x[:, left > 0]), small(small.params, x))


# -- errors ---------------------------------------------------------------------------------------


def test_arguments_that_fit_in_no_size_fail_as_the_function_does():
    x = normal(3, 6, 3)
    structure = jaxprune.trace(apply, PARAMS, x)
    small = jaxprune.compact(apply, structure, PARAMS, MASKS)
    with pytest.raises(TypeError, match="contracting dimensions") as raised:
        small(small.params, normal(3, 6, 4))
    assert "eval_shape" not in "".join(getattr(raised.value, "__notes__", []))
    train = jaxprune.compact(lambda *args: step(apply, *args), structure, PARAMS, MASKS)
    with pytest.raises(ValueError, match="keys") as raised:
        train(small.params, OPTIMIZER.init({"a": jnp.ones((3, 3))}), x)
    assert "eval_shape" in "".join(raised.value.__notes__)


def test_tuned_parameters_belong_to_the_network_again(tmp_path):
    x = normal(3, 6, 3)
    small = jaxprune.prune(apply, PARAMS, x, budget=0.5)
    tuned = jax.tree.map(lambda v: v + 1, small.params)
    jaxprune.save(tmp_path / "small", small.with_params(tuned), x)
    loaded = jaxprune.load(tmp_path / "small")
    check_close(loaded(loaded.params, x), small(tuned, x))
    with pytest.raises(ValueError, match="not those of this compact network"):
        small.with_params(PARAMS)


# -- memory ---------------------------------------------------------------------------------------


def test_either_network_may_be_donated():
    """Leaves that stay whole are copies too, of JAX's arrays, of NumPy's, and of typed keys."""
    x = normal(3, 6, 3)
    whole = {**PARAMS, "bias": np.ones(2, np.float32), "key": jax.random.key(1)}

    def network(params, x):
        noise = jax.random.normal(params["key"], (2,))
        return apply(params, x) + params["bias"] + noise

    dense = jax.tree.map(jnp.copy, whole)
    small = jaxprune.prune(network, dense, x, budget=0.5)
    before = network(dense, x)
    kept = small(small.params, x)
    burn = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), donate_argnums=0)
    again = burn(small.params)
    assert small.params["o"].is_deleted()
    np.testing.assert_array_equal(network(dense, x), before)
    burn(dense)
    np.testing.assert_array_equal(small(again, x), kept)
    of_numpy = jaxprune.prune(network, whole, x, budget=0.5).params
    whole["bias"][:] = 5
    np.testing.assert_array_equal(of_numpy["bias"], [1, 1])


def test_parameters_divided_among_devices_stay_divided_where_they_can():
    code = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import jaxprune
mesh = Mesh(np.array(jax.devices()), ("model",))
specs = {"a": P(None, "model"), "b": P("model", None), "bias": P("model"), "o": P()}
shapes = {"a": (3, 8), "b": (8, 6), "bias": (6,), "o": (6, 2)}
params = {
    name: jax.device_put(np.full(shape, 0.1, np.float32), NamedSharding(mesh, specs[name]))
    for name, shape in shapes.items()
}
def apply(p, x):
    return jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"] + p["bias"]) @ p["o"]
x = jnp.ones((2, 3))
structure = jaxprune.trace(apply, params, x)
masks = {"a": np.arange(8) % 2, "b": np.arange(6) % 2}
small = jaxprune.compact(apply, structure, params, masks)
found = {name: value.sharding.spec for name, value in small.params.items()}
assert found == {"a": P(None, "model"), "b": P("model", None), "bias": P(), "o": P()}, found
expected = jaxprune.masked(apply, structure)(params, masks, x)
np.testing.assert_allclose(small(small.params, x), expected, rtol=1e-5)
full = jaxprune.compact(apply, structure, params, structure.full_masks()).params
assert {name: value.sharding.spec for name, value in full.items()} == specs
"""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
