"""Networks as plain functions of nested dicts of arrays."""

import itertools

import jax
import jax.numpy as jnp

from zoo.network import BATCH, Network, cross_entropy, integers, normal, randomise


def shapes(**sizes):
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in sizes.items()}


def plain(apply, params, x, least, y=None):
    """A network that is the same in training and in inference."""

    def loss(params, x, y):
        return cross_entropy(apply(params, x), y), {}

    labels = integers(BATCH, below=4) if y is None else y
    return Network(apply, randomise(params), x, labels, loss, least)


def mlp(params, x):
    *hidden, last = params
    for layer in hidden:
        x = jax.nn.relu(jnp.dot(x, layer["kernel"]) + layer["bias"])
    return jnp.dot(x, last["kernel"]) + last["bias"]


def dict_mlp():
    widths = (6, 12, 9, 4)
    params = [
        shapes(kernel=(before, after), bias=(after,))
        for before, after in itertools.pairwise(widths)
    ]
    return plain(mlp, params, normal(BATCH, 6), {"0": (12,), "1": (9,)})


def conv3d_network(layout, kernel_layout, channels):
    """Two 3-D convolutions with pooling; `channels` is the position of that axis."""
    space = tuple(d for d in range(1, 5) if d != channels)
    window = tuple(2 if d in space else 1 for d in range(5))

    def conv(x, layer):
        x = jax.lax.conv_general_dilated(
            x,
            layer["kernel"],
            window_strides=(1, 1, 1),
            padding="SAME",
            dimension_numbers=(layout, kernel_layout, layout),
        )
        return x + layer["bias"].reshape([-1 if d == channels else 1 for d in range(5)])

    def apply(params, x):
        x = jax.nn.relu(conv(x, params["conv1"]))
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
        x = jax.nn.relu(conv(x, params["conv2"]))
        return x.mean(space) @ params["head"]["kernel"] + params["head"]["bias"]

    return apply


def conv3d():
    params = {
        "conv1": shapes(kernel=(3, 3, 3, 2, 8), bias=(8,)),
        "conv2": shapes(kernel=(3, 3, 3, 8, 10), bias=(10,)),
        "head": shapes(kernel=(10, 4), bias=(4,)),
    }
    apply = conv3d_network("NDHWC", "DHWIO", 4)
    return plain(apply, params, normal(BATCH, 4, 4, 4, 2), {"conv1": (8,), "conv2": (10,)})


def conv3d_channels_first():
    params = {
        "conv1": shapes(kernel=(8, 2, 3, 3, 3), bias=(8,)),
        "conv2": shapes(kernel=(10, 8, 3, 3, 3), bias=(10,)),
        "head": shapes(kernel=(10, 4), bias=(4,)),
    }
    apply = conv3d_network("NCDHW", "OIDHW", 1)
    return plain(apply, params, normal(BATCH, 2, 4, 4, 4), {"conv1": (8,), "conv2": (10,)})


def cond_experts():
    """One of two experts, chosen by the data."""

    def apply(params, x):
        x = jax.nn.relu(x @ params["stem"]["kernel"] + params["stem"]["bias"])
        x = jax.lax.cond(
            jnp.mean(x) > 0.3,
            lambda x: jax.nn.relu(x @ params["expert1"]["kernel"]),
            lambda x: jnp.tanh(x @ params["expert2"]["kernel"] + params["expert2"]["bias"]),
            x,
        )
        return x @ params["head"]["kernel"]

    params = {
        "stem": shapes(kernel=(6, 12), bias=(12,)),
        "expert1": shapes(kernel=(12, 9)),
        "expert2": shapes(kernel=(12, 9), bias=(9,)),
        "head": shapes(kernel=(9, 4)),
    }
    least = {"stem": (12,), "expert1": (9,), "expert2": (9,)}
    return plain(apply, params, normal(BATCH, 6), least)


def rms_norm(x, scale, epsilon=1e-6):
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon) * scale


def rope(x):
    """Rotary position embedding of [batch, time, heads, size]."""
    half = x.shape[-1] // 2
    frequencies = 10_000.0 ** (-jnp.arange(half) / half)
    angles = jnp.arange(x.shape[1])[:, None] * frequencies
    cos, sin = jnp.cos(angles)[:, None, :], jnp.sin(angles)[:, None, :]
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def grouped_query_attention(layer, x):
    query = rope(jnp.einsum("bte,ehd->bthd", x, layer["query"]["kernel"]))
    key = rope(jnp.einsum("bte,ekd->btkd", x, layer["key"]["kernel"]))
    value = jnp.einsum("bte,ekd->btkd", x, layer["value"]["kernel"])
    batch, time, heads, size = query.shape
    kv_heads = key.shape[2]
    query = query.reshape(batch, time, kv_heads, heads // kv_heads, size)
    scores = jnp.einsum("btkgd,bskd->bkgts", query, key) / jnp.sqrt(size)
    causal = jnp.tril(jnp.ones((time, time), bool))
    weights = jax.nn.softmax(jnp.where(causal, scores, -1e30), axis=-1)
    mixed = jnp.einsum("bkgts,bskd->btkgd", weights, value)
    mixed = mixed.reshape(batch, time, heads, size)
    return jnp.einsum("bthd,hde->bte", mixed, layer["out"]["kernel"])


def feed_forward(layer, x):
    gate = jax.nn.silu(x @ layer["gate"]["kernel"])
    return (gate * (x @ layer["up"]["kernel"])) @ layer["down"]["kernel"]


def language_model(params, tokens):
    x = params["embedding"]["table"][tokens]

    @jax.checkpoint
    def block(x, layer):
        x = x + grouped_query_attention(layer, rms_norm(x, layer["norm1"]["scale"]))
        x = x + feed_forward(layer, rms_norm(x, layer["norm2"]["scale"]))
        return x, None

    x, _ = jax.lax.scan(block, x, params["layers"])
    return rms_norm(x, params["norm"]["scale"]) @ params["head"]["kernel"]


def llama():
    """Layers are stacked, so each of their widths is one group for all of them.

    What can go of the attention: key and value heads with the queries that read them, queries of
    every head, the value's head dimensions, and pairs of rotated dimensions of query and key.
    """
    depth, embedding, heads, kv_heads, size, hidden, vocabulary = 2, 10, 6, 3, 8, 14, 11
    params = {
        "embedding": shapes(table=(vocabulary, embedding)),
        "layers": {
            "norm1": shapes(scale=(depth, embedding)),
            "query": shapes(kernel=(depth, embedding, heads, size)),
            "key": shapes(kernel=(depth, embedding, kv_heads, size)),
            "value": shapes(kernel=(depth, embedding, kv_heads, size)),
            "out": shapes(kernel=(depth, heads, size, embedding)),
            "norm2": shapes(scale=(depth, embedding)),
            "gate": shapes(kernel=(depth, embedding, hidden)),
            "up": shapes(kernel=(depth, embedding, hidden)),
            "down": shapes(kernel=(depth, hidden, embedding)),
        },
        "norm": shapes(scale=(embedding,)),
        "head": shapes(kernel=(embedding, vocabulary)),
    }
    least = {
        "embedding": (10,),
        "layers/query": (3, 4),
        "layers/key": (3, 4),
        "layers/value": (3, 8),
        "layers/gate": (14,),
        "layers/up": (14,),
        "layers/down": (10,),
    }
    tokens = integers(BATCH, 5, below=vocabulary)
    return plain(language_model, params, tokens, least, jnp.roll(tokens, -1, axis=1))
