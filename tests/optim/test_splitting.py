"""ADMM and surrogate Lagrangian relaxation against their equations in numpy, and known optima."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune.optim import admm, prox, surrogate_lagrangian

entries = functools.partial(prox.joint_sparsity, axis=())


def largest(w, count):
    """The array with its largest entries alone."""
    kept = np.zeros_like(w)
    order = np.argsort(-abs(w), kind="stable")[:count]
    kept[order] = w[order]
    return kept


def test_admm_is_its_equations():
    """Twelve steps of gradient descent on a quadratic, the copy changing after every third."""
    rng = np.random.default_rng(0)
    target, w = rng.normal(size=6), rng.normal(size=6)
    rho, rate = 0.5, 0.2
    optimizer = optax.chain(admm(entries, 0.5, rho, every=3), optax.sgd(rate))
    params = jnp.asarray(w, jnp.float32)
    state = optimizer.init(params)
    z, dual = largest(w, 3), np.zeros(6)
    for count in range(12):
        if count and count % 3 == 0:
            z = largest(w + dual / rho, 3)
            dual = dual + rho * (w - z)
        w = w - rate * (w - target + dual + rho * (w - z))
        gradient = params - jnp.asarray(target, jnp.float32)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params, w, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state[0].copy, z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state[0].dual, dual, rtol=1e-4, atol=1e-5)


def solve(optimizer, gradient, params, steps, loss=None):
    @jax.jit
    def run(params):
        def body(carry, _):
            params, state = carry
            extra = {} if loss is None else {"value": loss(params)}
            updates, state = optimizer.update(gradient(params), state, params, **extra)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, optimizer.init(params)), length=steps)[0]

    return run(params)


def test_admm_solves_the_lasso():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 8)).astype(np.float32)
    y = (x @ np.float32([2, 0, 0, -1, 0, 0, 0.5, 0]) + 0.1 * rng.normal(size=40)).astype(np.float32)
    gradient = lambda w: x.T @ (x @ w - y) / 40  # noqa: E731
    optimizer = optax.chain(admm(prox.l1, 0.1, 1.0, every=10), optax.sgd(0.2))
    params, state = solve(optimizer, gradient, jnp.zeros(8), 2000)
    copy = state[0].copy
    np.testing.assert_allclose(params, copy, atol=1e-4)
    # The optimality conditions of the lasso at the copy, which has the zeros.
    slope = gradient(copy)
    assert 1 <= int((copy == 0).sum()) <= 6
    np.testing.assert_allclose(slope[copy != 0], -0.1 * jnp.sign(copy[copy != 0]), atol=1e-3)
    assert jnp.abs(slope).max() <= 0.1 + 1e-3


@pytest.mark.parametrize(
    "make",
    [
        lambda: admm(entries, 0.5, 4.0, every=5),
        lambda: surrogate_lagrangian(entries, 0.5, 4.0, every=5, step=0.3),
    ],
)
def test_weights_and_copy_meet_at_the_best_sparse_point(make):
    """The nearest point with four of eight entries: those of the four largest targets.

    With a rho below the loss's curvature the method may go round between two supports.
    """
    target = jnp.array([3.0, -0.2, 0.4, -2.0, 1.5, 0.1, -0.6, 0.9])
    gradient = lambda w: w - target  # noqa: E731
    loss = lambda w: 0.5 * ((w - target) ** 2).sum()  # noqa: E731
    optimizer = optax.chain(make(), optax.sgd(0.15))
    extra = optax.with_extra_args_support(optimizer)
    params, state = solve(extra, gradient, jnp.zeros(8), 1500, loss)
    expected = largest(np.asarray(target), 4)
    np.testing.assert_array_equal(np.asarray(state[0].copy) != 0, expected != 0)
    np.testing.assert_allclose(entries(params, 0.5), expected, atol=0.05)
    np.testing.assert_allclose(params, state[0].copy, atol=0.05)


def test_surrogate_lagrangian_is_its_equations():
    """Every round written out, with rounds of both outcomes of its first condition."""
    rng = np.random.default_rng(2)
    target, w = rng.normal(size=6), rng.normal(size=6)
    rho, rate, s, decay, power = 0.3, 0.4, 0.2, 20.0, 0.1
    optimizer = optax.chain(
        surrogate_lagrangian(entries, 0.5, rho, every=2, step=s, decay=decay, power=power),
        optax.sgd(rate),
    )
    params = jnp.asarray(w, jnp.float32)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)

    def lagrangian(value, w, z, dual):
        return value + dual @ (w - z) + rho / 2 * ((w - z) ** 2).sum()

    z, dual, old, k, outcomes = largest(w, 3), np.zeros(6), w, 0, set()
    # A loss that the parameters do not explain makes the first condition fail at times.
    losses = [0.5 * ((w - target) ** 2).sum() + 0.5 * (count % 8 > 3) for count in range(24)]
    old_value = losses[0]
    for count in range(24):
        value = losses[count]
        if count and count % 2 == 0:
            k += 1
            alpha = 1 - 1 / (decay * k ** (1 - 1 / k**power))
            far, near = np.linalg.norm(old - z), np.linalg.norm(w - z)
            moves = lagrangian(value, w, z, dual) < lagrangian(old_value, old, z, dual)
            outcomes.add(bool(moves))
            if moves:
                s = alpha * s * far / near
                dual = dual + s * (w - z)
            new = largest(w + dual / rho, 3)
            if lagrangian(0, w, new, dual) < lagrangian(0, w, z, dual):
                s = alpha * s * near / np.linalg.norm(w - new)
                dual = dual + s * (w - new)
            z, old, old_value = new, w, value
        w = w - rate * (w - target + dual + rho * (w - z))
        gradient = params - jnp.asarray(target, jnp.float32)
        updates, state = update(gradient, state, params, value=value)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params, w, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(state[0].step, s, rtol=1e-3)
    assert outcomes == {True, False}


def test_the_loss_is_not_needed():
    optimizer = surrogate_lagrangian(entries, 0.5)
    params = jnp.array([1.0, 2.0, 3.0, 4.0])
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(jnp.ones(4), state, params)
    assert np.isfinite(updates).all()
    assert state.rounds == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: admm(0.5, 0.1, 0.1), "prox must be a function, got 0.5"),
        (lambda: admm(prox.l1, -0.1, 0.1), "strength must be non-negative, got -0.1"),
        (lambda: admm(prox.l1, 0.1, 0.0), "rho must be positive, got 0.0"),
        (lambda: admm(prox.l1, 0.1, 0.1, every=0), "every must be at least 1, got 0"),
        (lambda: surrogate_lagrangian(entries, 0.5, step=0.0), "step > 0.*got step=0.0"),
        (lambda: surrogate_lagrangian(entries, 0.5, decay=1.0), "decay=1.0"),
        (lambda: surrogate_lagrangian(entries, 0.5, power=1.0), "power=1.0"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
