"""Each operator against the minimisation that defines it, solved by something else."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize_scalar

from jaxprune.optim import prox

# Penalties, written in numpy from their papers; the library has only operators.


def penalty_mcp(u, strength, gamma):
    u = np.abs(u)
    return np.where(
        u <= gamma * strength, strength * u - u**2 / (2 * gamma), gamma * strength**2 / 2
    )


def penalty_scad(u, strength, a):
    u = np.abs(u)
    middle = (2 * a * strength * u - u**2 - strength**2) / (2 * (a - 1))
    flat = strength**2 * (a + 1) / 2
    return np.where(u <= strength, strength * u, np.where(u <= a * strength, middle, flat))


SEPARABLE = {
    "l1": (prox.l1, lambda u, lam: lam * np.abs(u)),
    "squared_l2": (prox.squared_l2, lambda u, lam: lam * u**2 / 2),
    "elastic_net": (
        functools.partial(prox.elastic_net, l1_ratio=0.3),
        lambda u, lam: lam * (0.3 * np.abs(u) + 0.35 * u**2),
    ),
    "l0": (prox.l0, lambda u, lam: lam * (u != 0)),
    "mcp": (functools.partial(prox.mcp, gamma=1.5), lambda u, lam: penalty_mcp(u, lam, 1.5)),
    "scad": (functools.partial(prox.scad, a=2.5), lambda u, lam: penalty_scad(u, lam, 2.5)),
    "nonnegative": (prox.nonnegative(), lambda u, lam: np.where(u < 0, 1e9, 0.0)),
    "nonnegative_l1": (
        prox.nonnegative(prox.l1),
        lambda u, lam: np.where(u < 0, 1e9, lam * np.abs(u)),
    ),
    "nonnegative_scad": (
        prox.nonnegative(prox.scad),
        lambda u, lam: np.where(u < 0, 1e9, penalty_scad(u, lam, 3.7)),
    ),
}

GROUPED = {
    "l2": (prox.l2, lambda u: np.sqrt((u**2).sum())),
    "group_l2": (
        functools.partial(prox.group_l2, axis=0),
        lambda u: np.sqrt((u**2).sum(0)).sum(),
    ),
    "sparse_group": (
        functools.partial(prox.sparse_group, axis=0, l1_ratio=0.4),
        lambda u: 0.4 * np.abs(u).sum() + 0.6 * np.sqrt((u**2).sum(0)).sum(),
    ),
    "exclusive": (
        functools.partial(prox.exclusive, axis=0),
        lambda u: 0.5 * (np.abs(u).sum(0) ** 2).sum(),
    ),
    "nonnegative_group_l2": (
        prox.nonnegative(functools.partial(prox.group_l2, axis=0)),
        lambda u: np.where((u < 0).any(), np.inf, np.sqrt((u**2).sum(0)).sum()),
    ),
}

CONVEX = {
    **{name: SEPARABLE[name][0] for name in ("l1", "squared_l2", "elastic_net", "nonnegative_l1")},
    **{name: operator for name, (operator, _) in GROUPED.items()},
    "nuclear": prox.nuclear,
}

JITTED = {
    name: jax.jit(operator)
    for name, operator in {
        **CONVEX,
        **{name: operator for name, (operator, _) in SEPARABLE.items()},
        "rows": functools.partial(prox.group_l2, axis=0),
    }.items()
}


def minimise_scalar_function(f, x):
    """The global minimum over one coordinate: a fine grid, the kinks, and a local refinement."""
    grid = np.concatenate([np.linspace(-abs(x) - 1, abs(x) + 1, 4001), [0.0, x]])
    best = grid[np.argmin(f(grid))]
    spacing = (2 * abs(x) + 2) / 4000
    refined = minimize_scalar(f, bounds=(best - spacing, best + spacing), method="bounded").x
    return min(f(refined), f(best), f(np.float64(0.0)))


@pytest.mark.parametrize("name", SEPARABLE)
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("step", [0.4, 1.0, 2.0, 5.0])
def test_separable_operator_minimises(name, strength, step):
    operator, penalty = JITTED[name], SEPARABLE[name][1]
    x = np.array([-4.1, -2.2, -1.3, -0.55, -0.1, 0.0, 0.2, 0.9, 1.7, 2.6, 3.4, 6.0], np.float32)
    u = np.asarray(operator(x, strength, step), np.float64)
    for xi, ui in zip(x.astype(np.float64), u, strict=True):

        def objective(v, xi=xi):
            return (v - xi) ** 2 / (2 * step) + penalty(v, strength)

        assert objective(ui) <= minimise_scalar_function(objective, xi) + 1e-6, (xi, ui)


def test_hand_computed_values():
    x = jnp.array([-3.0, -1.0, 0.5, 2.0])
    np.testing.assert_allclose(prox.l1(x, 1.0), [-2, 0, 0, 1])
    np.testing.assert_allclose(prox.squared_l2(x, 1.0, 3.0), x / 4)
    np.testing.assert_allclose(prox.elastic_net(x, 2.0, l1_ratio=0.5), [-1, 0, 0, 0.5])
    np.testing.assert_allclose(prox.l0(x, 0.5), [-3, 0, 0, 2])
    np.testing.assert_allclose(prox.mcp(x, 1.0, gamma=3.0), [-3, 0, 0, 1.5])
    np.testing.assert_allclose(prox.scad(x, 1.0, a=3.7), [-(2.7 * 3 - 3.7) / 1.7, 0, 0, 1.0])
    np.testing.assert_allclose(prox.l2(jnp.array([3.0, 4.0]), 2.5), [1.5, 2.0])
    np.testing.assert_allclose(
        prox.group_l2(jnp.array([[3.0, 0.3], [4.0, 0.4]]), 2.5, axis=0),
        [[1.5, 0], [2, 0]],
        rtol=1e-6,
    )
    # theta = max(2, (3 + 2) / 2 ...) over k: 3/2, 5/3, 5.1/4 -> 5/3.
    np.testing.assert_allclose(
        prox.exclusive(jnp.array([3.0, -2.0, 0.1]), axis=0), [4 / 3, -1 / 3, 0], rtol=1e-6
    )
    np.testing.assert_allclose(
        prox.exclusive(jnp.array([3.0, -2.0, 0.1]), 0.5, axis=0, linearized=True),
        [3 - 2.55, 0, 0],
        rtol=1e-6,
    )
    np.testing.assert_allclose(prox.nonnegative(prox.l1)(x, 0.25), [0, 0, 0.25, 1.75])


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("scaled", [False, True])
def test_grouped_operator_minimises(name, scaled):
    cvxpy = pytest.importorskip("cvxpy", reason="cvxpy solves the defining problem")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 4)) * np.array([0.2, 1.0, 3.0, 0.02])
    step = rng.uniform(0.1, 3.0, size=x.shape) if scaled else np.full(x.shape, 0.7)
    strength = 0.8
    u = cvxpy.Variable(x.shape)
    norms = cvxpy.norm(u, 2, axis=0)
    penalty = {
        "l2": cvxpy.norm(u, "fro"),
        "group_l2": cvxpy.sum(norms),
        "nonnegative_group_l2": cvxpy.sum(norms),
        "sparse_group": 0.4 * cvxpy.sum(cvxpy.abs(u)) + 0.6 * cvxpy.sum(norms),
        "exclusive": 0.5 * cvxpy.sum(cvxpy.square(cvxpy.norm(u, 1, axis=0))),
    }[name]
    distance = cvxpy.sum(cvxpy.multiply(0.5 / step, cvxpy.square(u - x)))
    constraints = [u >= 0] if name.startswith("nonnegative") else []
    problem = cvxpy.Problem(cvxpy.Minimize(distance + strength * penalty), constraints)
    problem.solve(solver="CLARABEL")

    mine = np.asarray(GROUPED[name][0](x.astype(np.float32), strength, step if scaled else 0.7))

    def objective(u):
        return np.sum((u - x) ** 2 / (2 * step)) + strength * GROUPED[name][1](u)

    # Interior-point solutions are feasible and positive to about 1e-9, never exactly zero.
    theirs = np.maximum(u.value, 0) if constraints else u.value
    assert objective(mine.astype(np.float64)) <= objective(theirs) * (1 + 1e-7)
    np.testing.assert_allclose(mine, theirs, atol=1e-3)
    assert np.all((np.abs(theirs) > 1e-3) <= (mine != 0))
    assert np.all((np.abs(mine) > 1e-4) <= (np.abs(theirs) > 1e-5))


def test_nuclear_minimises():
    cvxpy = pytest.importorskip("cvxpy", reason="cvxpy solves the defining problem")
    x = np.random.default_rng(0).normal(size=(5, 4))
    u = cvxpy.Variable(x.shape)
    distance = 0.5 * cvxpy.sum_squares(u - x)
    cvxpy.Problem(cvxpy.Minimize(distance + 1.2 * cvxpy.normNuc(u))).solve(
        solver="SCS", eps=1e-9, max_iters=20000
    )
    mine = np.asarray(prox.nuclear(x.astype(np.float32), 1.5, 0.8))
    np.testing.assert_allclose(mine, u.value, atol=1e-4)
    singular = np.linalg.svd(x, compute_uv=False)
    assert np.linalg.matrix_rank(mine, tol=1e-4) == np.sum(singular > 1.2)
    np.testing.assert_array_equal(prox.nuclear(x, 1e3), np.zeros_like(x))


def test_nuclear_acts_on_each_matrix_of_a_batch():
    x = np.random.default_rng(1).normal(size=(3, 4, 5)).astype(np.float32)
    together = prox.nuclear(x, 0.7)
    for one, mine in zip(x, together, strict=True):
        np.testing.assert_allclose(prox.nuclear(one, 0.7), mine, atol=1e-6)


values = st.floats(-5, 5, width=32).filter(lambda v: v == 0 or abs(v) > 1e-6)
matrices = arrays(np.float32, (4, 3), elements=values)
amounts = st.floats(0.0078125, 4, width=32)


@pytest.mark.parametrize("name", CONVEX)
@settings(max_examples=25, deadline=None)
@given(x=matrices, y=matrices, strength=amounts, step=amounts)
def test_convex_operators_are_firmly_nonexpansive(name, x, y, strength, step):
    operator = JITTED[name]
    u, v = (np.asarray(operator(z, strength, step), np.float64) for z in (x, y))
    # Parikh and Boyd, eq. 3.1: |u - v|^2 <= <u - v, x - y>.
    difference = x.astype(np.float64) - y
    assert np.sum((u - v) ** 2) <= np.sum((u - v) * difference) + 1e-4


@pytest.mark.parametrize("name", GROUPED)
@settings(max_examples=25, deadline=None)
@given(
    x=matrices, strength=amounts, step=arrays(np.float32, (4, 3), elements=amounts), data=st.data()
)
def test_no_perturbation_improves_a_grouped_operator(name, x, strength, step, data):
    operator, penalty = JITTED[name], GROUPED[name][1]

    def objective(u):
        return np.sum((u - x.astype(np.float64)) ** 2 / (2 * step)) + strength * penalty(u)

    u = np.asarray(operator(x, strength, step), np.float64)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    for size in (1e-3, 1e-1):
        for direction in rng.normal(size=(8, 4, 3)):
            assert objective(u) <= objective(u + size * direction) + 1e-5


@pytest.mark.parametrize("name", ["l1", "mcp", "scad", *GROUPED])
@settings(max_examples=15, deadline=None)
@given(x=matrices, strength=amounts, step=amounts)
def test_equal_steps_for_each_coordinate_equal_one_step(name, x, strength, step):
    operator = JITTED[name]
    one = operator(x, strength, step)
    each = operator(x, strength, jnp.full(x.shape, step))
    np.testing.assert_allclose(one, each, atol=3e-5)


@pytest.mark.parametrize("name", [*SEPARABLE, *GROUPED, "nuclear"])
def test_strength_zero_is_the_identity(name):
    operator = {**SEPARABLE, **GROUPED, "nuclear": (prox.nuclear, None)}[name][0]
    x = np.abs(np.random.default_rng(0).normal(size=(4, 3))).astype(np.float32)
    for step in (0.5,) if name == "nuclear" else (0.5, jnp.full(x.shape, 0.5)):
        u = operator(x, 0.0, step)
        if name == "nuclear":
            np.testing.assert_allclose(u, x, atol=1e-6)
        else:
            np.testing.assert_array_equal(u, x)


@settings(max_examples=50, deadline=None)
@given(
    x=arrays(np.float32, 6, elements=values),
    log_step=arrays(np.float32, 6, elements=st.floats(-10, 10, width=32)),
    strength=amounts,
)
def test_group_operator_survives_steps_of_very_different_size(x, log_step, strength):
    """Newton must reach the root for steps that spread over nine orders of magnitude."""
    step = np.exp(log_step)
    u = np.asarray(JITTED["rows"](x, strength, step), np.float64)
    assert np.all(np.isfinite(u))
    x, step = x.astype(np.float64), step.astype(np.float64)
    if np.any(u):
        # Stationarity: u_i (1 + step_i strength / |u|) = x_i.
        reached = u * (1 + step * strength / np.linalg.norm(u))
        np.testing.assert_allclose(reached, x, atol=2e-5, rtol=2e-4)
    else:
        assert np.linalg.norm(x / step) <= strength * (1 + 1e-4) + 1e-12


def test_l2_shrinks_the_whole_tree_as_one_vector():
    tree = {"a": jnp.array([3.0]), "b": (jnp.array([[4.0]]), None)}
    shrunk = prox.l2(tree, 2.5)
    np.testing.assert_allclose(shrunk["a"], [1.5])
    np.testing.assert_allclose(shrunk["b"][0], [[2.0]])
    assert shrunk["b"][1] is None
    steps = {"a": jnp.array([1.0]), "b": (1.0, None)}
    np.testing.assert_allclose(prox.l2(tree, 2.5, steps)["b"][0], [[2.0]], rtol=1e-6)
    assert all(not jnp.any(leaf) for leaf in jax.tree.leaves(prox.l2(tree, 5.0)))


def test_trees_prefixes_and_weights():
    tree = {"a": jnp.array([1.0, -2.0]), "b": {"c": jnp.array([3.0]), "d": None}}
    u = prox.l1(tree, {"a": jnp.array([0.0, 1.0]), "b": 0.5}, {"a": 1.0, "b": 2.0})
    np.testing.assert_allclose(u["a"], [1, -1])
    np.testing.assert_allclose(u["b"]["c"], [2.0])
    assert u["b"]["d"] is None
    assert prox.l1({}) == {}
    assert prox.l2({}) == {}
    # One strength for each group: roots of the sizes, as Yuan and Lin weight them.
    weighted = prox.group_l2(jnp.ones((4, 2)), jnp.array([[0.5, 2.0]]), axis=0)
    np.testing.assert_allclose(weighted, [[0.75, 0.0]] * 4)


def test_group_axes_of_a_convolution():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype(np.float32)
    kernel[..., 2] *= 1e-3
    u = np.asarray(prox.group_l2(kernel, 0.5, axis=(0, 1, 2)))
    norms = np.sqrt((kernel**2).sum((0, 1, 2)))
    np.testing.assert_allclose(u, kernel * np.maximum(1 - 0.5 / norms, 0), rtol=1e-5)
    assert not u[..., 2].any()
    np.testing.assert_array_equal(u, prox.group_l2(kernel, 0.5, axis=(-4, 2, 1)))


def test_exclusive_leaves_coordinates_with_step_zero():
    x = jnp.array([1.0, -2.0, 0.5])
    u = prox.exclusive(x, 1.0, jnp.array([0.0, 1.0, 1.0]), axis=0)
    # theta = |1| + |u_2| with u_2 = -(2 - theta): theta = 1.5, and 0.5 falls to zero.
    np.testing.assert_allclose(u, [1.0, -0.5, 0.0], atol=1e-6)


@pytest.mark.parametrize("name", [*SEPARABLE, *GROUPED, "nuclear"])
def test_dtypes_are_kept_and_computed_in_float32(name):
    operator = {**SEPARABLE, **GROUPED, "nuclear": (prox.nuclear, None)}[name][0]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.bfloat16)
    u = operator(x, 0.3, 0.9)
    assert u.dtype == jnp.bfloat16
    wide = operator(x.astype(jnp.float32), 0.3, 0.9)
    np.testing.assert_array_equal(u, wide.astype(jnp.bfloat16))
    assert operator(x.astype(jnp.float32), jnp.bfloat16(0.3), 1).dtype == jnp.float32


@pytest.mark.parametrize("name", [*SEPARABLE, *GROUPED])
def test_zeros_have_no_sign(name):
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    u = np.asarray({**SEPARABLE, **GROUPED}[name][0](x, 0.8))
    assert not np.any(np.signbit(u) & (u == 0))


@pytest.mark.parametrize("name", [*SEPARABLE, *GROUPED])
def test_gradients_are_finite_at_zero(name):
    operator = {**SEPARABLE, **GROUPED}[name][0]
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(operator(x, 0.3) ** 2)))(jnp.zeros((4, 3)))
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("name", [*SEPARABLE, *GROUPED, "nuclear"])
def test_jit_and_vmap_agree_with_the_plain_call(name):
    operator = {**SEPARABLE, **GROUPED, "nuclear": (prox.nuclear, None)}[name][0]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 3)), jnp.float32)
    strengths = jnp.array([0.1, 0.7])
    mapped = jax.jit(jax.vmap(operator))(x, strengths, jnp.array([1.0, 0.5]))
    for i, step in enumerate((1.0, 0.5)):
        np.testing.assert_allclose(mapped[i], operator(x[i], strengths[i], step), atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: prox.l1(x, -1.0), r"strength must be non-negative, got -1.0"),
        (lambda x: prox.l1(x, {"w": -2.0}), r"strength must be non-negative, got -2.0"),
        (lambda x: prox.l1(x, float("nan")), r"strength must be non-negative, got nan"),
        (lambda x: prox.l2(x, 1.0, -0.5), r"step must be non-negative, got -0.5"),
        (lambda x: prox.elastic_net(x, l1_ratio=1.5), r"l1_ratio must be in \[0, 1\], got 1.5"),
        (lambda x: prox.mcp(x, gamma=0.0), r"gamma must be positive, got 0.0"),
        (lambda x: prox.scad(x, a=2.0), r"a must be above 2, got 2.0"),
        (lambda x: prox.group_l2(x, axis=2), r"axis=2, but a leaf has shape \(4, 3\).*masked"),
        (lambda x: prox.sparse_group(x, axis=(0, 0)), r"distinct axes, got axis=\(0, 0\)"),
        (lambda x: prox.exclusive(x, axis=()), r"one or more distinct axes, got axis=\(\)"),
        (
            lambda x: prox.group_l2(x, jnp.ones((4, 1)), axis=0),
            r"one strength for each group.*got shape \(4, 1\)",
        ),
        (lambda x: prox.nuclear({"w": x["w"][0]}), r"nuclear needs matrices.*shape \(3,\)"),
        (lambda x: prox.nuclear(x, 1.0, {"w": jnp.ones((4, 3))}), r"one step for each leaf"),
        (lambda x: prox.nonnegative(prox.nuclear), r"nonnegative\(nuclear\)"),
        (lambda x: prox.nonnegative(functools.partial(prox.nuclear)), r"nonnegative\(nuclear\)"),
        (lambda x: prox.nonnegative(3), r"operator must be a function, got 3"),
        (lambda x: prox.l1({"w": jnp.arange(3)}), r"real floating leaves, got dtype int32"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call({"w": jnp.ones((4, 3))})
