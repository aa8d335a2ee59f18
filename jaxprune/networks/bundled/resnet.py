"""Residual networks for small images: ResNet-20/56 and ResNet-18/50 with the CIFAR stem.

He et al., "Deep residual learning for image recognition", arXiv 1512.03385.
"""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

_conv = partial(nn.Conv, use_bias=False)
_norm = partial(nn.BatchNorm, momentum=0.9)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al., figure 5 left).

    Attributes:
        width: Filters of both convolutions, and channels of the output.
        stride: Stride of the first convolution.
        projection: Whether the shortcut is a 1x1 convolution; else it is the identity.
    """

    width: int
    stride: int = 1
    projection: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps `[B, H, W, C]` to the block's output, smaller by `stride`."""
        norm = partial(_norm, use_running_average=not train)
        strides = (self.stride, self.stride)
        y = _conv(self.width, (3, 3), strides, padding=1, name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y))
        y = _conv(self.width, (3, 3), padding=1, name="conv2")(y)
        y = norm(name="bn2")(y)
        if self.projection:
            x = _projection(x, self.width, strides, norm)
        return nn.relu(y + x)


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut (He et al., figure 5 right).

    The stride sits on the 3x3 convolution, as in today's libraries; He et al. put it on the first
    1x1 convolution. The parameter count is the same.

    Attributes:
        width: Filters of the first two convolutions; the output has four times as many channels.
        stride: Stride of the 3x3 convolution.
        projection: Whether the shortcut is a 1x1 convolution; else it is the identity.
    """

    width: int
    stride: int = 1
    projection: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps `[B, H, W, C]` to the block's output, smaller by `stride`."""
        norm = partial(_norm, use_running_average=not train)
        strides = (self.stride, self.stride)
        y = _conv(self.width, (1, 1), name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y))
        y = _conv(self.width, (3, 3), strides, padding=1, name="conv2")(y)
        y = nn.relu(norm(name="bn2")(y))
        y = _conv(4 * self.width, (1, 1), name="conv3")(y)
        y = norm(name="bn3")(y)
        if self.projection:
            x = _projection(x, 4 * self.width, strides, norm)
        return nn.relu(y + x)


def _projection(x: Array, width: int, strides: tuple[int, int], norm: partial) -> Array:
    """A 1x1 convolution where the shape changes (He et al.'s option B)."""
    return norm(name="bn_shortcut")(_conv(width, (1, 1), strides, name="conv_shortcut")(x))


class ResNet(nn.Module):
    """A residual network whose stem is one 3x3 convolution of stride 1, without max-pooling.

    Shortcuts that change shape are 1x1 convolutions (option B). He et al.'s ResNet-20/56 use option
    A (subsample and pad with zero channels) on CIFAR-10; a padded shortcut ties each channel of a
    stage to one of the next, which leaves a pruner less to choose. Option B adds 2,752 parameters
    and 262,144 multiply-accumulates to ResNet-20/56.

    Attributes:
        stem: Filters of the first convolution.
        blocks: Blocks of each stage.
        widths: `width` of the blocks of each stage.
        bottleneck: `BottleneckBlock` if true, else `BasicBlock`.
        num_classes: Size of the output layer.
    """

    stem: int
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    bottleneck: bool = False
    num_classes: int = 10

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps images `[B, H, W, C]` to logits `[B, num_classes]`."""
        block_type = BottleneckBlock if self.bottleneck else BasicBlock
        x = _conv(self.stem, (3, 3), padding=1, name="conv1")(x)
        x = nn.relu(_norm(use_running_average=not train, name="bn1")(x))
        channels = self.stem
        for stage, (blocks, width) in enumerate(zip(self.blocks, self.widths, strict=True), 1):
            for block in range(blocks):
                stride = 2 if block == 0 and stage > 1 else 1
                outputs = 4 * width if self.bottleneck else width
                # Said by the sizes of this class and not of x: a pruned x has fewer channels.
                projection = (channels, 1) != (outputs, stride)
                name = f"stage{stage}_block{block}"
                x = block_type(width, stride, projection, name=name)(x, train)
                channels = outputs
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes, name="classifier")(x)
