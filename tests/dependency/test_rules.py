"""Primitives by small networks that use them: which channels there are, and that removal is exact.

Every network is checked as a whole in double precision, see `checks.check_removal`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from dependency.checks import assert_close, check_removal, random_masks
from jaxprune import compact, importance, masked, trace

_RNG = np.random.default_rng(3)


def weights(*shape):
    fan_in = max(1, int(np.prod(shape[:-1])))
    return jnp.asarray(_RNG.normal(size=shape) / np.sqrt(fan_in), jnp.float32)


X = 2 * weights(4, 3)
IMAGES = weights(2, 6, 6, 3)


class Case(NamedTuple):
    """A network and the sizes of its groups by name."""

    apply: Any
    params: Any
    groups: dict[str, int]
    x: Any = X


def standardised(hidden):
    mean, variance = hidden.mean(-1, keepdims=True), hidden.var(-1, keepdims=True)
    return (hidden - mean) / jnp.sqrt(variance + 1e-3)


@jax.custom_vjp
def norm_with_own_derivative(hidden):
    return standardised(hidden)


norm_with_own_derivative.defvjp(
    lambda hidden: (standardised(hidden), hidden),
    lambda hidden, cotangent: jax.vjp(standardised, hidden)[1](cotangent),
)


@jax.custom_vjp
def layer_with_own_derivative(hidden, kernel):
    return jnp.tanh(hidden @ kernel)


def _layer_forward(hidden, kernel):
    out = layer_with_own_derivative(hidden, kernel)
    return out, (hidden, kernel, out)


def _layer_backward(saved, cotangent):
    hidden, kernel, out = saved
    cotangent = 3.0 * cotangent * (1 - out**2)  # three times the true one: is it this rule?
    return cotangent @ kernel.T, hidden.T @ cotangent


layer_with_own_derivative.defvjp(_layer_forward, _layer_backward)


@jax.custom_jvp
def layer_with_own_tangent(hidden, kernel):
    return jnp.tanh(hidden @ kernel)


@layer_with_own_tangent.defjvp
def _layer_tangent(primals, tangents):
    hidden, kernel = primals
    out = layer_with_own_tangent(hidden, kernel)
    return out, 3.0 * (1 - out**2) * (tangents[0] @ kernel + hidden @ tangents[1])


OFFSETS = jnp.asarray(_RNG.normal(size=5), jnp.float32)


@jax.custom_vjp
def example_with_captured_offsets(hidden, kernel):
    return jnp.tanh(hidden @ kernel) * OFFSETS


def _example_forward(hidden, kernel):
    return example_with_captured_offsets(hidden, kernel), (kernel, hidden)


def _example_backward(saved, cotangent):
    kernel, hidden = saved
    cotangent = 3.0 * cotangent * OFFSETS
    return kernel @ cotangent, jnp.outer(hidden, cotangent)


example_with_captured_offsets.defvjp(_example_forward, _example_backward)


def conv(x, kernel, groups=1, stride=1):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def convs(images, kernels):
    return jax.vmap(lambda image, kernel: conv(image[None], kernel)[0])(images, kernels)


def modulated(kernel, scales):
    kernels = kernel * scales[:, None, None, :, None]
    return kernels * jax.lax.rsqrt((kernels**2).sum((1, 2, 3), keepdims=True) + 1e-3)


def two_states(hidden, params, one, other):
    """Two recurrent states of pairs of rows, which begin as given."""

    def step(states, now):
        one, other = states
        return (0.9 * one + now @ params["c"], 0.5 * other + jnp.tanh(now @ params["d"])), None

    (one, other), _ = jax.lax.scan(step, (one, other), hidden.reshape(2, 2, 6))
    return jnp.concatenate([one, 2 * jnp.sin(other)], 1)


LENGTHS = jnp.array([1, 2, 1])
ONE_DEVICE = Mesh(np.array(jax.devices()[:1]), "d")


def ones_by_python(*_):
    return np.ones((4, 6), np.float64 if jax.config.jax_enable_x64 else np.float32)


def printed(hidden):
    jax.debug.print("{}", hidden.max(), ordered=False)
    jax.debug.callback(lambda value: None, hidden)
    jax.debug.inspect_array_sharding(hidden, callback=lambda sharding: None)
    return hidden


def exchanging(hidden, kernel):
    """A layer on one device of several, which exchange its results along the examples."""
    hidden = jnp.tanh(standardised(hidden) @ kernel)
    largest = jax.lax.pmax(jax.lax.stop_gradient(hidden).max(), "d")
    smallest = jax.lax.pmin(jax.lax.stop_gradient(hidden).min(), "d")
    total = jax.lax.psum(hidden, "d") / (3 + largest - smallest)
    everything = jax.lax.all_gather(hidden, "d", tiled=True)
    back = jax.lax.psum_scatter(everything, "d", tiled=True)
    swapped = jax.lax.all_to_all(hidden, "d", 0, 0, tiled=True)
    moved = jax.lax.ppermute(hidden, "d", [(0, 0)])
    return hidden + total * back + swapped * moved + jax.lax.axis_index("d")


def hidden_then(function, width=6, out=6, **more):
    """A layer, a function of what it computes and of more parameters, and a layer that reads it."""
    params = {"a": weights(3, width), "b": weights(out, 2), **more}
    return lambda p, x: function(x @ p["a"], p) @ p["b"], params


def case(function, groups, width=6, out=6, **more):
    return Case(*hidden_then(function, width, out, **more), groups)


PICKED = np.array([5, 0, 3, 2], np.int32)

CASES = {
    # reductions over channels
    "mean": case(lambda h, p: h / (1 + h.mean(-1, keepdims=True) ** 2), {"a": 6}),
    "mean_by_hand": case(lambda h, p: h - h.sum(-1, keepdims=True) / h.shape[-1], {"a": 6}),
    "mean_by_factor": case(lambda h, p: h - h.sum(-1, keepdims=True) * (1 / 6), {"a": 6}),
    "layer_norm": case(lambda h, p: standardised(h) * p["scale"], {"a": 6}, scale=weights(6)),
    "rms_norm": case(
        lambda h, p: h / jnp.sqrt(jnp.square(h).mean(-1, keepdims=True) + 1e-3), {"a": 6}
    ),
    "l2_norm": case(lambda h, p: h / jnp.linalg.norm(h, axis=-1, keepdims=True), {"a": 6}),
    "softmax": case(lambda h, p: jax.nn.softmax(h), {"a": 6}),
    "logsumexp": case(lambda h, p: h - jax.nn.logsumexp(h, axis=-1, keepdims=True), {"a": 6}),
    "max": case(lambda h, p: h * h.max(-1, keepdims=True), {"a": 6}),
    "min": case(lambda h, p: h * h.min(-1, keepdims=True), {"a": 6}),
    "any": case(lambda h, p: h * (h > 0.5).any(-1, keepdims=True), {"a": 6}),
    "all": case(lambda h, p: h * (h > -0.5).all(-1, keepdims=True), {"a": 6}),
    "cumsum": case(lambda h, p: jnp.cumsum(h, -1), {"a": 6}),
    "cummax": case(lambda h, p: jax.lax.cummax(h, axis=1), {}),
    "argmax": case(lambda h, p: h * h.argmax(-1, keepdims=True), {}),
    "sort": case(lambda h, p: jnp.sort(h, -1), {}),
    "weight_standardisation": case(
        lambda h, p: jnp.tanh(h) @ ((p["w"] - p["w"].mean(0)) / (p["w"].std(0) + 1e-3)),
        {"a": 6, "w": 5},
        out=5,
        w=weights(6, 5),
    ),
    # splitting and merging
    "split_by_mean": case(lambda h, p: h.reshape(4, 3, 4).mean(1), {"a": 4}, 12, 4),
    "maxout": case(lambda h, p: h.reshape(4, 6, 2).max(-1), {"a": 6}, 12, 6),
    "group_norm": case(
        lambda h, p: standardised(h.reshape(4, 3, 4)).reshape(4, 12) * p["scale"],
        {"a": 3, "a#2": 4},
        12,
        12,
        scale=weights(12),
    ),
    "shuffle": case(
        lambda h, p: h.reshape(4, 3, 4).swapaxes(1, 2).reshape(4, 12), {"a": 3, "a#2": 4}, 12, 12
    ),
    "two_ways_to_split": case(
        lambda h, p: h.reshape(4, 3, 4).sum(1) @ p["c"] + h.reshape(4, 4, 3).sum(1),
        {},
        12,
        3,
        c=weights(4, 3),
    ),
    "outer_product": case(
        lambda h, p: jnp.einsum("bi,bj->bij", h, jnp.tanh(h @ p["c"])).reshape(4, -1),
        {"a": 6, "c": 5},
        6,
        30,
        c=weights(6, 5),
    ),
    "heads": case(
        lambda h, p: jnp.einsum(
            "nhd,mhd,mhe->nhe",
            *((jnp.tanh(h) @ p[name]).reshape(4, 3, 4) for name in "qkv"),
        ).reshape(4, 12),
        {"a": 6, "q": 3, "q#2": 4, "v": 4},
        out=12,
        q=weights(6, 12),
        k=weights(6, 12),
        v=weights(6, 12),
    ),
    "shared_keys": case(  # two queries to a key
        lambda h, p: jnp.einsum(
            "nhd,mhd->nhm",
            (h @ p["q"]).reshape(4, 6, 2),
            jnp.repeat((h @ p["k"]).reshape(4, 3, 2), 2, axis=1),
        ).sum(-1),
        {"a": 6, "q": 3, "q#2": 2, "q#3": 2},
        q=weights(6, 12),
        k=weights(6, 6),
    ),
    "rotary": case(
        lambda h, p: (
            h * jnp.cos(jnp.arange(6) % 3 / 3.0)
            + jnp.concatenate([-h[:, 3:], h[:, :3]], -1) * jnp.sin(jnp.arange(6) % 3 / 3.0)
        ),
        {"a": 3},
    ),
    "gated": case(lambda h, p: jax.nn.glu(h), {"a": 4}, 8, 4),
    "stack": case(lambda h, p: jnp.stack([h, jnp.tanh(h)], 1).reshape(4, 12), {"a": 6}, 6, 12),
    "stack_at_the_end": case(
        lambda h, p: jnp.stack([h, jnp.tanh(h)], -1).reshape(4, 12), {"a": 6}, 6, 12
    ),
    "stack_of_parameters": case(
        lambda h, p: h @ jnp.stack([p["c"], p["d"]], 1), {"a": 6}, 6, 2, c=weights(6), d=weights(6)
    ),
    "unstack": case(
        lambda h, p: (lambda one, other: one * jnp.tanh(other))(
            *jnp.unstack(h.reshape(4, 2, 6), axis=1)
        ),
        {"a": 6},
        12,
        6,
    ),
    "unstack_channels": case(lambda h, p: h - sum(jnp.unstack(h, axis=1))[:, None] / 6, {}),
    "tile": case(lambda h, p: jnp.tile(h, (1, 3)), {"a": 6}, 6, 18),
    "repeat": case(lambda h, p: jnp.repeat(h, 3, axis=1), {"a": 6}, 6, 18),
    "space_to_depth": Case(
        lambda p, x: (
            conv(x, p["a"])
            .reshape(2, 3, 2, 3, 2, 4)
            .transpose(0, 1, 3, 2, 4, 5)
            .reshape(2, 3, 3, 16)
            @ p["b"]
        ),
        {"a": weights(3, 3, 3, 4), "b": weights(16, 2)},
        {"a": 4},
        IMAGES,
    ),
    "depth_to_space": Case(
        lambda p, x: conv(
            conv(x, p["a"])
            .reshape(2, 6, 6, 2, 2, 3)
            .transpose(0, 1, 3, 2, 4, 5)
            .reshape(2, 12, 12, 3),
            p["b"],
        ),
        {"a": weights(3, 3, 3, 12), "b": weights(3, 3, 3, 2)},
        {"a": 3},
        IMAGES,
    ),
    # picking and writing positions
    "gather": case(lambda h, p: h[:, PICKED], {"a": 4}, 6, 4),
    "take_twice": case(
        lambda h, p: jnp.take(h, jnp.array([0, 0, 1, 2, 3, 1]), axis=1), {"a": 2, "a#2": 2}
    ),
    "single": case(lambda h, p: h[:, 1:2] * h, {"a": 5}),
    "index": case(lambda h, p: h[:, 2, None] * h, {"a": 5}),
    "by_data": case(lambda h, p: h[:, jnp.argsort(h[0])], {}),
    "dynamic_slice": case(lambda h, p: jax.lax.dynamic_slice(h, (0, 2), (4, 3)), {"a": 3}, 6, 3),
    "set": case(lambda h, p: h.at[:, 2:4].set(jnp.sin(h[:, :2])), {"a": 2, "a#2": 2}, width=6),
    "add_at": case(
        lambda h, p: h.at[:, PICKED].add(jnp.sin(h @ p["c"])), {"a": 4, "a#2": 2}, c=weights(6, 4)
    ),
    "update_slice": case(
        lambda h, p: jax.lax.dynamic_update_slice(h, jnp.sin(h @ p["c"]), (0, 1)),
        {"a": 2, "a#2": 4},
        c=weights(6, 4),
    ),
    "pad": case(lambda h, p: jnp.pad(h, ((0, 0), (1, 2))), {"a": 6}, 6, 9),
    "embedding": Case(
        lambda p, x: jnp.tanh(p["table"][x] @ p["a"]) @ p["b"],
        {"table": weights(7, 5), "a": weights(5, 6), "b": weights(6, 2)},
        {"table": 5, "a": 6},
        jnp.array([[1, 6, 3], [0, 2, 2]]),
    ),
    # what is made of nothing couples nothing
    "the_same_zeros": case(
        lambda h, p: two_states(h, p, zero := jnp.zeros((2, 5)), zero),
        {"a": 6, "c": 5, "d": 5},
        out=10,
        c=weights(6, 5),
        d=weights(6, 5),
    ),
    "the_same_constant": case(
        lambda h, p: jnp.tanh(h @ p["c"] + OFFSETS) @ p["e"] + jnp.sin(h @ p["d"] + OFFSETS),
        {"a": 6, "c": 5, "e": 5},
        out=5,
        c=weights(6, 5),
        d=weights(6, 5),
        e=weights(5, 5),
    ),
    # transforms, ragged products
    "fft": case(lambda h, p: jnp.fft.irfft(jnp.fft.rfft(h, axis=0) * (0.5 + 1j), axis=0), {"a": 6}),
    "fft_of_channels": case(lambda h, p: jnp.fft.fft(h).real, {}),
    "ragged_product": case(
        lambda h, p: jax.lax.ragged_dot(
            jnp.tanh(jax.lax.ragged_dot(h, p["up"], LENGTHS)), p["down"], LENGTHS
        ),
        {"a": 6, "up": 5, "down": 6},
        up=weights(3, 6, 5),
        down=weights(3, 5, 6),
    ),
    # prints and Python
    "printed": case(lambda h, p: printed(jnp.tanh(h)), {"a": 6}),
    "made_by_python": case(
        lambda h, p: h + jax.pure_callback(ones_by_python, jax.ShapeDtypeStruct((4, 6), h.dtype)),
        {"a": 6},
    ),
    "changed_by_python": case(
        lambda h, p: (
            jnp.tanh(h @ p["c"])
            * jax.pure_callback(
                ones_by_python, jax.ShapeDtypeStruct((4, 6), h.dtype), jax.lax.stop_gradient(h)
            )
        ),
        {"c": 6},
        c=weights(6, 6),
    ),
    # devices
    "devices": case(
        lambda h, p: jax.shard_map(
            exchanging, mesh=ONE_DEVICE, in_specs=(P("d"), P()), out_specs=P("d")
        )(h, p["w"]),
        {"a": 6, "w": 5},
        out=5,
        w=weights(6, 5),
    ),
    "devices_unchecked": case(
        lambda h, p: jax.shard_map(
            lambda h, w: standardised(jnp.tanh(h @ w)) + jax.lax.psum(h @ w, "d"),
            mesh=ONE_DEVICE,
            in_specs=(P("d"), P()),
            out_specs=P("d"),
            check_vma=False,
        )(h, p["w"]),
        {"a": 6, "w": 5},
        out=5,
        w=weights(6, 5),
    ),
    # functions called
    "scan_over_layers": case(
        lambda h, p: jax.lax.scan(
            lambda h, w: (h + jnp.tanh(standardised(h) @ w["up"]) @ w["down"], None), h, p["layers"]
        )[0],
        {"a": 6, "layers/up": 8},
        layers={"up": weights(4, 6, 8), "down": weights(4, 8, 6)},
    ),
    "scan_over_time": case(
        lambda h, p: jax.lax.scan(
            lambda s, u: ((s := jnp.tanh(u + s @ p["w"])), s), jnp.zeros(6), h
        )[1],
        {"a": 6},
        w=weights(6, 6),
    ),
    "loop": case(
        lambda h, p: jax.lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ p["w"]), h),
        {"a": 6},
        w=weights(6, 6),
    ),
    "branches": case(
        lambda h, p: jax.lax.cond(
            h.sum() > 0, lambda h: jnp.tanh(h @ p["v"]), lambda h: jnp.sin(h @ p["w"]), h
        ),
        {"a": 6, "w": 5},
        out=5,
        v=weights(6, 5),
        w=weights(6, 5),
    ),
    "remat": case(
        lambda h, p: jax.checkpoint(lambda h: norm_with_own_derivative(jnp.tanh(h @ p["w"])))(h),
        {"a": 6, "w": 5},
        out=5,
        w=weights(6, 5),
    ),
    "own_derivative": case(
        lambda h, p: layer_with_own_derivative(h, p["w"]), {"a": 6, "w": 5}, out=5, w=weights(6, 5)
    ),
    "own_derivative_of_a_norm": case(
        lambda h, p: norm_with_own_derivative(jnp.tanh(h @ p["w"])),
        {"a": 6, "w": 5},
        out=5,
        w=weights(6, 5),
    ),
    "own_derivative_of_each_example": case(
        lambda h, p: jax.vmap(example_with_captured_offsets, (0, None))(h, p["w"]),
        {"a": 6, "w": 5},
        out=5,
        w=weights(6, 5),
    ),
    "own_derivative_in_a_loop": case(
        lambda h, p: jax.lax.scan(
            lambda h, w: (layer_with_own_derivative(h, w), None), h, p["layers"]
        )[0],
        {"a": 6},
        layers=weights(3, 6, 6),
    ),
    "own_tangent": case(
        lambda h, p: layer_with_own_tangent(h, p["w"]), {"a": 6, "w": 5}, out=5, w=weights(6, 5)
    ),
    "own_tangent_in_a_loop": case(
        lambda h, p: jax.lax.scan(
            lambda h, w: (layer_with_own_tangent(h, w), None), h, p["layers"]
        )[0],
        {"a": 6},
        layers=weights(3, 6, 6),
    ),
    # convolutions
    "grouped": Case(
        lambda p, x: conv(jnp.tanh(conv(x, p["a"])), p["g"], groups=4).mean((1, 2)) @ p["b"],
        {"a": weights(3, 3, 3, 8), "g": weights(3, 3, 2, 12), "b": weights(12, 2)},
        {"a": 4, "a#2": 2, "g": 3},
        IMAGES,
    ),
    "depthwise_with_multiplier": Case(
        lambda p, x: conv(jnp.tanh(conv(x, p["a"])), p["g"], groups=4).mean((1, 2)) @ p["b"],
        {"a": weights(3, 3, 3, 4), "g": weights(3, 3, 1, 12), "b": weights(12, 2)},
        {"a": 4, "g": 3},
        IMAGES,
    ),
    "transposed": Case(
        lambda p, x: jax.lax.conv_transpose(
            jax.lax.conv_transpose(x, p["a"], (2, 2), "SAME"), p["b"], (1, 1), "SAME"
        ),
        {"a": weights(3, 3, 3, 5), "b": weights(3, 3, 5, 2)},
        {"a": 5},
        IMAGES,
    ),
    "each_example_its_kernel": Case(  # StyleGAN's modulated convolution
        lambda p, x: (
            jnp.tanh(convs(jnp.tanh(conv(x, p["a"])), modulated(p["w"], x.mean((1, 2)) @ p["s"])))
            @ p["b"]
        ),
        {
            "a": weights(3, 3, 3, 5),
            "s": weights(3, 5),
            "w": weights(3, 3, 5, 4),
            "b": weights(4, 2),
        },
        {"a": 5, "w": 4},
        IMAGES,
    ),
    "ensemble": Case(  # its members are no channels
        lambda p, x: jax.vmap(
            lambda p: conv(jnp.tanh(conv(x, p["a"])), p["c"]).mean((1, 2)) @ p["b"]
        )(p).mean(0),
        {"a": weights(5, 1, 1, 3, 4), "c": weights(5, 1, 1, 4, 6), "b": weights(5, 6, 2)},
        {"a": 4, "c": 6},
        IMAGES,
    ),
    "resize": Case(
        lambda p, x: conv(
            jax.image.resize(conv(x, p["a"]), (2, 9, 9, 5), "bilinear")[:, ::2]
            + jax.image.resize(conv(x, p["a"]), (2, 5, 9, 5), "nearest"),
            p["b"],
        ),
        {"a": weights(3, 3, 3, 5), "b": weights(3, 3, 5, 2)},
        {"a": 5},
        IMAGES,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_removal(name):
    apply, params, groups, x = CASES[name]
    structure = trace(apply, params, x)
    assert {group.name: group.size for group in structure.groups} == groups
    if groups:
        check_removal(apply, params, x, structure)


def test_a_mean_is_over_what_is_left():
    apply, params, _, _ = CASES["layer_norm"]
    structure = trace(apply, params, X)
    masks = random_masks(structure, 0)
    keep = masks["a"].astype(bool)
    a, b, scale = (np.asarray(params[name], np.float64) for name in ("a", "b", "scale"))
    hidden = np.asarray(X, np.float64) @ a[:, keep]
    hidden = (hidden - hidden.mean(-1, keepdims=True)) / np.sqrt(
        hidden.var(-1, keepdims=True) + 1e-3
    )
    expected = (hidden * scale[keep]) @ b[keep]
    np.testing.assert_allclose(
        masked(apply, structure)(params, masks, X), expected, rtol=1e-4, atol=1e-5
    )


def test_a_product_is_over_what_is_left():
    apply, params = hidden_then(lambda h, p: h * h.prod(-1, keepdims=True))
    structure = trace(apply, params, X)
    masks = random_masks(structure, 0)
    keep = masks["a"].astype(bool)
    hidden = np.asarray(X @ params["a"], np.float64)[:, keep]
    expected = (hidden * hidden.prod(-1, keepdims=True)) @ np.asarray(params["b"])[keep]
    small = compact(apply, structure, params, masks)
    for actual in (masked(apply, structure)(params, masks, X), small(small.params, X)):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_group_norm_keeps_equal_groups():
    apply, params, _, _ = CASES["group_norm"]
    structure = trace(apply, params, X)
    masks = {"a": np.array([1, 0, 1]), "a#2": np.array([0, 1, 1, 1])}
    keep = np.outer(masks["a"], masks["a#2"]).reshape(-1).astype(bool)
    a, b, scale = (np.asarray(params[name], np.float64) for name in ("a", "b", "scale"))
    hidden = (np.asarray(X, np.float64) @ a[:, keep]).reshape(4, 2, 3)
    hidden = (hidden - hidden.mean(-1, keepdims=True)) / np.sqrt(
        hidden.var(-1, keepdims=True) + 1e-3
    )
    expected = (hidden.reshape(4, 6) * scale[keep]) @ b[keep]
    small = compact(apply, structure, params, masks)
    np.testing.assert_allclose(small(small.params, X), expected, rtol=1e-4, atol=1e-5)


def test_masks_pass_a_derivative_through_their_own_rule():
    """Nothing depends on removed positions, whatever a custom derivative says."""
    apply, params, _, _ = CASES["own_derivative_of_a_norm"]
    structure = trace(apply, params, X)
    masks = random_masks(structure, 1)
    gradient = jax.grad(lambda p: jnp.sin(masked(apply, structure)(p, masks, X)).sum())(params)
    assert (np.asarray(gradient["a"])[:, masks["a"] == 0] == 0).all()
    assert (np.asarray(gradient["w"])[:, masks["w"] == 0] == 0).all()


def true_derivative(hidden, kernel):
    return norm_with_own_derivative(jnp.tanh(hidden @ kernel))


def no_rule(hidden, kernel):
    return standardised(jnp.tanh(hidden @ kernel))


@pytest.mark.parametrize("looped", [False, True])
@pytest.mark.parametrize(
    ("function", "written"),
    [
        (true_derivative, no_rule),
        # The rules are three times too large, but of the masks they say nothing.
        (layer_with_own_derivative, lambda hidden, kernel: jnp.tanh(hidden @ kernel)),
        (layer_with_own_tangent, lambda hidden, kernel: jnp.tanh(hidden @ kernel)),
    ],
)
def test_masks_have_derivatives_inside_functions_with_their_own(function, written, looped):
    """In the last layer, where no rule comes after the masks: those of the function as written."""

    def network(layer):
        def once(params, x):
            return layer(jnp.sin(x @ params["a"]), params["b"])

        def loop(params, x):
            return jax.lax.map(lambda x: once(params, x), x[:, None])[:, 0]

        return loop if looped else once

    params = {"a": weights(3, 6), "b": weights(6, 4)}
    soft = {"a": jnp.linspace(0.2, 1, 6)}
    slopes = []
    for layer in (function, written):
        apply = network(layer)
        structure = trace(apply, params, X)
        assert [group.name for group in structure.groups] == ["a"]
        value = masked(apply, structure)
        slopes.append(jax.jit(jax.grad(lambda m, f=value: jnp.sin(f(params, m, X)).sum()))(soft))
    assert_close(*slopes)


def test_activations_are_seen_inside_functions_with_their_own_derivatives():
    plain = trace(*(hidden_then(lambda h, p: jnp.tanh(h @ p["w"]), 6, 5, w=weights(6, 5))), X)
    for name in ("own_derivative", "own_tangent"):
        apply, params, _, _ = CASES[name]
        structure = trace(apply, params, X)
        assert structure.groups == plain.groups
        hidden = np.abs(X @ params["a"]).mean(0)
        read = np.abs(np.tanh(X @ params["a"] @ params["w"])).mean(0)
        found = importance.activation(structure, apply, params, X)
        np.testing.assert_allclose(found, np.concatenate([hidden, read]), rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("own_")])
def test_compact_networks_with_their_own_derivatives_can_be_traced_again(name):
    apply, params, _, x = CASES[name]
    structure = trace(apply, params, x)
    small = compact(apply, structure, params, random_masks(structure, 2))
    again = trace(small, small.params, x)
    assert {group.name: group.size for group in again.groups} == small.widths


def test_soft_masks_weigh_the_mean():
    def apply(params, x):
        return (x @ params["a"]).mean(-1, keepdims=True) @ params["b"]

    params = {"a": weights(3, 4), "b": jnp.ones((1, 1))}
    structure = trace(apply, params, X)
    assert structure.groups == ()  # a mean alone does not read the channels: no layer does

    apply, params, _, _ = CASES["mean_by_hand"]
    structure = trace(apply, params, X)
    soft = {"a": np.linspace(0.2, 1, 6).astype(np.float32)}
    hidden = np.asarray(X @ params["a"], np.float64)
    mean = (hidden * soft["a"]).sum(-1, keepdims=True) / soft["a"].sum()
    expected = ((hidden - mean) * soft["a"]) @ np.asarray(params["b"])
    assert_close(masked(apply, structure)(params, soft, X), jnp.asarray(expected, jnp.float32))
