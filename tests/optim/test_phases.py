"""Warm-up, ramp and healing, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune.optim import healing, prox, proximal, proximal_adam, proximal_sgd, ramp


def run(optimizer, params, gradient, steps):
    """The parameters after every step, the first among them."""
    state, seen = optimizer.init(params), [params]
    step = jax.jit(optimizer.update)
    for _ in range(steps):
        updates, state = step(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return seen


def test_the_ramp_by_hand():
    schedule = ramp(2, 6, 8.0, until=9)
    # 8 (1 - (1 - t / 4)^3) for t = 0, 1, 2, 3.
    expected = [0, 0, 0, 8 - 27 / 8, 7, 8 - 1 / 8, 8, 8, 8, 0, 0]
    np.testing.assert_allclose([schedule(t) for t in range(11)], expected, rtol=1e-6)
    line = ramp(0, 4, 2.0, power=1.0)
    np.testing.assert_allclose([line(t) for t in range(6)], [0, 0.5, 1, 1.5, 2, 2])
    at_once = ramp(3, 3, 1.5)
    np.testing.assert_allclose([at_once(t) for t in range(5)], [0, 0, 0, 1.5, 1.5])
    assert jax.jit(schedule)(jnp.int32(4)) == pytest.approx(7)


def test_the_ramp_is_that_of_gradual_pruning():
    """Zhu and Gupta's eq. 1 as they print it."""
    s_i, s_f, t_0, n = 0.0, 0.9, 10, 40
    for t in range(t_0, t_0 + n):
        expected = s_f + (s_i - s_f) * (1 - (t - t_0) / n) ** 3
        np.testing.assert_allclose(ramp(t_0, t_0 + n, s_f)(t), expected, atol=1e-6)


def test_nothing_shrinks_in_the_warm_up():
    params = jnp.array([1.0, 0.01, -0.5])
    with_ramp = proximal_sgd(0.1, prox.l1, ramp(3, 3, 0.5))
    zero = run(optax.sgd(0.1), params, jnp.ones_like, 3)
    seen = run(with_ramp, params, jnp.ones_like, 4)
    for mine, plain in zip(seen[:4], zero, strict=True):
        np.testing.assert_allclose(mine, plain, rtol=1e-6)
    np.testing.assert_allclose(seen[4], prox.l1(zero[3] - 0.1, 0.5, 0.1), rtol=1e-6)


@pytest.mark.parametrize("make", [proximal_sgd, proximal_adam])
def test_healing_keeps_zeros_and_takes_the_bias_of_the_rest(make):
    """min (w - target)^2 / 2 with l1: at first target - strength, in the end the target itself."""
    target = jnp.array([2.0, -1.0, 0.1, -0.05, 0.3])
    strength = ramp(0, 0, 0.2, until=300)
    optimizer = optax.chain(make(0.1, prox.l1, strength), healing(300))
    seen = run(optimizer, jnp.ones(5), lambda w: w - target, 600)
    before = np.asarray(seen[300])
    np.testing.assert_allclose(before, [1.8, -0.8, 0, 0, 0.1], atol=1e-2)
    np.testing.assert_array_equal(before == 0, [False, False, True, True, False])
    for params in seen[301:]:
        np.testing.assert_array_equal(np.asarray(params) == 0, before == 0)
    np.testing.assert_allclose(seen[-1], [2.0, -1.0, 0, 0, 0.3], atol=1e-2)


def test_zeros_move_until_healing_starts():
    seen = run(optax.chain(optax.sgd(1.0), healing(1)), jnp.zeros(2), lambda w: -jnp.ones(2), 2)
    np.testing.assert_array_equal(seen[1], [1.0, 1.0])
    np.testing.assert_array_equal(seen[2], [2.0, 2.0])
    seen = run(optax.chain(optax.adamw(1.0), healing(0)), jnp.zeros(2), lambda w: -jnp.ones(2), 2)
    np.testing.assert_array_equal(seen[2], [0.0, 0.0])


def test_the_sparsity_follows_the_ramp():
    """One budget over two tensors: of eleven entries, as many are zero as the ramp asks."""
    params = {"a": jax.random.normal(jax.random.key(0), (2, 4)), "b": jnp.array([3.0, 0.2, -4.0])}
    schedule = ramp(1, 9, 0.7)
    entries = lambda x, strength, step: prox.joint_sparsity(x, strength, step, axis=())  # noqa: E731
    optimizer = optax.chain(optax.sgd(0.01), proximal(entries, schedule, 0.01))
    seen = run(optimizer, params, lambda p: jax.tree.map(jnp.sin, p), 12)
    zeros = [sum(int((leaf == 0).sum()) for leaf in jax.tree.leaves(p)) for p in seen]
    assert zeros[1:] == [round(11 * float(schedule(t))) for t in range(12)]
    assert zeros[-1] == 8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ramp(-1, 3, 1.0), "start must be non-negative, got -1"),
        (lambda: ramp(0, 3, -1.0), "value must be non-negative, got -1.0"),
        (lambda: ramp(5, 3, 1.0), "start <= stop <= until, got start=5, stop=3"),
        (lambda: ramp(1, 3, 1.0, until=2), "start <= stop <= until.*until=2"),
        (lambda: ramp(1, 3, 1.0, power=0.0), "power must be positive, got 0.0"),
        (lambda: healing(-1), "start must be non-negative, got -1"),
        (lambda: healing(0).update(jnp.ones(2), healing(0).init(None)), "not passing `params`"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
