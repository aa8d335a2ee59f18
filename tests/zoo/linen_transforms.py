"""Flax's transforms and training noise: dropout, `nn.remat`, `nn.scan`."""

from functools import partial

import flax.linen as nn

from zoo.linen_classifiers import ResNetBlock
from zoo.network import BATCH, from_linen, normal


class DropoutMLP(nn.Module):
    hidden: tuple[int, ...] = (12, 9)
    classes: int = 4

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = x.reshape((x.shape[0], -1))
        x = nn.Dropout(0.1, deterministic=not train)(x)
        for features in self.hidden:
            x = nn.LayerNorm()(nn.Dense(features)(x))
            x = nn.leaky_relu(x)
            x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(self.classes)(x)


def dropout_mlp():
    least = {"Dense_0": (12,), "Dense_1": (9,)}
    return from_linen(DropoutMLP(), normal(BATCH, 4, 5), least)


class RematResNet(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        conv = partial(nn.Conv, use_bias=False)
        norm = partial(nn.BatchNorm, use_running_average=not train)
        x = nn.relu(norm(name="norm")(conv(8, (3, 3), name="stem")(x)))
        block = nn.remat(ResNetBlock)
        x = block(8, conv, norm, name="block0")(x)
        x = block(12, conv, norm, strides=(2, 2), name="block1")(x)
        return nn.Dense(4, name="head")(x.mean(axis=(1, 2)))


def remat_resnet():
    least = {
        "stem": (8,),
        "block0/Conv_0": (8,),
        "block0/Conv_1": (8,),
        "block1/Conv_0": (12,),
        "block1/conv_proj": (12,),
    }
    return from_linen(RematResNet(), normal(BATCH, 8, 8, 3), least)


class ResidualMLP(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x, _):
        y = nn.silu(nn.Dense(self.hidden, name="up")(nn.RMSNorm(name="norm")(x)))
        return x + nn.Dense(x.shape[-1], name="down")(y), None


class ScannedMLP(nn.Module):
    """Blocks of one shape with their parameters stacked: one width for all of them."""

    depth: int = 3
    features: int = 8
    hidden: int = 13

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Dense(self.features, name="embed")(x)
        blocks = nn.scan(
            nn.remat(ResidualMLP),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.depth,
        )
        x, _ = blocks(self.hidden, name="blocks")(x, None)
        return nn.Dense(4, name="head")(x)


def scanned_mlp():
    least = {"embed": (8,), "blocks/up": (13,), "blocks/down": (8,)}
    return from_linen(ScannedMLP(), normal(BATCH, 6), least)
