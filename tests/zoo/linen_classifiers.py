"""Convolutional classifiers in Flax Linen."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from zoo.network import BATCH, from_linen, normal


class VGG(nn.Module):
    layers: Sequence[int | str] = (6, 8, "M", 12, "M")
    hidden: int = 10
    classes: int = 4

    @nn.compact
    def __call__(self, x, train: bool = False):
        for width in self.layers:
            if width == "M":
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
                continue
            x = nn.Conv(width, (3, 3), padding="SAME")(x)
            x = nn.BatchNorm(use_running_average=not train)(x)
            x = nn.relu(x)
        x = x.reshape((x.shape[0], -1))
        x = nn.relu(nn.Dense(self.hidden)(x))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(self.classes)(x)


def vgg():
    least = {"Conv_0": (6,), "Conv_1": (8,), "Conv_2": (12,), "Dense_0": (10,)}
    return from_linen(VGG(), normal(BATCH, 8, 8, 3), least)


class ResNetBlock(nn.Module):
    filters: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]
    act: Callable[..., Any] = nn.relu
    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x):
        residual = x
        y = self.conv(self.filters, (3, 3), self.strides)(x)
        y = self.norm()(y)
        y = self.act(y)
        y = self.conv(self.filters, (3, 3))(y)
        y = self.norm(scale_init=nn.initializers.zeros_init())(y)
        if residual.shape != y.shape:
            residual = self.conv(self.filters, (1, 1), self.strides, name="conv_proj")(residual)
            residual = self.norm(name="norm_proj")(residual)
        return self.act(residual + y)


class BottleneckResNetBlock(nn.Module):
    filters: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]
    act: Callable[..., Any] = nn.relu
    strides: tuple[int, int] = (1, 1)
    outputs: int | None = None
    cardinality: int = 1

    @nn.compact
    def __call__(self, x):
        outputs = self.outputs or 4 * self.filters
        residual = x
        y = self.conv(self.filters, (1, 1))(x)
        y = self.norm()(y)
        y = self.act(y)
        y = self.conv(self.filters, (3, 3), self.strides, feature_group_count=self.cardinality)(y)
        y = self.norm()(y)
        y = self.act(y)
        y = self.conv(outputs, (1, 1))(y)
        y = self.norm(scale_init=nn.initializers.zeros_init())(y)
        if residual.shape != y.shape:
            residual = self.conv(outputs, (1, 1), self.strides, name="conv_proj")(residual)
            residual = self.norm(name="norm_proj")(residual)
        return self.act(residual + y)


class ResNet(nn.Module):
    """Flax's own example, with a stem for small images."""

    stage_sizes: Sequence[int]
    block_cls: Callable[..., Any]
    num_filters: int = 8
    num_classes: int = 4
    groups: int | None = None  # GroupNorm with so many groups instead of BatchNorm

    @nn.compact
    def __call__(self, x, train: bool = True):
        conv = partial(nn.Conv, use_bias=False)
        if self.groups:
            norm = partial(nn.GroupNorm, num_groups=self.groups)
        else:
            norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        x = conv(self.num_filters, (3, 3), name="conv_init")(x)
        x = norm(name="bn_init")(x)
        x = nn.relu(x)
        for i, block_size in enumerate(self.stage_sizes):
            for j in range(block_size):
                strides = (2, 2) if i > 0 and j == 0 else (1, 1)
                x = self.block_cls(
                    self.num_filters * 2**i, strides=strides, conv=conv, norm=norm, act=nn.relu
                )(x)
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes)(x)


def resnet():
    least = {
        "conv_init": (8,),
        "ResNetBlock_0/Conv_0": (8,),
        "ResNetBlock_1/Conv_0": (16,),
        "ResNetBlock_1/conv_proj": (16,),
        "ResNetBlock_2/Conv_0": (16,),
    }
    return from_linen(ResNet((1, 2), ResNetBlock), normal(BATCH, 8, 8, 3), least)


def resnet_bottleneck():
    blocks = {f"BottleneckResNetBlock_{i}/Conv_{j}": (4 + 4 * i,) for i in (0, 1) for j in (0, 1)}
    outputs = {"BottleneckResNetBlock_0/Conv_2": (16,), "BottleneckResNetBlock_1/conv_proj": (32,)}
    module = ResNet((1, 1), BottleneckResNetBlock, num_filters=4)
    return from_linen(module, normal(BATCH, 8, 8, 3), {"conv_init": (4,), **blocks, **outputs})


