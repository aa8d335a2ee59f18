"""Tracing and compacting take seconds, and grow in proportion to the network."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import compact, trace
from jaxprune.networks import bundled


def seconds(function):
    """Processor time, which other programs on the machine do not add to."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def abstract(name, image_shape):
    network = bundled.build(name, image_shape)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    return network, variables, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)


def test_resnet50_on_large_images_is_traced_within_5_seconds():
    network, variables, x = abstract("resnet50", (224, 224, 3))
    duration, structure = seconds(lambda: trace(network.apply, variables, x))
    assert len(structure.groups) == 37
    assert duration < 5


def test_vgg19_is_compacted_within_2_seconds():
    network, variables, x = abstract("vgg19", (32, 32, 3))
    structure = trace(network.apply, variables, x)
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), variables)
    masks = {group.name: np.arange(group.size) % 2 for group in structure.groups}
    duration, small = seconds(
        lambda: jax.block_until_ready(compact(network.apply, structure, variables, masks).params)
    )
    kernels = [leaf.shape for leaf in jax.tree.leaves(small) if leaf.ndim == 4]
    assert (3, 3, 3, 32) in kernels
    assert (3, 3, 256, 256) in kernels
    assert duration < 2


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


def test_the_time_to_trace_is_proportional_to_the_depth():
    trace(*transformer(4))  # the first call pays for imports
    short = min(seconds(lambda: trace(*transformer(10)))[0] for _ in range(2))
    (long, structure), (again, _) = (seconds(lambda: trace(*transformer(80))) for _ in range(2))
    assert len(structure.groups) == 1 + 2 * 80  # the width, and heads and head size of each layer
    assert min(long, again) < 2 * 8 * short
