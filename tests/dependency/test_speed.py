"""Tracing and compacting stay quick, and grow in proportion to the network.

What is counted is the same on every machine: calls of functions, and programs that are compiled.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import compact, trace
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


def test_vgg19_is_compacted_with_few_compiled_programs():
    network, variables, x = abstract("vgg19", (32, 32, 3))
    structure = trace(network.apply, variables, x)
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), variables)
    masks = {group.name: np.arange(group.size) % 2 for group in structure.groups}
    compiled = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        small = compact(network.apply, structure, variables, masks).params
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    kernels = [leaf.shape for leaf in jax.tree.leaves(small) if leaf.ndim == 4]
    assert (3, 3, 3, 32) in kernels
    assert (3, 3, 256, 256) in kernels
    assert len(compiled) <= 24  # one per shape and not one per leaf, of which there are 82


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
