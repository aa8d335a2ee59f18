"""Images as tokens in Flax Linen: attention and token mixing."""

import flax.linen as nn
import jax.numpy as jnp

from zoo.network import BATCH, from_linen, normal


class MlpBlock(nn.Module):
    hidden: int
    dropout: float = 0.1

    @nn.compact
    def __call__(self, x, train: bool):
        y = nn.Dense(self.hidden)(x)
        y = nn.gelu(y)
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        y = nn.Dense(x.shape[-1])(y)
        return nn.Dropout(self.dropout, deterministic=not train)(y)


class EncoderBlock(nn.Module):
    heads: int
    head_size: int
    hidden: int

    @nn.compact
    def __call__(self, x, train: bool):
        y = nn.LayerNorm(name="norm1")(x)
        y = nn.MultiHeadDotProductAttention(
            num_heads=self.heads,
            qkv_features=self.heads * self.head_size,
            dropout_rate=0.1,
            deterministic=not train,
            name="attention",
        )(y, y)
        x = x + y
        y = nn.LayerNorm(name="norm2")(x)
        return x + MlpBlock(self.hidden, name="mlp")(y, train)


class ViT(nn.Module):
    embedding: int = 10
    heads: int = 3
    head_size: int = 4
    hidden: tuple[int, ...] = (14, 16)
    classes: int = 4

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Conv(self.embedding, (4, 4), strides=(4, 4), padding="VALID", name="patches")(x)
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height * width, channels)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, channels))
        x = jnp.concatenate([jnp.tile(token, (batch, 1, 1)), x], axis=1)
        positions = self.param("positions", nn.initializers.normal(0.02), (1, x.shape[1], channels))
        x = nn.Dropout(0.1, deterministic=not train)(x + positions)
        for i, hidden in enumerate(self.hidden):
            x = EncoderBlock(self.heads, self.head_size, hidden, name=f"block{i}")(x, train)
        x = nn.LayerNorm(name="norm")(x)
        return nn.Dense(self.classes, name="head")(x[:, 0])


def vit():
    """Groups of a block: its MLP, heads, and the head dimensions of scores and of values."""
    least = {
        "patches": (10,),
        "block0/attention/query": (3, 4),
        "block0/attention/key": (3, 4),
        "block0/attention/value": (3, 4),
        "block0/attention/out": (10,),
        "block0/mlp/Dense_0": (14,),
        "block1/attention/query": (3, 4),
        "block1/attention/value": (3, 4),
        "block1/mlp/Dense_0": (16,),
    }
    return from_linen(ViT(), normal(BATCH, 8, 8, 3), least)


class MixerMlp(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x):
        y = nn.gelu(nn.Dense(self.hidden)(x))
        return nn.Dense(x.shape[-1])(y)


class MixerBlock(nn.Module):
    tokens_hidden: int
    channels_hidden: int

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm()(x)
        y = jnp.swapaxes(y, 1, 2)
        y = MixerMlp(self.tokens_hidden, name="token_mixing")(y)
        y = jnp.swapaxes(y, 1, 2)
        x = x + y
        y = nn.LayerNorm()(x)
        return x + MixerMlp(self.channels_hidden, name="channel_mixing")(y)


class Mixer(nn.Module):
    embedding: int = 10
    tokens_hidden: tuple[int, ...] = (6, 7)
    channels_hidden: tuple[int, ...] = (14, 16)
    classes: int = 4

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Conv(self.embedding, (4, 4), strides=(4, 4), name="stem")(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        for i, widths in enumerate(zip(self.tokens_hidden, self.channels_hidden, strict=True)):
            x = MixerBlock(*widths, name=f"block{i}")(x)
        x = nn.LayerNorm(name="norm")(x)
        return nn.Dense(self.classes, name="head")(jnp.mean(x, axis=1))


def mixer():
    least = {
        "stem": (10,),
        "block0/token_mixing/Dense_0": (6,),
        "block0/channel_mixing/Dense_0": (14,),
        "block0/channel_mixing/Dense_1": (10,),
        "block1/token_mixing/Dense_0": (7,),
        "block1/channel_mixing/Dense_0": (16,),
    }
    return from_linen(Mixer(), normal(BATCH, 8, 8, 3), least)
