"""The proximal step lands where its operator says, under every wrapper of optax."""

import functools
import os
import subprocess
import sys

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from jaxprune.optim import adam_diagonal, prox, proximal, proximal_adam, scaled_proximal

reals = st.floats(-1e4, 1e4, width=32)


def step_once(optimizer, params, gradients):
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    return optax.apply_updates(params, updates)


def test_lands_on_the_operator_of_the_step():
    params = {"a": jnp.array([1.0, -0.05, 0.3]), "b": jnp.array([[2.0]])}
    gradients = {"a": jnp.array([0.4, 0.1, -0.2]), "b": jnp.array([[1.0]])}
    optimizer = optax.chain(optax.sgd(0.5), proximal(prox.l1, 0.2, 0.5))
    moved = step_once(optimizer, params, gradients)
    np.testing.assert_allclose(moved["a"], [0.7, 0.0, 0.3], atol=1e-7)
    np.testing.assert_allclose(moved["b"], [[1.4]], atol=1e-7)
    assert moved["a"][1] == 0.0


DTYPES = [("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32"),
          ("float32", "bfloat16"), ("float16", "float16")]  # fmt: skip
shrink_step = functools.partial(step_once, proximal(prox.l1, 2.0, 0.5))
jitted_shrink_step = jax.jit(shrink_step)


@pytest.mark.parametrize(("param_dtype", "update_dtype"), DTYPES)
@pytest.mark.parametrize("step", [shrink_step, jitted_shrink_step], ids=["eager", "jit"])
@settings(max_examples=40, deadline=None)
@given(p=arrays(np.float32, 8, elements=reals), u=arrays(np.float32, 8, elements=reals))
def test_landing_is_exact_at_zero_and_near_elsewhere(step, param_dtype, update_dtype, p, u):
    p, u = jnp.asarray(p, param_dtype), jnp.asarray(u, update_dtype)
    landed = step(p, u)
    assert landed.dtype == p.dtype

    unit = 2.0 ** -jnp.finfo(param_dtype).nmant
    p, u, landed = (np.asarray(a.astype(jnp.float32), np.float64) for a in (p, u, landed))
    moved = (p.astype(np.float32) + u.astype(np.float32)).astype(np.float64)
    goal = moved - np.clip(moved, -1.0, 1.0)
    np.testing.assert_array_equal(landed[goal == 0], 0.0)
    assert np.all(landed * goal >= 0), "a sign changed"
    larger = np.maximum(np.maximum(np.abs(p), np.abs(goal)), 1e-4)
    assert np.all(np.abs(landed - goal) <= 2 * unit * larger)


def test_updates_are_never_narrower_than_parameters():
    """A bfloat16 update cannot cancel a float32 parameter; a float32 one can a bfloat16."""
    transform = proximal(prox.l1, 1.0, 1.0)
    for param, update, expected in [
        ("float32", "bfloat16", "float32"),
        ("bfloat16", "bfloat16", "bfloat16"),
        ("bfloat16", "float32", "float32"),
    ]:
        p, u = jnp.full(3, 0.123456789, param), jnp.zeros(3, update)
        updates, _ = transform.update(u, transform.init(p), p)
        assert updates.dtype == expected
        np.testing.assert_array_equal(optax.apply_updates(p, updates), jnp.zeros(3, param))


