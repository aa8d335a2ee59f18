"""Kernel patterns against a search through all of them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune.optim import admm, prox

SOME = np.array(
    [
        [[1, 1, 0], [1, 1, 0], [0, 0, 0]],
        [[0, 1, 0], [1, 1, 1], [0, 0, 0]],
        [[0, 0, 0], [0, 1, 1], [0, 1, 1]],
    ],
    bool,
)


@pytest.mark.parametrize("scaled", [False, True])
def test_each_kernel_has_the_nearest_pattern(scaled):
    x = jax.random.normal(jax.random.key(0), (3, 3, 2, 4))
    steps = jnp.exp(jax.random.normal(jax.random.key(1), x.shape)) if scaled else jnp.ones(x.shape)
    operator = functools.partial(prox.kernel_patterns, patterns=SOME)
    found = jax.jit(operator)(x, 1.0, steps if scaled else 1.0)
    for i, o in itertools.product(range(2), range(4)):
        kernel = np.asarray(x[:, :, i, o], np.float64)
        lengths = np.asarray(steps[:, :, i, o], np.float64)
        lost = [(((kernel * ~pattern) ** 2) / lengths).sum() for pattern in SOME]
        expected = kernel * SOME[int(np.argmin(lost))]
        np.testing.assert_allclose(found[:, :, i, o], expected, rtol=1e-6)


def test_all_patterns_keep_the_largest_weights():
    everything = prox.all_patterns((3, 3), 4)
    assert everything.shape == (126, 3, 3)
    assert len(np.unique(everything.reshape(126, -1), axis=0)) == 126
    assert (everything.sum((1, 2)) == 4).all()
    x = jax.random.normal(jax.random.key(2), (3, 3, 3, 2))
    found = np.asarray(prox.kernel_patterns(x, patterns=everything)).reshape(9, -1)
    size = abs(np.asarray(x)).reshape(9, -1)
    np.testing.assert_array_equal(found != 0, size >= np.sort(size, axis=0)[-4])
    np.testing.assert_array_equal(prox.kernel_patterns(x, 0.0, patterns=everything), x)


def test_other_layouts():
    x = jax.random.normal(jax.random.key(3), (4, 2, 3, 3))  # PyTorch's
    found = prox.kernel_patterns(x, patterns=SOME, window=(2, 3))
    flax = prox.kernel_patterns(x.transpose(2, 3, 1, 0), patterns=SOME)
    np.testing.assert_array_equal(found, flax.transpose(3, 2, 0, 1))
    line = prox.kernel_patterns(jnp.array([[1.0], [-3.0], [2.0]]), patterns=[[0, 1, 1]], window=[0])
    np.testing.assert_array_equal(line, [[0.0], [-3.0], [2.0]])


def test_dominant_patterns_are_those_of_most_votes():
    """Twelve kernels of two weights: seven of one pattern, four of another, one of a third."""
    kernels = np.full((2, 2, 12), 0.01, np.float32)
    kernels[0, :, :7] = 1.0
    kernels[:, 1, 7:11] = -2.0
    kernels[1, :, 11] = 3.0
    x = {"a": jnp.asarray(kernels[..., :8, None]), "b": jnp.asarray(kernels[..., None, 8:])}
    found = prox.dominant_patterns(x, 2, 2)
    np.testing.assert_array_equal(found, [[[1, 1], [0, 0]], [[0, 1], [0, 1]]])
    assert len(prox.dominant_patterns(x, 2, 9)) == 3


def test_patterns_by_admm():
    """PCNN's training: kernels end in patterns, and near the target where it has them."""
    target = jnp.zeros((3, 3, 1, 3)).at[:, :, 0, :].set(jnp.asarray(SOME, jnp.float32).T * 2 - 0.1)
    operator = functools.partial(prox.kernel_patterns, patterns=SOME.transpose(0, 2, 1))
    optimizer = optax.chain(admm(operator, 1.0, 0.5, every=5), optax.sgd(0.3))

    def body(carry, _):
        w, state = carry
        updates, state = optimizer.update(w - target, state, w)
        return (optax.apply_updates(w, updates), state), None

    start = 0.1 * jax.random.normal(jax.random.key(4), target.shape)
    (w, _), _ = jax.jit(lambda w: jax.lax.scan(body, (w, optimizer.init(w)), length=400))(start)
    np.testing.assert_allclose(operator(w), jnp.where(target > 0, target, 0), atol=0.02)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: prox.kernel_patterns(jnp.ones((3, 3, 1, 1)), patterns=SOME[0]), "got shape"),
        (lambda: prox.kernel_patterns(jnp.ones((3, 3, 1, 1)), patterns=SOME[:0]), "with P > 0"),
        (lambda: prox.kernel_patterns(jnp.ones((5, 5, 1, 1)), patterns=SOME), r"window \(5, 5\)"),
        (lambda: prox.all_patterns((3, 3), 10), "keep must be from 1 to 9, got 10"),
        (lambda: prox.dominant_patterns(jnp.ones((3, 3, 1, 1)), 4, 0), "count must be at least 1"),
        (
            lambda: prox.dominant_patterns([jnp.ones((3, 3, 1)), jnp.ones((1, 1, 1))], 1, 1),
            r"kernels of one window, got \[\(1, 1\), \(3, 3\)\]",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
