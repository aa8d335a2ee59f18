"""Multipliers: their steps by hand, their bounds, their answer to a known system."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from jaxprune.optim import dual_ascent, dual_pid


def follow(transform, multiplier, violations):
    """The multipliers after each violation."""
    state, path = transform.init(multiplier), []
    for violation in violations:
        updates, state = transform.update(jnp.asarray(violation), state, multiplier)
        multiplier = optax.apply_updates(multiplier, updates)
        path.append(multiplier)
    return np.asarray(path), state


def test_ascent_by_hand():
    path, _ = follow(dual_ascent(0.5, cap=1.2), jnp.array(0.0), [1.0, 2.0, -0.4, -3.0, 0.2])
    np.testing.assert_allclose(path, [0.5, 1.2, 1.0, 0.0, 0.1], atol=1e-7)


def test_ascent_moves_in_proportion_where_adam_does_not():
    for violation in (1e-3, 1e-1):
        path, _ = follow(dual_ascent(0.1), jnp.array(1.0), [violation])
        assert path[0] - 1.0 == pytest.approx(0.1 * violation, rel=1e-2)
        adam, _ = follow(optax.adam(0.1), jnp.array(1.0), [-violation])
        assert adam[0] - 1.0 == pytest.approx(0.1, rel=1e-3)


def test_schedule_and_several_constraints():
    caps = {"macs": 10.0, "params": jnp.array([0.1, 10.0])}
    transform = dual_ascent(optax.piecewise_constant_schedule(1.0, {1: 0.5}), cap=caps)
    multipliers = {"macs": jnp.array(0.0), "params": jnp.zeros(2)}
    violations = {"macs": jnp.array(0.3), "params": jnp.array([0.3, -0.2])}
    state = transform.init(multipliers)
    for macs, first in [(0.3, 0.1), (0.45, 0.1)]:
        updates, state = transform.update(violations, state, multipliers)
        multipliers = optax.apply_updates(multipliers, updates)
        np.testing.assert_allclose(multipliers["macs"], macs, rtol=1e-6)
        np.testing.assert_allclose(multipliers["params"], [first, 0.0], rtol=1e-6)


def test_pid_by_hand():
    """K_P = 2, K_I = 0.5, K_D = 3: Stooke's algorithm 2, with I started at the multiplier."""
    violations = [0.4, 0.6, 0.2, -1.0, -1.5, 0.1]
    expected, integral, old = [], 0.25, None
    for violation in violations:
        integral = max(integral + 0.5 * violation, 0.0)
        growth = 0.0 if old is None else max(violation - old, 0.0)
        expected.append(max(2 * violation + integral + 3 * growth, 0.0))
        old = violation
    path, state = follow(dual_pid(2.0, 0.5, 3.0), jnp.array(0.25), violations)
    np.testing.assert_allclose(path, expected, atol=1e-6)
    assert state.integral == pytest.approx(0.05)
    assert expected[-1] == pytest.approx(0.2 + 0.05 + 3 * 1.6)


def test_pid_without_proportional_and_derivative_is_ascent():
    violations = np.random.default_rng(0).normal(size=30)
    ascent, _ = follow(dual_ascent(0.3, cap=1.0), jnp.array(0.5), violations)
    pid, _ = follow(dual_pid(0.0, 0.3, 0.0, cap=1.0), jnp.array(0.5), violations)
    np.testing.assert_allclose(ascent, pid, atol=1e-6)
    assert 0.0 in ascent
    assert 1.0 in ascent


def test_pid_smoothing_is_a_moving_average():
    path, _ = follow(dual_pid(1.0, 0.0, 0.0, smoothing=0.75), jnp.array(0.0), [1.0, 2.0, 2.0])
    np.testing.assert_allclose(path, [1.0, 1.25, 1.4375], rtol=1e-6)


def test_pid_integral_does_not_wind_up():
    """A hundred violations at the cap are forgotten within a few steps of satisfaction."""
    path, state = follow(dual_pid(0.0, 1.0, 0.0, cap=2.0), jnp.array(0.0), [1.0] * 100 + [-1.0] * 2)
    assert state.integral == 0.0
    assert path[99] == 2.0
    assert path[-1] == 0.0


violations = arrays(np.float32, (12, 3), elements=st.floats(-100, 100, width=32))
ascend = jax.jit(lambda c, m, v, s: dual_ascent(0.37, cap=c).update(v, s, m))
control = jax.jit(lambda c, m, v, s: dual_pid(0.7, 0.37, 1.9, cap=c).update(v, s, m))