def resnet_groupnorm():
    """Where it takes whole normalisation groups or one channel of each, both are removal."""
    least = {
        "conv_init": (),
        "ResNetBlock_0/Conv_0": (),
        "ResNetBlock_1/Conv_0": (),
        "ResNetBlock_1/conv_proj": (),
    }
    return from_linen(ResNet((1, 1), ResNetBlock, 12, groups=4), normal(BATCH, 8, 8, 3), least)


def resnext():
    module = ResNet(
        (1, 1), partial(BottleneckResNetBlock, cardinality=4, outputs=20), num_filters=12
    )
    least = {
        "conv_init": (12,),
        "BottleneckResNetBlock_0/Conv_0": (),
        "BottleneckResNetBlock_0/Conv_1": (),
        "BottleneckResNetBlock_0/Conv_2": (20,),
        "BottleneckResNetBlock_1/Conv_0": (),
        "BottleneckResNetBlock_1/Conv_1": (),
    }
    return from_linen(module, normal(BATCH, 8, 8, 3), least)


class DenseLayer(nn.Module):
    growth_rate: int
    bottleneck: int = 2

    @nn.compact
    def __call__(self, x, train: bool):
        norm = partial(nn.BatchNorm, use_running_average=not train)
        y = nn.Conv(self.bottleneck * self.growth_rate, (1, 1), use_bias=False)(nn.relu(norm()(x)))
        y = nn.Conv(self.growth_rate, (3, 3), use_bias=False)(nn.relu(norm()(y)))
        return jnp.concatenate([x, y], axis=-1)


class DenseNet(nn.Module):
    growth_rate: int = 5
    blocks: Sequence[int] = (2, 2)

    @nn.compact
    def __call__(self, x, train: bool = False):
        norm = partial(nn.BatchNorm, use_running_average=not train)
        x = nn.Conv(8, (3, 3), use_bias=False)(x)
        for i, layers in enumerate(self.blocks):
            for _ in range(layers):
                x = DenseLayer(self.growth_rate)(x, train)
            if i + 1 < len(self.blocks):
                x = nn.Conv(x.shape[-1] // 2, (1, 1), use_bias=False)(nn.relu(norm()(x)))
                x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(norm()(x))
        return nn.Dense(4)(x.mean(axis=(1, 2)))


def densenet():
    layers = {f"DenseLayer_{i}/Conv_{j}": ((10, 5)[j],) for i in range(4) for j in (0, 1)}
    least = {"Conv_0": (8,), "Conv_1": (9,), **layers}
    return from_linen(DenseNet(), normal(BATCH, 8, 8, 3), least)


class ConvNeXtBlock(nn.Module):
    dim: int
    hidden: int

    @nn.compact
    def __call__(self, x):
        y = nn.Conv(self.dim, (7, 7), feature_group_count=self.dim, name="dwconv")(x)
        y = nn.LayerNorm(epsilon=1e-6, name="norm")(y)
        y = nn.Dense(self.hidden, name="pwconv1")(y)
        y = nn.gelu(y)
        y = nn.Dense(self.dim, name="pwconv2")(y)
        gamma = self.param("gamma", nn.initializers.constant(1e-6), (self.dim,))
        return x + gamma * y


class ConvNeXt(nn.Module):
    dims: Sequence[int] = (6, 10)
    hidden: Sequence[int] = (24, 40)
    depths: Sequence[int] = (1, 1)

    @nn.compact
    def __call__(self, x, train: bool = False):
        for i, (dim, hidden, depth) in enumerate(
            zip(self.dims, self.hidden, self.depths, strict=True)
        ):
            if i == 0:
                x = nn.Conv(dim, (4, 4), strides=(4, 4), padding="VALID", name="stem")(x)
                x = nn.LayerNorm(epsilon=1e-6, name="stem_norm")(x)
            else:
                x = nn.LayerNorm(epsilon=1e-6, name=f"downsample{i}_norm")(x)
                x = nn.Conv(dim, (2, 2), strides=(2, 2), name=f"downsample{i}")(x)
            for j in range(depth):
                x = ConvNeXtBlock(dim, hidden, name=f"stage{i}_block{j}")(x)
        x = nn.LayerNorm(epsilon=1e-6, name="norm")(x.mean(axis=(1, 2)))
        return nn.Dense(4, name="head")(x)


def convnext():
    least = {
        "stem": (6,),
        "stage0_block0/pwconv1": (24,),
        "stage0_block0/pwconv2": (6,),
        "downsample1": (10,),
        "stage1_block0/pwconv1": (40,),
        "stage1_block0/pwconv2": (10,),
    }
    return from_linen(ConvNeXt(), normal(BATCH, 16, 16, 3), least)
