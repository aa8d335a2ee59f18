"""Sequences in Flax Linen: causal convolutions and recurrent networks."""

import flax.linen as nn
import jax.numpy as jnp

from zoo.network import BATCH, from_linen, integers, normal


class TemporalBlock(nn.Module):
    features: int
    dilation: int

    @nn.compact
    def __call__(self, x, train: bool):
        y = x
        for _ in range(2):
            y = nn.Conv(self.features, (3,), kernel_dilation=(self.dilation,), padding="CAUSAL")(y)
            y = nn.relu(y)
            y = nn.Dropout(0.2, deterministic=not train)(y)
        if x.shape[-1] != self.features:
            x = nn.Conv(self.features, (1,), name="shortcut")(x)
        return nn.relu(x + y)


class TemporalCNN(nn.Module):
    features: tuple[int, ...] = (8, 8, 10)

    @nn.compact
    def __call__(self, x, train: bool = False):
        for i, features in enumerate(self.features):
            x = TemporalBlock(features, 2**i, name=f"block{i}")(x, train)
        return nn.Dense(4, name="head")(x[:, -1])


def temporal_cnn():
    least = {
        "block0/Conv_0": (8,),
        "block0/Conv_1": (8,),
        "block0/shortcut": (8,),
        "block1/Conv_0": (8,),
        "block1/Conv_1": (8,),
        "block2/Conv_0": (10,),
        "block2/Conv_1": (10,),
    }
    return from_linen(TemporalCNN(), normal(BATCH, 12, 3), least)


class TextGRU(nn.Module):
    """Tokens to an embedding, a recurrent layer, and a class."""

    embedding: int = 7
    hidden: int = 9

    @nn.compact
    def __call__(self, tokens, train: bool = False):
        x = nn.Embed(num_embeddings=11, features=self.embedding, name="embedding")(tokens)
        x = nn.RNN(nn.GRUCell(features=self.hidden), name="recurrent")(x)
        x = nn.Dropout(0.3, deterministic=not train)(x[:, -1])
        return nn.Dense(4, name="head")(x)


def gru_embedding():
    """`nn.RNN` keeps its cell's parameters beside its own name; its carry has single precision."""
    least = {"embedding": (7,), "GRUCell_0/hn": (9,)}
    return from_linen(TextGRU(), integers(BATCH, 6, below=11), least, double=False)


class BidirectionalLSTM(nn.Module):
    forward: int = 8
    backward: int = 6
    hidden: int = 10

    @nn.compact
    def __call__(self, x, train: bool = False):
        forward = nn.RNN(nn.OptimizedLSTMCell(self.forward, name="forward"))
        backward = nn.RNN(nn.LSTMCell(self.backward, name="backward"))
        x = nn.Bidirectional(forward, backward)(x)
        x = nn.relu(nn.Dense(self.hidden, name="hidden")(jnp.max(x, axis=1)))
        return nn.Dense(4, name="head")(x)


def lstm_bidirectional():
    least = {"forward/hi": (8,), "backward/hi": (6,), "hidden": (10,)}
    return from_linen(BidirectionalLSTM(), normal(BATCH, 6, 5), least, double=False)