@pytest.mark.parametrize("step", [ascend, control], ids=["ascent", "pid"])
@settings(max_examples=60, deadline=None)
@given(
    violations=violations,
    cap=st.floats(0.0009765625, 50, width=32),
    start=arrays(np.float32, 3, elements=st.floats(0, 1, width=32)),
)
def test_multipliers_never_leave_their_bounds(step, violations, cap, start):
    cap = np.float32(cap)
    multiplier = jnp.asarray(start) * cap
    make = dual_ascent(0.37) if step is ascend else dual_pid(0.7, 0.37, 1.9)
    state = make.init(multiplier)
    for violation in violations:
        updates, state = step(cap, multiplier, violation, state)
        multiplier = optax.apply_updates(multiplier, updates)
        assert np.all((multiplier >= 0) & (multiplier <= cap))


def test_sum_that_would_round_to_above_the_cap():
    """A pair for which multiplier + (cap - multiplier) > cap in float32."""
    unit = np.float32(2.0**-23)
    cap, multiplier = (np.float32(float.fromhex(x)) for x in ("0x1.e9aa5ap+0", "0x1.2f8d36p-1"))
    assert multiplier + np.float32(cap - multiplier) > cap
    path, _ = follow(dual_ascent(1.0, cap=cap), jnp.asarray(multiplier), [100.0])
    assert path[0] <= cap
    assert path[0] >= cap - 2 * unit


def test_low_precision_multipliers_keep_their_dtype():
    for transform in (dual_ascent(0.5, cap=1.0), dual_pid(0.1, 0.5, 0.1, cap=1.0)):
        multiplier = jnp.array(0.1, jnp.bfloat16)
        state = transform.init(multiplier)
        for violation, expected in [(5.0, 1.0), (-5.0, 0.0)]:
            updates, state = transform.update(jnp.array(violation), state, multiplier)
            multiplier = optax.apply_updates(multiplier, updates)
            assert multiplier.dtype == jnp.bfloat16
            assert multiplier == expected


def second_order_plant(transform, steps=400):
    """A cost that follows the multiplier late: cost' = 0.05 (1 - multiplier / 2 - cost)."""

    def body(carry, _):
        cost, multiplier, state = carry
        updates, state = transform.update(cost - 0.4, state, multiplier)
        multiplier = optax.apply_updates(multiplier, updates)
        cost = cost + 0.05 * (1.0 - 0.5 * multiplier - cost)
        return (cost, multiplier, state), (cost, multiplier)

    start = (jnp.array(1.0), jnp.array(0.0), transform.init(jnp.array(0.0)))
    return (np.asarray(a) for a in jax.lax.scan(body, start, length=steps)[1])


def test_pid_overshoots_less_than_ascent():
    """Both settle at cost 0.4, multiplier 1.2; integral control alone rings on its way."""
    ascent_cost, ascent = second_order_plant(dual_ascent(0.1))
    pid_cost, pid = second_order_plant(dual_pid(1.0, 0.1, 1.0))
    np.testing.assert_allclose([ascent[-1], pid[-1]], 1.2, atol=1e-3)
    np.testing.assert_allclose([ascent_cost[-1], pid_cost[-1]], 0.4, atol=1e-3)
    overshoot, damped = ascent.max() - 1.2, pid.max() - 1.2
    assert overshoot > 0.3
    assert damped < 0.5 * overshoot
    assert 0.4 - pid_cost.min() < 0.25 * (0.4 - ascent_cost.min())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dual_ascent(-0.1), "learning_rate must be non-negative, got -0.1"),
        (lambda: dual_ascent(0.1, cap=-1.0), "cap must be non-negative, got -1.0"),
        (lambda: dual_pid(-1.0, 0.1, 0.1), "proportional must be non-negative, got -1.0"),
        (lambda: dual_pid(1.0, -0.1, 0.1), "integral must be non-negative, got -0.1"),
        (lambda: dual_pid(1.0, 0.1, -0.2), "derivative must be non-negative, got -0.2"),
        (lambda: dual_pid(1.0, 0.1, 0.1, smoothing=1.0), r"smoothing must be in \[0, 1\), got 1.0"),
        (lambda: dual_ascent(0.1).update(1.0, optax.EmptyState()), "not passing `params`"),
        (
            lambda: dual_pid(1.0, 1.0, 1.0).update(1.0, optax.EmptyState()),
            "not passing `params`",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