def test_zeros_only_when_it_is_last():
    """Of 1,000 weights Adam keeps every one that the operator before it had set to zero."""
    target = jnp.where(jnp.arange(1000) % 20 == 0, 1.0, 0.0)
    counts = {}
    for name, chain in {
        "last": (optax.scale_by_adam(), optax.scale(-0.01), proximal(prox.l1, 0.2, 0.01)),
        "first": (proximal(prox.l1, 0.2, 0.01), optax.scale_by_adam(), optax.scale(-0.01)),
    }.items():
        optimizer = optax.chain(*chain)
        params = jax.random.normal(jax.random.key(0), (1000,))

        def body(carry, _, optimizer=optimizer):
            params, state = carry
            updates, state = optimizer.update(params - target, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(body, (params, optimizer.init(params)), length=1000)
        counts[name] = int(jnp.sum(params == 0))
    assert counts == {"last": 950, "first": 0}


def test_schedules_count_the_steps_of_the_chain():
    rate = optax.piecewise_constant_schedule(0.5, {1: 0.1})
    strength = optax.linear_schedule(1.0, 3.0, 2)
    optimizer = optax.chain(optax.sgd(rate), proximal(prox.l1, strength, rate))
    params = expected = jnp.array([4.0, -3.0, 0.2])
    state = optimizer.init(params)
    for step, lam in [(0.5, 1.0), (0.05, 2.0), (0.05, 3.0), (0.05, 3.0)]:
        updates, state = optimizer.update(jnp.ones(3), state, params)
        params = optax.apply_updates(params, updates)
        expected = prox.l1(expected - step, lam, step)
        np.testing.assert_allclose(params, expected, rtol=1e-6)


def test_strength_may_be_a_prefix_tree():
    params = {"a": jnp.array([1.0]), "b": {"c": jnp.array([1.0]), "d": jnp.array([1.0])}}
    zeros = jax.tree.map(jnp.zeros_like, params)
    moved = step_once(proximal(prox.l1, {"a": 0.0, "b": 0.25}, 1.0), params, zeros)
    assert jax.tree.map(jnp.sum, moved) == {"a": 1.0, "b": {"c": 0.75, "d": 0.75}}


def test_none_leaves_and_empty_trees():
    params = {"a": jnp.array([1.0, 0.1]), "b": None}
    transform = proximal(prox.l1, 0.2, 1.0)
    for update in (None, jnp.ones(2)):
        # As optax.keep_params_nonnegative: where there is no parameter there is no update.
        gradients = {"a": jnp.zeros(2), "b": update}
        updates, _ = transform.update(gradients, transform.init(params), params)
        moved = optax.apply_updates(params, updates)
        assert moved["b"] is None
        np.testing.assert_allclose(moved["a"], [0.8, 0.0], rtol=1e-6)
    for empty in ({}, (), []):
        updates, _ = transform.update(empty, transform.init(empty), empty)
        assert updates == empty


def test_multi_steps_shrinks_only_when_it_emits():
    params = jnp.array([1.0, -0.3])
    multi = optax.MultiSteps(optax.chain(optax.sgd(0.5), proximal(prox.l1, 0.2, 0.5)), 3)
    state = multi.init(params)
    for expected in ([1.0, -0.3], [1.0, -0.3], [0.4, 0.0]):
        updates, state = multi.update(jnp.array([1.0, -0.4]), state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params, expected, rtol=1e-6)
    assert state.inner_opt_state[1].count == 1


def test_masked_and_multi_transform():
    params = {"kernel": jnp.array([[1.0, 0.1], [1.0, 0.1]]), "bias": jnp.array([0.1, 0.1])}
    zeros = jax.tree.map(jnp.zeros_like, params)
    columns = functools.partial(prox.group_l2, axis=0)
    kernels = {"kernel": True, "bias": False}
    masked = step_once(optax.masked(proximal(columns, 0.5, 1.0), kernels), params, zeros)
    labels = {"kernel": "groups", "bias": "entries"}
    split = step_once(
        optax.multi_transform(
            {"groups": proximal(columns, 0.5, 1.0), "entries": proximal(prox.l1, 1.0, 0.04)},
            labels,
        ),
        params,
        zeros,
    )
    for moved, bias in ((masked, 0.1), (split, 0.06)):
        kept = 1 - 0.5 / np.sqrt(2.0)
        np.testing.assert_allclose(moved["kernel"], [[kept, 0.0]] * 2, rtol=1e-6)
        np.testing.assert_allclose(moved["bias"], [bias, bias], rtol=1e-6)


def test_inject_hyperparams():
    make = optax.inject_hyperparams(proximal, static_args="prox")
    params = jnp.array([1.0, 0.05])
    transform = make(prox.l1, strength=0.1, learning_rate=optax.linear_schedule(1.0, 2.0, 1))
    state = transform.init(params)
    for expected in ([0.9, 0.0], [0.7, 0.0]):
        updates, state = jax.jit(transform.update)(jnp.zeros(2), state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params, expected, rtol=1e-6)
    state.hyperparams["strength"] = jnp.array(0.2)
    updates, _ = transform.update(jnp.zeros(2), state, params)
    np.testing.assert_allclose(optax.apply_updates(params, updates), [0.3, 0.0], atol=1e-6)

    adam = optax.inject_hyperparams(proximal_adam, static_args=("prox", "mu_dtype"))(
        0.01, prox.l1, 0.1
    )
    plain = proximal_adam(0.01, prox.l1, 0.1)
    gradient = jnp.array([0.3, -2.0])
    np.testing.assert_allclose(
        step_once(adam, params, gradient), step_once(plain, params, gradient), atol=1e-6
    )


@pytest.mark.parametrize("scaled", [False, True])
def test_vmap_over_strengths(scaled):
    params, gradient = jnp.array([1.0, 0.5, -0.2]), jnp.array([0.1, 0.4, 0.2])

    def after(strength):
        return step_once(proximal_adam(0.1, prox.l1, strength, scaled=scaled), params, gradient)

    strengths = jnp.array([0.01, 0.3, 2.0])
    mapped = jax.vmap(after)(strengths)
    for strength, one in zip(strengths, mapped, strict=True):
        np.testing.assert_allclose(one, after(float(strength)), rtol=1e-6, atol=1e-7)


def test_plain_adam_is_acnn_equations_8_to_11():
    params, gradient = jnp.array([1.0, -0.5, 0.002]), jnp.array([0.3, -2.0, 0.1])
    rate, strength = 0.01, 0.4
    half = step_once(optax.adam(rate), params, gradient)
    expected = np.sign(half) * np.maximum(np.abs(half) - strength * rate, 0)
    mine = step_once(proximal_adam(rate, prox.l1, strength, scaled=False), params, gradient)
    np.testing.assert_allclose(mine, expected, atol=1e-7)
    chain = optax.chain(optax.adam(rate), proximal(prox.l1, strength, rate))
    np.testing.assert_allclose(step_once(chain, params, gradient), mine, atol=1e-7)


def test_scaled_adam_shrinks_each_coordinate_by_its_own_step():
    params, rate, strength = np.array([1.0, -0.5, 0.2, 0.0]), 0.01, 0.4
    optimizer = proximal_adam(rate, prox.l1, strength, b1=0.8, b2=0.9)
    mine, state = jnp.asarray(params, jnp.float32), optimizer.init(jnp.asarray(params, jnp.float32))
    m = v = np.zeros(4)
    for t, g in enumerate(np.random.default_rng(0).normal(size=(5, 4)), 1):
        updates, state = optimizer.update(jnp.asarray(g, jnp.float32), state, mine)
        mine = optax.apply_updates(mine, updates)
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        step = rate / (np.sqrt(v / (1 - 0.9**t)) + 1e-8)
        z = params - step * m / (1 - 0.8**t)
        params = np.sign(z) * np.maximum(np.abs(z) - strength * step, 0)
        np.testing.assert_allclose(mine, params, atol=1e-6)
        np.testing.assert_array_equal(np.asarray(mine) == 0, params == 0)


def test_scaled_and_plain_agree_for_an_identity_preconditioner():
    params, gradient = jnp.array([[1.0, -0.5], [0.2, 0.1]]), jnp.array([[0.3, -2.0], [0.1, 0.0]])
    rows = functools.partial(prox.group_l2, axis=1)
    ones = jnp.ones_like(params)
    scaled = scaled_proximal(optax.identity(), lambda state: ones, rows, 0.4, 0.1)
    plain = optax.chain(optax.sgd(0.1), proximal(rows, 0.4, 0.1))
    np.testing.assert_allclose(
        step_once(scaled, params, gradient), step_once(plain, params, gradient), rtol=1e-6
    )


def test_adam_diagonal_is_what_adam_multiplies_by():
    gradients = {"a": jnp.array([0.3, -2.0, 1e-3]), "b": None}
    adam = optax.scale_by_adam(b1=0.0, b2=0.9, eps=1e-3, eps_root=1e-4)
    state = adam.init(gradients)
    for _ in range(3):
        direction, state = adam.update(gradients, state)
    diagonal = adam_diagonal(b2=0.9, eps=1e-3, eps_root=1e-4)(state)
    np.testing.assert_allclose(diagonal["a"] * gradients["a"], direction["a"], rtol=1e-5)
    assert diagonal["b"] is None


def test_an_operator_of_another_library_fits():
    jaxopt_prox = pytest.importorskip("jaxopt.prox", reason="jaxopt is another library's operators")
    params = jnp.array([1.0, -0.05])
    mine = step_once(proximal(prox.l1, 0.2, 0.5), params, jnp.zeros(2))
    theirs = step_once(proximal(jaxopt_prox.prox_lasso, 0.2, 0.5), params, jnp.zeros(2))
    np.testing.assert_allclose(mine, theirs)


def test_sharded_parameters_stay_sharded():
    """On eight forced host devices, in a process of its own."""
    code = """
import functools, jax, jax.numpy as jnp, numpy as np, optax
from jaxprune.optim import prox, proximal_adam
mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("model"))
columns = functools.partial(prox.group_l2, axis=0)
for scaled in (True, False):
    optimizer = proximal_adam(0.01, columns, 0.5, scaled=scaled)
    def run(p, g):
        state = optimizer.init(p)
        for _ in range(3):
            updates, state = optimizer.update(g, state, p)
            p = optax.apply_updates(p, updates)
        return p
    p = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
    p[:, 2] *= 1e-3
    g = np.random.default_rng(1).normal(size=(16, 5)).astype(np.float32)
    g[:, 2] = 0.0
    sharded = jax.jit(run)(jax.device_put(p, sharding), jax.device_put(g, sharding))
    assert sharded.sharding.is_equivalent_to(sharding, 2), sharded.sharding
    whole = run(jnp.asarray(p), jnp.asarray(g))
    np.testing.assert_allclose(sharded, whole, atol=1e-6)
    assert not np.any(sharded[:, 2]) and np.all(sharded[:, 0])
print("equal")
"""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=environment
    )
    assert out.stdout.strip() == "equal", out.stderr


