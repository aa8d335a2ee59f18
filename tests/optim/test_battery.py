"""One battery for every transform: adding a transform is adding one entry to TRANSFORMS."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune.optim import (
    adam_diagonal,
    admm,
    dual_ascent,
    dual_pid,
    fista,
    healing,
    observe_sparsity,
    prox,
    proximal,
    proximal_adam,
    proximal_sgd,
    ramp,
    scaled_proximal,
    surrogate_lagrangian,
)

rate = optax.linear_schedule(0.1, 0.01, 5)
rows = functools.partial(prox.group_l2, axis=-1)

TRANSFORMS = {
    "proximal": lambda: optax.chain(optax.sgd(0.1), proximal(prox.l1, 0.1, 0.1)),
    "proximal_scheduled": lambda: optax.chain(
        optax.sgd(rate), proximal(prox.l1, optax.linear_schedule(0.0, 1.0, 5), rate)
    ),
    "proximal_l2": lambda: proximal_sgd(rate, prox.l2, 0.1),
    "scaled_proximal": lambda: scaled_proximal(
        optax.scale_by_adam(b2=0.9), adam_diagonal(b2=0.9), prox.mcp, 0.1, rate
    ),
    "proximal_sgd": lambda: proximal_sgd(0.1, prox.elastic_net, 0.1, momentum=0.9),
    "proximal_adam": lambda: proximal_adam(0.1, prox.l1, 0.1),
    "proximal_adam_group_l2": lambda: proximal_adam(rate, rows, 0.1),
    "proximal_adam_plain": lambda: proximal_adam(rate, prox.l1, 0.1, scaled=False),
    "fista": lambda: fista(prox.l1, 0.1, 0.1),
    "fista_scheduled": lambda: fista(prox.l1, optax.linear_schedule(0.0, 1.0, 5), rate),
    "dual_ascent": lambda: dual_ascent(rate, cap=2.0),
    "dual_pid": lambda: dual_pid(1.0, rate, 0.1, cap=2.0, smoothing=0.5),
    "observe_sparsity": observe_sparsity,
    "healing": lambda: healing(3),
    "phases": lambda: optax.chain(
        proximal_adam(0.1, prox.l1, ramp(1, 3, 1.0, until=4)), healing(4)
    ),
    "joint_sparsity": lambda: optax.chain(
        optax.sgd(0.1), proximal(prox.joint_sparsity, ramp(1, 3, 0.5), 0.1)
    ),
    "joint_sparsity_scaled": lambda: proximal_adam(0.1, prox.joint_sparsity, ramp(1, 3, 0.5)),
    "admm": lambda: optax.chain(admm(prox.l1, 0.1, 0.5, every=2), optax.sgd(rate)),
    "admm_scheduled": lambda: optax.chain(
        admm(prox.joint_sparsity, ramp(0, 3, 0.5), optax.linear_schedule(0.1, 1.0, 5)),
        optax.adam(0.1),
    ),
    "surrogate_lagrangian": lambda: optax.chain(
        surrogate_lagrangian(prox.joint_sparsity, 0.5, every=2), optax.sgd(rate)
    ),
    "heads": lambda: optax.chain(
        optax.sgd(0.1), proximal(functools.partial(prox.heads, axes={"w": 1, "b": 0}), 0.1, 0.1)
    ),
    "chain": lambda: optax.chain(
        optax.clip_by_global_norm(1.0), proximal_adam(0.1, prox.l1, 0.1), observe_sparsity()
    ),
    "multi_steps": lambda: optax.MultiSteps(
        proximal_adam(0.1, prox.l1, 0.1), 2
    ).gradient_transformation(),
    "masked": lambda: optax.masked(fista(prox.l1, 0.1, 0.1), {"w": True, "b": False, "n": False}),
}


def problem(mixed=False):
    """Parameters of mixed shape with a None, and the gradient of a small quadratic."""
    keys = jax.random.split(jax.random.key(0), 2)
    dtype = jnp.bfloat16 if mixed else jnp.float32
    params = {
        "w": jax.random.normal(keys[0], (4, 3)),
        "b": jax.random.normal(keys[1], (3,)).astype(dtype),
        "n": None,
    }
    return params, lambda p: jax.tree.map(lambda x: 2 * x - jnp.ones_like(x), p)


@functools.cache
def compiled(name, mixed):
    """The transform, its compiled step, and the list that each trace of the step lengthens."""
    transform = TRANSFORMS[name]()
    _, gradient = problem(mixed)
    traces = []

    @jax.jit
    def step(params, state):
        traces.append(1)
        updates, state = transform.update(gradient(params), state, params)
        return optax.apply_updates(params, updates), state

    return transform, step, traces


def run(name, params, state=None, steps=6, mixed=False):
    """Parameters and state after a number of steps."""
    transform, step, _ = compiled(name, mixed)
    state = transform.init(params) if state is None else state
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


@pytest.mark.parametrize("name", TRANSFORMS)
class TestEveryTransform:
    def test_compiles_once_and_equals_the_plain_call(self, name):
        params, gradient = problem()
        moved, _ = run(name, params, steps=2)
        transform, _, traces = compiled(name, False)
        assert len(traces) == 1
        state = transform.init(params)
        for _ in range(2):
            updates, state = transform.update(gradient(params), state, params)
            params = optax.apply_updates(params, updates)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), moved, params)

    def test_mixed_dtypes_are_kept(self, name):
        params, _ = problem(mixed=True)
        moved, state = run(name, params, mixed=True)
        assert len(compiled(name, True)[2]) == 1
        assert jax.tree.map(lambda x: x.dtype, moved) == jax.tree.map(lambda x: x.dtype, params)
        assert moved["n"] is None
        assert all(np.all(np.isfinite(x.astype(jnp.float32))) for x in jax.tree.leaves(moved))
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))

    def test_state_saved_and_restored_continues_bit_for_bit(self, name, tmp_path):
        params, _ = problem()
        whole, _ = run(name, params)
        half = run(name, params, steps=3)
        np.savez(tmp_path / "state.npz", *[np.asarray(leaf) for leaf in jax.tree.leaves(half)])
        with np.load(tmp_path / "state.npz") as saved:
            loaded = [jnp.asarray(saved[key]) for key in saved.files]
        # The structure comes from a fresh state, as after a restart.
        like = jax.tree.structure((params, compiled(name, False)[0].init(params)))
        resumed, _ = run(name, *jax.tree.unflatten(like, loaded), steps=3)
        jax.tree.map(np.testing.assert_array_equal, whole, resumed)

    def test_runs_under_scan_with_extra_arguments_and_donation(self, name):
        params, gradient = problem()
        expected, _ = run(name, params)
        transform = optax.with_extra_args_support(compiled(name, False)[0])

        def body(carry, _):
            params, state = carry
            updates, state = transform.update(gradient(params), state, params, unexpected=1.0)
            return (optax.apply_updates(params, updates), state), None

        scan = jax.jit(lambda carry: jax.lax.scan(body, carry, length=6)[0], donate_argnums=0)
        scanned, _ = scan((params, transform.init(params)))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), expected, scanned)

    def test_empty_trees(self, name):
        if name == "masked":
            pytest.skip("its mask names leaves")
        transform = TRANSFORMS[name]()
        updates, _ = transform.update({}, transform.init({}), {})
        assert updates == {}
