"""Networks in Flax NNX."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxprune.networks.adapters import from_nnx
from zoo.network import BATCH, Network, cross_entropy, integers, normal, randomise


def network(model_class, x, least):
    """A network from a model; its loss is written with NNX's own means."""
    model = nnx.eval_shape(lambda: model_class(rngs=nnx.Rngs(0)))
    apply, shapes = from_nnx(model)
    graph, params, keys, state = nnx.split(model, nnx.Param, nnx.RngState, ...)

    def restored(template, values):
        result = jax.tree.map(lambda leaf: leaf, template)
        nnx.replace_by_pure_dict(result, values)
        return result

    def real(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key(3) if is_key else jnp.zeros(leaf.shape, leaf.dtype)

    def loss(variables, x, y):
        trained = nnx.merge(
            graph,
            restored(params, variables["params"]),
            jax.tree.map(real, keys),
            restored(state, variables["state"]),
        )
        trained.train()
        value = cross_entropy(trained(x), y)
        changed = nnx.state(trained, nnx.BatchStat)
        return value, {"state": nnx.to_pure_dict(changed)}

    return Network(apply, randomise(shapes), x, integers(BATCH, below=4), loss, least)


class ResidualBlock(nnx.Module):
    def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(width, hidden, (3, 3), use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(hidden, rngs=rngs)
        self.conv2 = nnx.Conv(hidden, width, (3, 3), use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(width, rngs=rngs)

    def __call__(self, x):
        y = nnx.relu(self.norm1(self.conv1(x)))
        return nnx.relu(x + self.norm2(self.conv2(y)))


class CNN(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.blocks = nnx.List([ResidualBlock(8, hidden, rngs=rngs) for hidden in (10, 12)])
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.head = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        for block in self.blocks:
            x = nnx.avg_pool(block(x), (2, 2), strides=(2, 2))
        return self.head(self.dropout(x.mean(axis=(1, 2))))


def nnx_cnn():
    least = {
        "stem": (8,),
        "blocks/0/conv1": (10,),
        "blocks/0/conv2": (8,),
        "blocks/1/conv1": (12,),
        "blocks/1/conv2": (8,),
    }
    return network(CNN, normal(BATCH, 8, 8, 3), least)


class TransformerBlock(nnx.Module):
    def __init__(self, width: int, heads: int, hidden: int, *, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            num_heads=heads, in_features=width, qkv_features=heads * 4, decode=False, rngs=rngs
        )
        self.norm2 = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, width, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class Transformer(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.embed = nnx.Linear(5, 10, rngs=rngs)
        self.block = TransformerBlock(10, 3, 14, rngs=rngs)
        self.head = nnx.Linear(10, 4, rngs=rngs)

    def __call__(self, x):
        return self.head(self.block(self.embed(x)).mean(axis=1))


def nnx_transformer():
    least = {
        "embed": (10,),
        "block/attention/query": (3, 4),
        "block/attention/value": (3, 4),
        "block/attention/out": (10,),
        "block/up": (14,),
        "block/down": (10,),
    }
    return network(Transformer, normal(BATCH, 6, 5), least)