def optax_words():
    """What optax says when parameters are missing."""
    with pytest.raises(ValueError, match="params") as error:
        optax.keep_params_nonnegative().update(jnp.ones(2), optax.EmptyState(), None)
    return str(error.value)


@pytest.mark.parametrize(
    "make", [lambda: proximal(prox.l1, 0.1, 0.1), lambda: proximal_adam(0.1, prox.l1, 0.1)]
)
def test_missing_params(make):
    transform = make()
    with pytest.raises(ValueError, match="not passing `params`") as error:
        transform.update(jnp.ones(2), transform.init(jnp.ones(2)))
    assert str(error.value) == optax_words()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: proximal(prox.l1, -0.1, 0.1), "strength must be non-negative, got -0.1"),
        (lambda: proximal(prox.l1, {"a": -1}, 0.1), "strength must be non-negative, got -1"),
        (lambda: proximal(prox.l1, jnp.array(-2.0), 1), "strength must be non-negative, got -2.0"),
        (lambda: proximal(prox.l1, 0.1, -0.1), "learning_rate must be non-negative, got -0.1"),
        (lambda: proximal(0.1, 0.1, 0.1), "prox must be a function, got 0.1"),
        (
            lambda: scaled_proximal(optax.identity(), 1.0, prox.l1, 0.1, 0.1),
            "diagonal must be a function, got 1.0",
        ),
        (
            lambda: step_once(
                proximal_adam(0.1, prox.nuclear, 0.1), jnp.ones((2, 2)), jnp.ones((2, 2))
            ),
            "one step for each leaf.*plain variant",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
