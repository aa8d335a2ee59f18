"""Networks in Equinox: modules for one example, mapped over the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.networks.adapters import from_equinox
from zoo.network import BATCH, Network, cross_entropy, integers, normal, randomise

eqx = pytest.importorskip("equinox")


def network(model, x, least):
    apply, shapes = from_equinox(model)
    _, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params, x, y):
        trained = eqx.combine(params, static)
        keys = jax.random.split(jax.random.key(3), len(x))
        logits = jax.vmap(lambda example, key: trained(example, key=key))(x, keys)
        return cross_entropy(logits, y), {}

    return Network(apply, randomise(shapes), x, integers(BATCH, below=4), loss, least)


class CNN(eqx.Module):
    stem: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    conv: eqx.nn.Conv2d
    dropout: eqx.nn.Dropout
    mlp: eqx.nn.MLP

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.stem = eqx.nn.Conv2d(3, 8, kernel_size=3, padding=1, key=keys[0])
        self.norm = eqx.nn.GroupNorm(groups=4, channels=8)
        self.conv = eqx.nn.Conv2d(8, 10, kernel_size=3, stride=2, key=keys[1])
        self.dropout = eqx.nn.Dropout(0.3)
        self.mlp = eqx.nn.MLP(10 * 3 * 3, 4, width_size=12, depth=2, key=keys[2])

    def __call__(self, x, *, key=None):
        x = jax.nn.relu(self.norm(self.stem(x)))
        x = jax.nn.relu(self.conv(x))
        return self.mlp(self.dropout(jnp.ravel(x), key=key))


def equinox_cnn():
    least = {"stem": (), "conv": (10,), "mlp/layers/0": (12,), "mlp/layers/1": (12,)}
    return network(CNN(jax.random.key(0)), normal(BATCH, 3, 8, 8), least)


class ResidualBlock(eqx.Module):
    conv1: eqx.nn.Conv2d
    norm1: eqx.nn.BatchNorm
    conv2: eqx.nn.Conv2d
    norm2: eqx.nn.BatchNorm

    def __init__(self, width, hidden, key):
        first, second = jax.random.split(key)
        self.conv1 = eqx.nn.Conv2d(width, hidden, 3, padding=1, use_bias=False, key=first)
        self.norm1 = eqx.nn.BatchNorm(hidden, axis_name="batch", mode="batch")
        self.conv2 = eqx.nn.Conv2d(hidden, width, 3, padding=1, use_bias=False, key=second)
        self.norm2 = eqx.nn.BatchNorm(width, axis_name="batch", mode="batch")

    def __call__(self, x, state):
        y, state = self.norm1(self.conv1(x), state)
        y, state = self.norm2(self.conv2(jax.nn.relu(y)), state)
        return jax.nn.relu(x + y), state


class ResNet(eqx.Module):
    stem: eqx.nn.Conv2d
    block: ResidualBlock
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.stem = eqx.nn.Conv2d(3, 8, 3, padding=1, key=keys[0])
        self.block = ResidualBlock(8, 10, keys[1])
        self.head = eqx.nn.Linear(8, 4, key=keys[2])

    def __call__(self, x, state):
        x, state = self.block(jax.nn.relu(self.stem(x)), state)
        return self.head(x.mean(axis=(1, 2))), state


def equinox_batchnorm():
    model, state = eqx.filter_jit(eqx.nn.make_with_state(ResNet))(jax.random.key(0))
    apply, shapes = from_equinox(model, state)
    _, static = eqx.partition(model, eqx.is_inexact_array)
    rng = np.random.default_rng(5)

    def fill(leaf):  # statistics, positive so that they can be variances; counters stay
        values = rng.uniform(0.5, 1.5, leaf.shape) if leaf.ndim else np.asarray(leaf)
        return jnp.asarray(values, leaf.dtype)

    variables = {"params": randomise(shapes["params"]), "state": jax.tree.map(fill, state)}

    def loss(variables, x, y):
        trained = eqx.combine(variables["params"], static)
        batched = jax.vmap(trained, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        logits, state = batched(x, variables["state"])
        return cross_entropy(logits, y), {"state": state}

    least = {"stem": (8,), "block/conv1": (10,), "block/conv2": (8,)}
    x = normal(BATCH, 3, 8, 8)
    return Network(apply, variables, x, integers(BATCH, below=4), loss, least)


class TransformerBlock(eqx.Module):
    norm1: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    norm2: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP

    def __init__(self, width, heads, hidden, key):
        first, second = jax.random.split(key)
        self.norm1 = eqx.nn.LayerNorm(width)
        self.attention = eqx.nn.MultiheadAttention(
            heads, width, qk_size=4, vo_size=5, dropout_p=0.1, key=first
        )
        self.norm2 = eqx.nn.LayerNorm(width)
        self.mlp = eqx.nn.MLP(width, width, hidden, 1, activation=jax.nn.gelu, key=second)

    def __call__(self, x, *, key=None):
        y = jax.vmap(self.norm1)(x)
        x = x + self.attention(y, y, y, key=key)
        return x + jax.vmap(self.mlp)(jax.vmap(self.norm2)(x))


class Transformer(eqx.Module):
    embed: eqx.nn.Linear
    block: TransformerBlock
    head: eqx.nn.Linear

    def __init__(self, key, width=10, heads=3, hidden=14):
        keys = jax.random.split(key, 3)
        self.embed = eqx.nn.Linear(5, width, key=keys[0])
        self.block = TransformerBlock(width, heads, hidden, keys[1])
        self.head = eqx.nn.Linear(width, 4, key=keys[2])

    def __call__(self, x, *, key=None):
        x = self.block(jax.vmap(self.embed)(x), key=key)
        return self.head(x.mean(axis=0))


def equinox_transformer():
    """Here a projection makes heads and head dimension in one axis, heads outermost."""
    least = {
        "embed": (10,),
        "block/attention/query_proj": (3, 4),
        "block/attention/key_proj": (3, 4),
        "block/attention/value_proj": (3, 5),
        "block/mlp/layers/0": (14,),
        "block/mlp/layers/1": (10,),
    }
    return network(Transformer(jax.random.key(0)), normal(BATCH, 6, 5), least)
