"""Optimizers against the optima that scikit-learn and cvxpy find."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression

from jaxprune.optim import fista, fista_eval_params, prox, proximal_adam, proximal_sgd


def solve(optimizer, loss, params, steps):
    """Runs an optimizer on full gradients in one compiled scan; returns the solution."""

    @jax.jit
    def run(params):
        def body(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, optimizer.init(params)), length=steps)[0]

    params, state = run(params)
    try:
        return fista_eval_params(state, params)
    except ValueError:
        return params


@functools.cache
def regression():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 40)) @ (np.eye(40) + 0.1 * rng.normal(size=(40, 40)))
    truth = np.where(np.arange(40) % 5 == 0, rng.normal(size=40) * 2, 0.0)
    y = x @ truth + 0.5 * rng.normal(size=120)
    return x, y, 1.0 / np.linalg.eigvalsh(x.T @ x / 120)[-1]


def squared_error(params):
    x, y, _ = regression()
    residual = jnp.asarray(x, jnp.float32) @ params - jnp.asarray(y, jnp.float32)
    return 0.5 * jnp.mean(residual**2)


def objective(params, penalty):
    """In float64, whatever the optimizer computed in."""
    x, y, _ = regression()
    w = np.asarray(params, np.float64)
    return 0.5 * np.mean((x @ w - y) ** 2) + penalty(w)


STRENGTH = 0.15
_, _, STEP = regression()
OPTIMIZERS = {
    "ista": (lambda operator: proximal_sgd(STEP, operator, STRENGTH), 1500),
    "momentum": (lambda operator: proximal_sgd(STEP, operator, STRENGTH, momentum=0.7), 1000),
    "fista": (lambda operator: fista(operator, STRENGTH, STEP), 400),
    "adam": (
        lambda operator: proximal_adam(
            optax.cosine_decay_schedule(0.05, 4000), operator, STRENGTH, b2=0.99
        ),
        4000,
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("l1_ratio", [1.0, 0.4])
def test_lasso_and_elastic_net_reach_scikit_learn(name, l1_ratio):
    x, y, _ = regression()
    theirs = (
        ElasticNet(
            alpha=STRENGTH, l1_ratio=l1_ratio, fit_intercept=False, tol=1e-12, max_iter=100_000
        )
        .fit(x, y)
        .coef_
    )
    make, steps = OPTIMIZERS[name]
    operator = functools.partial(prox.elastic_net, l1_ratio=l1_ratio)
    mine = solve(make(operator), squared_error, jnp.zeros(40), steps)

    def penalty(w):
        return STRENGTH * (l1_ratio * np.abs(w).sum() + (1 - l1_ratio) / 2 * (w**2).sum())

    best = objective(theirs, penalty)
    assert abs(objective(mine, penalty) - best) <= 1e-6 * best
    np.testing.assert_array_equal(np.asarray(mine) == 0, theirs == 0)
    assert 5 <= np.sum(theirs == 0) <= 35


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nonnegative_lasso_reaches_scikit_learn(name):
    x, y, _ = regression()
    lasso = Lasso(alpha=STRENGTH, fit_intercept=False, positive=True, tol=1e-12, max_iter=100_000)
    theirs = lasso.fit(x, y).coef_
    make, steps = OPTIMIZERS[name]
    mine = solve(make(prox.nonnegative(prox.l1)), squared_error, jnp.zeros(40), steps)
    best = objective(theirs, lambda w: STRENGTH * np.abs(w).sum())
    assert abs(objective(mine, lambda w: STRENGTH * np.abs(w).sum()) - best) <= 1e-6 * best
    np.testing.assert_array_equal(np.asarray(mine) == 0, theirs == 0)


@functools.cache
def group_lasso_optimum():
    cvxpy = pytest.importorskip("cvxpy", reason="cvxpy solves the group lasso")
    x, y, _ = regression()
    w = cvxpy.Variable((8, 5))
    residual = x @ cvxpy.reshape(w, (40,), order="C") - y
    penalty = cvxpy.sum(cvxpy.norm(w, 2, axis=1))
    problem = cvxpy.Problem(cvxpy.Minimize(0.5 / 120 * cvxpy.sum_squares(residual) + 0.8 * penalty))
    problem.solve(solver="CLARABEL")
    return problem.value, w.value


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (lambda rows: proximal_sgd(STEP, rows, 0.8), 1000),
        (lambda rows: fista(rows, 0.8, STEP), 300),
        (
            lambda rows: proximal_adam(optax.cosine_decay_schedule(0.05, 4000), rows, 0.8, b2=0.99),
            4000,
        ),
    ],
    ids=["ista", "fista", "adam"],
)
def test_group_lasso_reaches_cvxpy(make, steps):
    best, theirs = group_lasso_optimum()
    rows = functools.partial(prox.group_l2, axis=1)
    mine = solve(make(rows), lambda w: squared_error(w.reshape(-1)), jnp.zeros((8, 5)), steps)

    def penalty(w):
        return 0.8 * np.sqrt((w.reshape(8, 5) ** 2).sum(1)).sum()

    assert abs(objective(np.asarray(mine).reshape(-1), penalty) - best) <= 1e-6 * best
    empty = np.linalg.norm(theirs, axis=1) < 1e-5
    np.testing.assert_array_equal(~np.any(np.asarray(mine), axis=1), empty)
    assert 1 <= empty.sum() <= 7


def test_sparse_logistic_regression_reaches_scikit_learn():
    digits = load_digits()
    chosen = digits.target < 2
    x = digits.data[chosen] / 16.0
    y = 2.0 * digits.target[chosen] - 1.0
    strength = 0.01
    theirs = (
        LogisticRegression(
            C=1.0 / (strength * len(y)),
            l1_ratio=1.0,
            solver="liblinear",
            fit_intercept=False,
            tol=1e-10,
            max_iter=10_000,
        )
        .fit(x, y)
        .coef_[0]
    )

    def loss(w):
        return jnp.mean(jax.nn.softplus(-jnp.asarray(y) * (jnp.asarray(x) @ w)))

    def full_objective(w):
        w = np.asarray(w, np.float64)
        return np.mean(np.logaddexp(0, -y * (x @ w))) + strength * np.abs(w).sum()

    step = 4.0 / np.linalg.eigvalsh(x.T @ x / len(y))[-1]
    mine = solve(fista(prox.l1, strength, step), loss, jnp.zeros(64), 3000)
    best = full_objective(theirs)
    assert abs(full_objective(mine) - best) <= 1e-6 * best
    np.testing.assert_array_equal(np.asarray(mine) == 0, theirs == 0)
    assert 3 <= np.sum(theirs != 0) <= 40


def test_plain_adam_has_another_fixed_point():
    """Why the variants are told apart: the plain one does not minimise loss + penalty."""
    x, y, _ = regression()
    best = Lasso(alpha=STRENGTH, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(x, y).coef_
    rate = optax.cosine_decay_schedule(0.05, 4000)

    def excess(scaled):
        optimizer = proximal_adam(rate, prox.l1, STRENGTH, b2=0.99, scaled=scaled)
        mine = solve(optimizer, squared_error, jnp.zeros(40), 4000)

        def penalty(w):
            return STRENGTH * np.abs(w).sum()

        return objective(mine, penalty) / objective(best, penalty) - 1.0

    assert excess(scaled=True) <= 1e-6
    assert excess(scaled=False) >= 1e-2
