"""Tracing and compacting stay quick, and grow in proportion to the network.

What is counted is the same on every machine: calls of functions, and programs that are compiled.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import importance, prune, trace
from jaxprune.networks import bundled


def counted(function):
    """(how many functions were called on the way, the result)."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        result = function()
    finally:
        sys.setprofile(None)
    return calls, result


def abstract(name, image_shape):
    network = bundled.build(name, image_shape)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    return network, variables, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)


def test_resnet50_is_traced_with_little_more_work_than_jax_does_itself():
    network, variables, x = abstract("resnet50", (224, 224, 3))
    least, _ = counted(lambda: jax.make_jaxpr(lambda *args: network.apply(*args))(variables, x))
    calls, structure = counted(lambda: trace(network.apply, variables, x))
    assert len(structure.groups) == 37
    assert calls < 2 * least


@pytest.fixture
def compiled():
    """The seconds that each program takes to compile, as they are compiled."""
    seconds = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seconds
    jax.monitoring.unregister_event_duration_listener(listen)


def test_vgg19_is_pruned_without_compiling_and_called_with_one_program(compiled):
    network, variables, x = abstract("vgg19", (32, 32, 3))
    draw = np.random.default_rng(0)
    leaves = jax.tree.map(lambda leaf: draw.random(leaf.shape, np.float32), variables)
    small = prune(network.apply, jax.device_put(leaves), x, budget=0.3)
    kernels = [leaf.shape for leaf in jax.tree.leaves(small.params) if leaf.ndim == 4]
    assert len(kernels) == 16
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(small.params))
    assert small.widths["conv5_4"] < 512
    assert compiled == []
    for _ in range(2):
        small(small.params, np.zeros((1, 32, 32, 3), np.float32))
    assert len(compiled) == 1


def test_importance_of_concrete_parameters_compiles_nothing(compiled):
    network, variables, x = abstract("vgg11", (32, 32, 3))
    structure = trace(network.apply, variables, x)
    draw = np.random.default_rng(0)

    def spread(leaf):  # norms far apart: LAMP orders them, and sums may be rounded differently
        return draw.random(leaf.shape, np.float32) * np.linspace(1, 10, leaf.shape[-1], dtype="f")

    params = jax.device_put(jax.tree.map(spread, variables))

    def scores(params):
        criteria = ("l1", "l2", "fpgm", "lamp", "batch_norm_scale")
        return {name: importance.get(name)(structure, params) for name in criteria}

    found = scores(params)
    assert compiled == []
    for name, traced in jax.jit(scores)(params).items():
        np.testing.assert_allclose(found[name], traced, rtol=1e-5, err_msg=name)


def transformer(depth, width=32, heads=4):
    """A chain of attention blocks, whose axes are split and merged again."""
    layer = {"qkv": (width, 3 * width), "out": (width, width), "scale": (width,)}
    shapes = {
        "embed": (5, width),
        "layers": [dict(layer) for _ in range(depth)],
        "last": (width, 2),
    }

    def apply(params, x):
        h = x @ params["embed"]
        for p in params["layers"]:
            y = (h - h.mean(-1, keepdims=True)) * p["scale"]
            y = (y @ p["qkv"]).reshape(*h.shape[:2], 3, heads, width // heads)
            q, k, v = (y[:, :, i] for i in range(3))
            attention = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k))
            h = h + jnp.einsum("bhts,bshd->bthd", attention, v).reshape(h.shape) @ p["out"]
        return h.mean(1) @ params["last"]

    params = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        shapes,
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )
    return apply, params, jax.ShapeDtypeStruct((2, 7, 5), jnp.float32)


def test_the_work_of_tracing_is_proportional_to_the_depth():
    trace(*transformer(4))  # the first call pays for imports
    short, _ = counted(lambda: trace(*transformer(10)))
    long, structure = counted(lambda: trace(*transformer(80)))
    assert len(structure.groups) == 1 + 2 * 80  # the width, and heads and head size of each layer
    assert long < 1.1 * 8 * short
