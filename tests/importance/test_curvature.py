"""OBD and GraSP against the whole Hessian of a tiny network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from jaxprune import importance, trace

X = jax.random.normal(jax.random.key(5), (6, 2))
LABELS = jnp.array([0, 1, 2, 2, 1, 0])


def apply(params, x):
    """Two layers added up, and a third that reads their sum; the bias has no part in any score."""
    hidden = jnp.tanh(x @ params["a"] + params["bias"]) + jnp.sin(x @ params["b"])
    return hidden @ params["out"]


PARAMS = {
    name: jax.random.normal(key, shape)
    for (name, shape), key in zip(
        {"a": (2, 4), "b": (2, 4), "bias": (4,), "out": (4, 3)}.items(),
        jax.random.split(jax.random.key(4), 4),
        strict=True,
    )
}
KERNELS = {name: PARAMS[name] for name in ("a", "b", "out")}
STRUCTURE = trace(apply, PARAMS, X)


def loss(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def loss_of(kernels):
    return loss(apply({**PARAMS, **kernels}, X))


@functools.cache
def derivatives():
    """The kernels as one vector, the gradient and the Hessian in it, and each channel's places."""
    vector, unravel = ravel_pytree(KERNELS)
    of_vector = jax.jit(lambda v: loss_of(unravel(v)))
    places = unravel(jnp.arange(vector.size))
    channels = [np.concatenate([places["a"][:, c], places["b"][:, c]]) for c in range(4)]
    gradient, hessian = jax.grad(of_vector)(vector), jax.hessian(of_vector)(vector)
    return [np.asarray(value, np.float64) for value in (vector, gradient, hessian)], channels


def test_exact_obd_is_the_diagonal_of_the_hessian():
    (w, _, hessian), channels = derivatives()
    saliencies = np.diagonal(hessian) * w**2 / 2
    expected = [max(saliencies[c].sum(), 0.0) for c in channels]
    scores = importance.obd(STRUCTURE, apply, PARAMS, X, loss, probes=None)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)
    assert (scores > 0).any()


def test_obd_of_a_quadratic_is_the_change_of_the_loss():
    """Weights at their optimum, Hessian without entries off the diagonal: one probe is exact."""
    params = {"a": jnp.array([[1.0, -2.0, 0.5]]), "out": jnp.eye(3)}

    def squares(outputs):
        return (jnp.array([1.0, 3.0, 8.0]) * (outputs - params["a"][0]) ** 2).sum() / 2

    def linear(p, x):
        return x @ p["a"] @ jax.lax.stop_gradient(p["out"])

    x = jnp.ones((1, 1))
    structure = trace(linear, params, x)
    scores = importance.obd(structure, linear, params, x, squares, probes=1)
    np.testing.assert_allclose(scores, [0.5, 6.0, 1.0], rtol=1e-5)


def test_probes_estimate_the_exact_scores():
    (w, _, hessian), channels = derivatives()
    saliencies = np.diagonal(hessian) * w**2 / 2
    exact = np.array([max(saliencies[c].sum(), 0.0) for c in channels])
    many = importance.obd(STRUCTURE, apply, PARAMS, X, loss, probes=400)
    assert abs(many - exact).max() < 0.1 * exact.max()
    other = importance.obd(STRUCTURE, apply, PARAMS, X, loss, probes=400, key=jax.random.key(9))
    assert not np.array_equal(many, other)
    with pytest.raises(ValueError, match="probes is 0, but must be at least 1"):
        importance.obd(STRUCTURE, apply, PARAMS, X, loss, probes=0)


def test_grasp_is_the_change_of_the_squared_norm_of_the_gradient():
    (w, gradient, hessian), channels = derivatives()
    kept_up = w * (hessian @ gradient)
    expected = np.array([kept_up[c].sum() for c in channels])
    scores = importance.grasp(STRUCTURE, apply, PARAMS, X, loss)
    np.testing.assert_allclose(scores, expected - expected.min(), rtol=1e-3, atol=1e-5)

    # Shrinking a channel's weights changes |g|^2 by twice that, to first order.
    def squared_norm(factors):
        kernels = {**KERNELS, "a": KERNELS["a"] * factors, "b": KERNELS["b"] * factors}
        return optax.tree_utils.tree_sum(
            jax.tree.map(lambda g: (g**2).sum(), jax.grad(loss_of)(kernels))
        )

    slopes = jax.jit(jax.grad(squared_norm))(jnp.ones(4))
    np.testing.assert_allclose(slopes / 2, expected, rtol=1e-3, atol=1e-5)


def test_half_precision_and_counters():
    """Kernels of bfloat16 are differentiated as such, and whole numbers are left alone."""
    half = {**jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS), "count": jnp.int32(3)}
    structure = trace(apply, half, X.astype(jnp.bfloat16))
    for criterion in (importance.obd, importance.grasp):
        scores = criterion(structure, apply, half, X.astype(jnp.bfloat16), loss)
        assert scores.dtype == jnp.float32
        assert np.isfinite(scores).all()
