"""Networks for small devices in Flax Linen: depthwise convolutions, gates, channel shuffles."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from zoo.network import BATCH, from_linen, normal


class ConvBN(nn.Module):
    features: int
    kernel: int = 1
    stride: int = 1
    depthwise: bool = False
    act: Callable[..., Any] | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.stride,
            feature_group_count=x.shape[-1] if self.depthwise else 1,
            use_bias=False,
        )(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return x if self.act is None else self.act(x)


class InvertedResidual(nn.Module):
    outputs: int
    stride: int
    expand_ratio: int

    @nn.compact
    def __call__(self, x, train: bool):
        hidden = x.shape[-1] * self.expand_ratio
        y = x
        if self.expand_ratio != 1:
            y = ConvBN(hidden, act=nn.relu6, name="expand")(y, train)
        y = ConvBN(hidden, 3, self.stride, depthwise=True, act=nn.relu6, name="depthwise")(y, train)
        y = ConvBN(self.outputs, name="project")(y, train)
        if self.stride == 1 and x.shape[-1] == self.outputs:
            y = x + y
        return y


class MobileNetV2(nn.Module):
    settings: Sequence[tuple[int, int, int]] = ((1, 6, 1), (3, 8, 2), (3, 8, 1))

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = ConvBN(10, 3, act=nn.relu6, name="stem")(x, train)
        for i, (expand_ratio, outputs, stride) in enumerate(self.settings):
            x = InvertedResidual(outputs, stride, expand_ratio, name=f"block{i}")(x, train)
        x = ConvBN(20, act=nn.relu6, name="last")(x, train)
        x = nn.Dropout(0.2, deterministic=not train)(x.mean(axis=(1, 2)))
        return nn.Dense(4, name="classifier")(x)


def mobilenet_v2():
    least = {
        "stem/Conv_0": (10,),
        "block0/project/Conv_0": (6,),
        "block1/expand/Conv_0": (18,),
        "block1/project/Conv_0": (8,),
        "block2/expand/Conv_0": (24,),
        "block2/project/Conv_0": (8,),
        "last/Conv_0": (20,),
    }
    return from_linen(MobileNetV2(), normal(BATCH, 8, 8, 3), least)


class SqueezeExcite(nn.Module):
    squeezed: int
    gate: Callable[..., Any]
    act: Callable[..., Any] = nn.relu

    @nn.compact
    def __call__(self, x):
        s = jnp.mean(x, axis=(1, 2), keepdims=True)
        s = self.act(nn.Conv(self.squeezed, (1, 1), name="reduce")(s))
        s = nn.Conv(x.shape[-1], (1, 1), name="expand")(s)
        return x * self.gate(s)


class MobileNetV3Block(nn.Module):
    hidden: int
    outputs: int
    stride: int
    act: Callable[..., Any]
    squeezed: int | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        y = ConvBN(self.hidden, act=self.act, name="expand")(x, train)
        y = ConvBN(self.hidden, 5, self.stride, True, self.act, name="depthwise")(y, train)
        if self.squeezed:
            y = SqueezeExcite(self.squeezed, nn.hard_sigmoid, name="se")(y)
        y = ConvBN(self.outputs, name="project")(y, train)
        return x + y if x.shape == y.shape else y


class MobileNetV3(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = ConvBN(6, 3, act=nn.hard_swish, name="stem")(x, train)
        x = MobileNetV3Block(14, 8, 2, nn.relu, 5, name="block0")(x, train)
        x = MobileNetV3Block(18, 8, 1, nn.hard_swish, 7, name="block1")(x, train)
        x = ConvBN(20, act=nn.hard_swish, name="last")(x, train)
        x = nn.hard_swish(nn.Dense(16, name="hidden")(x.mean(axis=(1, 2))))
        return nn.Dense(4, name="classifier")(x)


def mobilenet_v3():
    least = {
        "stem/Conv_0": (6,),
        "block0/expand/Conv_0": (14,),
        "block0/se/reduce": (5,),
        "block0/se/expand": (14,),
        "block0/project/Conv_0": (8,),
        "block1/expand/Conv_0": (18,),
        "block1/se/reduce": (7,),
        "last/Conv_0": (20,),
        "hidden": (16,),
    }
    return from_linen(MobileNetV3(), normal(BATCH, 8, 8, 3), least)


def channel_shuffle(x, groups: int):
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, groups, channels // groups)
    x = jnp.swapaxes(x, -1, -2)
    return x.reshape(batch, height, width, channels)


class ShuffleUnit(nn.Module):
    """Two halves of the channels; one of them goes through convolutions."""

    @nn.compact
    def __call__(self, x, train: bool):
        half = x.shape[-1] // 2
        left, right = jnp.split(x, 2, axis=-1)
        right = ConvBN(half, act=nn.relu, name="reduce")(right, train)
        right = ConvBN(half, 3, depthwise=True, name="depthwise")(right, train)
        right = ConvBN(half, act=nn.relu, name="expand")(right, train)
        return channel_shuffle(jnp.concatenate([left, right], axis=-1), 2)


class DownsampleUnit(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, train: bool):
        half = self.features // 2
        left = ConvBN(x.shape[-1], 3, 2, depthwise=True, name="left_depthwise")(x, train)
        left = ConvBN(half, act=nn.relu, name="left")(left, train)
        right = ConvBN(half, act=nn.relu, name="reduce")(x, train)
        right = ConvBN(half, 3, 2, depthwise=True, name="depthwise")(right, train)
        right = ConvBN(half, act=nn.relu, name="expand")(right, train)
        return channel_shuffle(jnp.concatenate([left, right], axis=-1), 2)


class ShuffleNetV2(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = ConvBN(6, 3, act=nn.relu, name="stem")(x, train)
        x = DownsampleUnit(16, name="down")(x, train)
        x = ShuffleUnit(name="unit0")(x, train)
        x = ShuffleUnit(name="unit1")(x, train)
        x = ConvBN(18, act=nn.relu, name="last")(x, train)
        return nn.Dense(4, name="classifier")(x.mean(axis=(1, 2)))


def shufflenet_v2():
    """Halves of halves are passed on, so the outputs of a unit fall into several groups."""
    least = {
        "stem/Conv_0": (6,),
        "down/reduce/Conv_0": (8,),
        "down/left/Conv_0": (),
        "down/expand/Conv_0": (),
        "unit0/reduce/Conv_0": (8,),
        "unit0/expand/Conv_0": (),
        "unit1/reduce/Conv_0": (8,),
        "unit1/expand/Conv_0": (),
        "last/Conv_0": (18,),
    }
    return from_linen(ShuffleNetV2(), normal(BATCH, 8, 8, 3), least)


class MBConv(nn.Module):
    hidden: int
    outputs: int
    stride: int
    drop_path: float = 0.2

    @nn.compact
    def __call__(self, x, train: bool):
        y = ConvBN(self.hidden, act=nn.swish, name="expand")(x, train)
        y = ConvBN(self.hidden, 3, self.stride, True, nn.swish, name="depthwise")(y, train)
        squeezed = max(1, x.shape[-1] // 2)
        y = SqueezeExcite(squeezed, nn.sigmoid, nn.swish, name="se")(y)
        y = ConvBN(self.outputs, name="project")(y, train)
        if x.shape == y.shape:
            drop = partial(nn.Dropout, broadcast_dims=(1, 2, 3), deterministic=not train)
            y = x + drop(self.drop_path)(y)  # stochastic depth
        return y


class EfficientNet(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = ConvBN(6, 3, act=nn.swish, name="stem")(x, train)
        x = MBConv(18, 8, 2, name="block0")(x, train)
        x = MBConv(22, 8, 1, name="block1")(x, train)
        x = ConvBN(20, act=nn.swish, name="last")(x, train)
        x = nn.Dropout(0.2, deterministic=not train)(x.mean(axis=(1, 2)))
        return nn.Dense(4, name="classifier")(x)


def efficientnet():
    least = {
        "stem/Conv_0": (6,),
        "block0/expand/Conv_0": (18,),
        "block0/se/reduce": (3,),
        "block0/project/Conv_0": (8,),
        "block1/expand/Conv_0": (22,),
        "block1/se/reduce": (4,),
        "last/Conv_0": (20,),
    }
    return from_linen(EfficientNet(), normal(BATCH, 8, 8, 3), least)
