"""Primal and dual together, on problems whose saddle points are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune.optim import dual_ascent, dual_pid, lagrangian, prox, proximal_sgd

CENTER = np.array([2.0, 1.0, -1.0])
NORMAL = np.array([1.0, 2.0, 2.0])


def distance(x):
    return 0.5 * jnp.sum((x - CENTER) ** 2)


def height(x):
    return jnp.dot(jnp.asarray(NORMAL, x.dtype), x)


def descend(pair, params, steps, *args):
    """Parameters, multipliers and the path of both, from one compiled scan."""

    def body(carry, _):
        params, state, info = pair.step(*carry, *args)
        return (params, state), (params, state.multipliers, info)

    run = jax.jit(lambda carry: jax.lax.scan(body, carry, length=steps))
    (params, state), path = run((params, pair.init(params)))
    return params, state.multipliers, path


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    "dual",
    [lambda: dual_ascent(0.05, cap=10.0), lambda: dual_pid(0.2, 0.05, 0.1, cap=10.0)],
    ids=["ascent", "pid"],
)
def test_converges_to_the_known_saddle_point(dual, normalize):
    """The projection of a point on a half-space: x = c - lambda a, lambda = (a.c - b) / |a|^2."""
    budget = -3.0
    multiplier = (NORMAL @ CENTER - budget) / (NORMAL @ NORMAL)
    pair = lagrangian(
        distance, height, budget, optax.sgd(0.1), dual(), initial=0.5, normalize=normalize
    )
    x, found, (_, multipliers, info) = descend(pair, jnp.zeros(3), 2000)
    np.testing.assert_allclose(found, multiplier, rtol=1e-4)
    np.testing.assert_allclose(x, CENTER - multiplier * NORMAL, atol=1e-4)
    assert abs(info.violations[-1]) < 1e-4
    np.testing.assert_allclose(info.costs[-1], budget, atol=1e-4)
    assert np.all((multipliers >= 0) & (multipliers <= 10.0))


def test_slack_constraint_costs_nothing():
    pair = lagrangian(distance, height, 100.0, optax.sgd(0.1), dual_ascent(0.1), initial=1.0)
    x, multiplier, _ = descend(pair, jnp.zeros(3), 500)
    assert multiplier == 0.0
    np.testing.assert_allclose(x, CENTER, atol=1e-5)


def test_several_constraints_at_once():
    """Lowest distance with x0 <= 1 and |x|_1 + ... : one active, one slack, one vector."""
    constraints = {"height": height, "entries": lambda x: x[:2]}
    budgets = {"height": 100.0, "entries": [1.0, 5.0]}
    with pytest.raises(ValueError, match="differ in structure"):
        descend(
            lagrangian(distance, constraints, budgets, optax.sgd(0.1), dual_ascent(0.1)),
            jnp.zeros(3),
            1,
        )
    budgets["entries"] = jnp.array([1.0, 5.0])
    pair = lagrangian(distance, constraints, budgets, optax.sgd(0.1), dual_pid(0.5, 0.1, 0.0))
    x, multipliers, _ = descend(pair, jnp.zeros(3), 1000)
    np.testing.assert_allclose(x, [1.0, 1.0, -1.0], atol=1e-4)
    np.testing.assert_allclose(multipliers["entries"], [1.0, 0.0], atol=1e-4)
    assert multipliers["height"] == 0.0


def test_one_step_by_hand():
    """Dual first: x = 0, cost 3 over budget 1, lambda = 0.5 * 2 = 1, gradient 2x - 1 + 1 * 3."""
    pair = lagrangian(
        lambda x, scale: scale * (x**2 - x),
        lambda x, scale: 3.0 + 3.0 * x,
        1.0,
        optax.sgd(0.1),
        dual_ascent(0.5),
    )
    x, state, info = pair.step(jnp.array(0.0), pair.init(jnp.array(0.0)), 1.0)
    assert (info.loss, info.costs, info.violations) == (0.0, 3.0, 2.0)
    assert state.multipliers == 1.0
    assert x == pytest.approx(-0.2)
    pair = lagrangian(
        lambda x: x**2 - x, lambda x: 3 + 3 * x, 1.0, optax.sgd(0.1), dual_ascent(0.5),
        normalize=True,
    )  # fmt: skip
    x, _, _ = pair.step(jnp.array(0.0), pair.init(jnp.array(0.0)))
    assert x == pytest.approx(-0.1)


def test_pid_overshoots_less_than_ascent():
    budget = -3.0
    multiplier = (NORMAL @ CENTER - budget) / (NORMAL @ NORMAL)
    start = jnp.asarray(CENTER - 0.4 * NORMAL, jnp.float32)
    overshoots = []
    for dual in (dual_ascent(0.02), dual_pid(0.1, 0.02, 0.1)):
        pair = lagrangian(distance, height, budget, optax.sgd(0.05), dual)
        _, found, (_, path, info) = descend(pair, start, 2000)
        np.testing.assert_allclose(found, multiplier, rtol=1e-3)
        overshoots.append((path.max() - multiplier, -info.violations.min()))
    (ascent, ascent_cost), (pid, pid_cost) = overshoots
    assert ascent > 0.2
    assert pid < 0.5 * ascent
    assert pid_cost < 0.5 * ascent_cost


def test_a_bilinear_game_needs_the_proportional_term():
    """min x with x >= 1: without curvature ascent circles the saddle point, PID reaches it."""

    def last(dual):
        pair = lagrangian(lambda x: x, lambda x: -x, -1.0, optax.sgd(0.1), dual)
        _, _, (path, multipliers, _) = descend(pair, jnp.array(0.0), 3000)
        return np.abs(path[-500:] - 1.0).max(), np.abs(multipliers[-500:] - 1.0).max()

    assert min(last(dual_ascent(0.1))) > 0.3
    assert max(last(dual_pid(1.0, 0.1, 0.0))) < 1e-3


def test_with_a_proximal_primal_step():
    """Sparse and constrained: min |x - c|^2 / 2 + s |x|_1 with sum(x) <= 0.5, against cvxpy."""
    cvxpy = pytest.importorskip("cvxpy", reason="cvxpy solves the constrained problem")
    variable = cvxpy.Variable(3)
    bound = cvxpy.sum(variable) <= 0.5
    objective = 0.5 * cvxpy.sum_squares(variable - CENTER) + 0.6 * cvxpy.norm1(variable)
    cvxpy.Problem(cvxpy.Minimize(objective), [bound]).solve(solver="CLARABEL")
    pair = lagrangian(
        distance, jnp.sum, 0.5, proximal_sgd(0.1, prox.l1, 0.6), dual_pid(0.3, 0.1, 0.0)
    )
    x, multiplier, _ = descend(pair, jnp.zeros(3), 1500)
    np.testing.assert_allclose(x, variable.value, atol=1e-4)
    np.testing.assert_allclose(multiplier, bound.dual_value, atol=1e-3)
    np.testing.assert_array_equal(np.asarray(x) == 0, np.abs(variable.value) < 1e-5)


def test_compiles_once():
    traces = []

    def loss(x, y):
        traces.append(1)
        return jnp.sum((x - y) ** 2)

    pair = lagrangian(loss, lambda x, y: jnp.sum(x), 1.0, optax.adam(0.1), dual_pid(1, 1, 1))
    step, x = jax.jit(pair.step), jnp.ones(3)
    state = pair.init(x)
    for i in range(4):
        x, state, _ = step(x, state, jnp.full(3, float(i)))
    assert len(traces) == 1


make = functools.partial(
    lagrangian, distance, height, 1.0, primal=optax.sgd(0.1), dual=dual_ascent(0.1)
)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make(initial=-1.0), "initial must be non-negative, got -1.0"),
        (
            lambda: lagrangian(1.0, height, 1.0, optax.sgd(0.1), dual_ascent(0.1)),
            "loss must be a function, got 1.0",
        ),
        (
            lambda: lagrangian(distance, {"a": 2}, 1.0, optax.sgd(0.1), dual_ascent(0.1)),
            "constraints must be a function, got 2",
        ),
        (
            lambda: descend(
                lagrangian(distance, lambda x: x, 1.0, optax.sgd(0.1), dual_ascent(0.1)),
                jnp.zeros(3),
                1,
            ),
            r"a cost has shape \(3,\) and its budget \(\)",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
