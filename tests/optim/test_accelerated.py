"""FISTA: its iterates, its rate, its restart."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune.optim import fista, fista_eval_params, prox, proximal, proximal_sgd


def ill_conditioned_lasso():
    """A lasso whose loss has a condition number of 10,000, its 1 / L and its gradient."""
    rng = np.random.default_rng(0)
    u, _ = np.linalg.qr(rng.normal(size=(100, 50)))
    v, _ = np.linalg.qr(rng.normal(size=(50, 50)))
    x = u * np.geomspace(1.0, 1e-2, 50) @ v.T
    y = x @ np.where(np.arange(50) % 5 == 0, 3.0, 0.0) + 0.01 * rng.normal(size=100)
    return x, y


def objectives(optimizer, strength, steps):
    """The objective of the solution after each step, in float64."""
    x, y = ill_conditioned_lasso()
    x32, y32 = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)

    def body(carry, _):
        params, state = carry
        updates, state = optimizer.update(x32.T @ (x32 @ params - y32), state, params)
        params = optax.apply_updates(params, updates)
        if isinstance(state, tuple) and hasattr(state, "iterate"):
            return (params, state), fista_eval_params(state, params)
        return (params, state), params

    params = jnp.zeros(50)
    _, iterates = jax.jit(lambda carry: jax.lax.scan(body, carry, length=steps))(
        (params, optimizer.init(params))
    )
    iterates = np.asarray(iterates, np.float64)
    residual = iterates @ x.T - y
    return 0.5 * (residual**2).sum(1) + strength * np.abs(iterates).sum(1)


def test_first_steps_by_hand():
    """f = x^2 / 2, lr = 1/2, no penalty: y0 = 8; x1 = 4; t = 1.618; y1 = x1; x2 = 2; ..."""
    optimizer = fista(prox.l1, 0.0, 0.5, restart="none")
    y, state = jnp.array(8.0), optimizer.init(jnp.array(8.0))
    t1 = (1 + np.sqrt(5)) / 2
    t2 = (1 + np.sqrt(1 + 4 * t1**2)) / 2
    for expected_x, expected_y in [(4.0, 4.0), (2.0, 2.0 + (t1 - 1) / t2 * -2.0)]:
        updates, state = optimizer.update(y, state, y)
        y = optax.apply_updates(y, updates)
        np.testing.assert_allclose([state.iterate, y], [expected_x, expected_y], rtol=1e-6)


def test_restart_drops_the_momentum_that_points_uphill():
    optimizer = fista(prox.l1, 0.0, 0.1)
    state = optimizer.init(jnp.array(1.0))._replace(momentum=jnp.array(5.0))
    # x_k = 1, y_k = 0.5 past the minimum's far side: the gradient pulls back up to 0.9.
    _, uphill = optimizer.update(jnp.array(-4.0), state, jnp.array(0.5))
    assert uphill.iterate == pytest.approx(0.9)
    assert uphill.momentum == 1.0
    _, downhill = optimizer.update(jnp.array(1.0), state, jnp.array(0.5))
    assert downhill.momentum > 5.0


def test_needs_far_fewer_iterations_than_plain_proximal_gradient():
    strength, tolerance = 1e-3, 1e-5
    plain = objectives(proximal_sgd(1.0, prox.l1, strength), strength, 20_000)
    accelerated = objectives(fista(prox.l1, strength, 1.0, restart="none"), strength, 4_000)
    restarted = objectives(fista(prox.l1, strength, 1.0), strength, 4_000)
    best = min(plain.min(), accelerated.min(), restarted.min())

    def iterations(values):
        reached = values <= best * (1 + tolerance)
        assert reached.any()
        return int(np.argmax(reached))

    assert iterations(restarted) <= iterations(accelerated) <= iterations(plain)
    assert 5 * iterations(restarted) < iterations(plain)


def test_rate_is_bounded_as_theory_says():
    """Beck and Teboulle, theorem 4.4: F(x_k) - F* <= 2 L |x_0 - x*|^2 / (k + 1)^2."""
    strength = 1e-3
    values = objectives(fista(prox.l1, strength, 1.0, restart="none"), strength, 2_000)
    x, y = ill_conditioned_lasso()
    from sklearn.linear_model import Lasso

    model = Lasso(alpha=strength / 100, fit_intercept=False, tol=1e-14, max_iter=1_000_000)
    best = model.fit(x, y).coef_
    optimum = 0.5 * ((x @ best - y) ** 2).sum() + strength * np.abs(best).sum()
    k = np.arange(1, 2_001)
    bound = 2 * (best**2).sum() / (k + 1) ** 2
    assert np.all(values - optimum <= bound + 1e-6)


def test_eval_params_are_found_inside_wrappers():
    params = {"a": jnp.array([1.0, 0.05]), "b": jnp.array([2.0]), "n": None}
    gradients = {"a": jnp.zeros(2), "b": jnp.zeros(1), "n": None}
    for wrap in (
        lambda t: optax.chain(optax.clip(1.0), t),
        lambda t: optax.masked(t, {"a": True, "b": False, "n": False}),
        lambda t: optax.multi_transform(
            {"x": t, "y": optax.set_to_zero()}, {"a": "x", "b": "y", "n": "y"}
        ),
    ):
        optimizer = wrap(fista(prox.l1, 0.1, 1.0))
        _, state = optimizer.update(gradients, optimizer.init(params), params)
        solution = fista_eval_params(state, params)
        np.testing.assert_allclose(solution["a"], [0.9, 0.0], rtol=1e-6)
        assert solution["n"] is None
    np.testing.assert_allclose(solution["b"], [2.0])


def test_bad_input():
    with pytest.raises(ValueError, match=r'one of \["gradient", "none"\], got \'value\''):
        fista(prox.l1, 0.1, 0.1, restart="value")
    with pytest.raises(ValueError, match="strength must be non-negative, got -1"):
        fista(prox.l1, -1, 0.1)
    with pytest.raises(ValueError, match="not passing `params`"):
        fista(prox.l1, 0.1, 0.1).update(jnp.ones(2), fista(prox.l1, 0.1, 0.1).init(jnp.ones(2)))
    state = proximal(prox.l1, 0.1, 0.1).init(jnp.ones(2))
    with pytest.raises(ValueError, match="contains a FistaState"):
        fista_eval_params(state, jnp.ones(2))
