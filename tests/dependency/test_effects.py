"""Checks and Python in a network: channels pass, and reasons name what is in the way."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify, io_callback

from dependency.checks import assert_close, check_removal, random_masks
from dependency.test_rules import hidden_then, weights
from jaxprune import compact, masked, trace

X = weights(4, 3)


def groups(structure):
    return {group.name: group.size for group in structure.groups}


def test_errors_of_equinox_cost_no_channels():
    eqx = pytest.importorskip("equinox")
    apply, params = hidden_then(
        lambda h, p: jnp.tanh(eqx.error_if(h, jnp.isnan(h).any(), "not a number"))
    )
    structure = trace(apply, params, X)
    assert groups(structure) == {"a": 6}
    small = check_removal(apply, params, X, structure)
    with pytest.raises(Exception, match="not a number"):
        small(small.params, jnp.full((4, 3), jnp.nan))


def checked(h, p):
    checkify.check(jnp.all(h > -10), "at most {}", h.max())
    return jnp.tanh(h)


def test_checks_see_the_channels_that_are_left():
    apply, params = hidden_then(checked)
    params["a"] = params["a"].at[0, 2].set(-100.0)
    structure = trace(apply, params, X)
    assert groups(structure) == {"a": 6}
    masks = {"a": np.array([1, 1, 0, 1, 0, 1])}
    small = compact(apply, structure, params, masks)
    x = jnp.ones((4, 3))
    for fn, arguments, fails in [
        (apply, (params, x), True),
        (masked(apply, structure), (params, structure.full_masks(), x), True),
        (masked(apply, structure), (params, masks, x), False),
        (small, (small.params, x), False),
    ]:
        error, _ = jax.jit(checkify.checkify(fn))(*arguments)
        assert bool(error.get()) == fails


def test_all_checks_at_once():
    apply, params = hidden_then(checked)
    safe = checkify.checkify(apply, errors=checkify.all_checks)
    structure = trace(safe, params, X)
    assert groups(structure) == {"a": 6}
    masks = random_masks(structure, 0)
    small = compact(safe, structure, params, masks)
    assert_close(
        small(small.params, X)[1], masked(safe, structure)(params, masks, X)[1], tolerance=1e-5
    )


def test_python_with_effects_gets_whole_arrays():
    seen = []
    apply, params = hidden_then(
        lambda h, p: (
            jnp.tanh(h @ p["c"])
            + io_callback(
                lambda h: seen.append(h.shape) or np.ones((4, 5), np.float32),
                jax.ShapeDtypeStruct((4, 5), jnp.float32),
                h,
            )
        ),
        out=5,
        c=weights(6, 5),
    )
    structure = trace(apply, params, X)
    assert groups(structure) == {"c": 5}
    assert "io_callback" in structure.frozen[0].reason
    masks = {"c": np.array([1, 0, 1, 1, 0])}
    small = compact(apply, structure, params, masks)
    assert_close(small(small.params, X), masked(apply, structure)(params, masks, X))
    assert set(seen) == {(4, 6)}


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda h: jnp.fft.fft(h).real, "fft"),
        (lambda h: jax.pure_callback(lambda h: h, h, h), "pure_callback"),
        (lambda h: jax.lax.cond(h.sum() > 0, jnp.sort, jnp.sin, h), "sort"),
    ],
)
def test_reasons_name_the_operation_that_is_in_the_way(function, named):
    apply, params = hidden_then(lambda h, p: function(h))
    frozen, _ = trace(apply, params, X).frozen
    assert frozen.layers == ("a",)
    assert named in frozen.reason


def test_what_is_added_to_something_frozen_is_frozen_for_the_same_reason():
    apply, params = hidden_then(
        lambda h, p: jnp.fft.fft(h).real + jnp.tanh(h) @ p["c"], c=weights(6, 6)
    )
    reasons = {frozen.layers: frozen.reason for frozen in trace(apply, params, X).frozen}
    assert all("fft" in reasons[layer,] for layer in "ac" if (layer,) in reasons)
    assert len(reasons) >= 2


def test_channels_are_counted_where_all_are_coupled():
    """Twelve channels in four groups of three for a convolution, three of four for a norm."""
    apply, params = hidden_then(
        lambda h, p: h.reshape(4, 4, 3).sum(1) @ p["c"] + h.reshape(4, 3, 4).sum(1) @ p["d"],
        width=12,
        out=5,
        c=weights(3, 5),
        d=weights(4, 5),
    )
    frozen = {
        layer: frozen.size for frozen in trace(apply, params, X).frozen for layer in frozen.layers
    }
    assert frozen["a"] == 12


TWO_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from jaxprune import compact, masked, trace

mesh = Mesh(np.array(jax.devices()), "d")
rng = np.random.default_rng(0)
p = {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in
     dict(a=(3, 6), b=(6, 4), o=(4, 2)).items()}
x = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)

def examples_divided(p, x):
    return jax.lax.pmean(jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["o"], "d")

def channels_divided(p, x):
    return jax.nn.relu(jax.lax.psum(jax.nn.relu(x @ p["a"]) @ p["b"], "d")) @ p["o"]

for f, specs, groups in [
    (examples_divided, (P(), P("d")), {"a": 6, "b": 4}),
    (channels_divided, (dict(a=P(None, "d"), b=P("d"), o=P()), P()), {"b": 4}),
]:
    f = jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=P())
    s = trace(f, p, x)
    assert {g.name: g.size for g in s.groups} == groups, s
    masks = {g.name: np.arange(g.size) % 3 > 0 for g in s.groups}
    small = compact(f, s, p, masks)
    np.testing.assert_array_equal(masked(f, s)(p, s.full_masks(), x), f(p, x))
    np.testing.assert_allclose(small(small.params, x), jax.jit(masked(f, s))(p, masks, x), 1e-5)
print(s)
"""


def test_two_devices():
    flags = "--xla_force_host_platform_device_count=2"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "a (6 channels): 'shard_map': they are divided among devices" in done.stdout
