"""Residual networks for small images: ResNet-20/56 and ResNet-18/50 with the CIFAR stem.

He et al., "Deep residual learning for image recognition", arXiv 1512.03385.
"""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxprune.networks.bundled.ghost import Ghost

_conv = partial(nn.Conv, use_bias=False)
_norm = partial(nn.BatchNorm, momentum=0.9)


class Block(nn.Module):
    """Convolutions beside a shortcut: two 3x3, or 1x1, 3x3 and 1x1 (He et al., figure 5).

    In a bottleneck the stride is that of the 3x3 convolution, as in today's libraries; He et al.
    put it on the first 1x1 convolution. The parameter count is the same.

    Attributes:
        width: Filters of each convolution; the last one of a bottleneck has four times as many.
        stride: The output is smaller than the input by this factor.
        projection: Whether the shortcut is a 1x1 convolution (option B) instead of the identity.
        bottleneck: Whether there are three convolutions instead of two.
        ghost: With 2 or more, every convolution is a ghost module of that ratio, shortcuts aside.
    """

    width: int
    stride: int = 1
    projection: bool = False
    bottleneck: bool = False
    ghost: int = 1

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps `[B, H, W, C]` to the block's output."""
        norm = partial(_norm, use_running_average=not train)
        width, stride = self.width, self.stride
        layers = [(width, 3, stride), (width, 3, 1)]  # filters, kernel size, stride
        if self.bottleneck:
            layers = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
        y = x
        for number, (filters, size, strides) in enumerate(layers, start=1):
            y = nn.relu(y) if number > 1 else y
            if self.ghost > 1:
                last = number == len(layers)
                name = f"ghost{number}"
                made = Ghost(filters, size, strides, self.ghost, activated=not last, name=name)
                y = made(y, train)
                continue
            conv = _conv(filters, (size, size), strides, padding=size // 2, name=f"conv{number}")
            y = norm(name=f"bn{number}")(conv(y))
        if self.projection:
            conv = _conv(layers[-1][0], (1, 1), stride, name="conv_shortcut")
            x = norm(name="bn_shortcut")(conv(x))
        return nn.relu(y + x)


class ResNet(nn.Module):
    """A residual network whose stem is one 3x3 convolution of stride 1, without max-pooling.

    Shortcuts that change shape are 1x1 convolutions (option B). On CIFAR-10 He et al.'s
    ResNet-20/56 use option A (subsampling, padding with zero channels), which couples the channels
    of consecutive stages and leaves less to prune. Option B adds 2,752 parameters and 262,144
    multiply-accumulates to ResNet-20/56.

    Attributes:
        stem: Filters of the first convolution.
        blocks: Blocks of each stage.
        widths: `width` of the blocks of each stage.
        bottleneck: Whether the blocks are bottlenecks.
        num_classes: Size of the output layer.
        ghost: With 2 or more, every convolution is a ghost module of that ratio, shortcuts aside.
    """

    stem: int
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    bottleneck: bool = False
    num_classes: int = 10
    ghost: int = 1

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps images `[B, H, W, C]` to logits `[B, num_classes]`."""
        if self.ghost > 1:
            x = Ghost(self.stem, ratio=self.ghost, name="ghost1")(x, train)
        else:
            x = _conv(self.stem, (3, 3), padding=1, name="conv1")(x)
            x = nn.relu(_norm(use_running_average=not train, name="bn1")(x))
        channels = self.stem
        for stage, (blocks, width) in enumerate(zip(self.blocks, self.widths, strict=True), 1):
            for block in range(blocks):
                stride = 2 if block == 0 and stage > 1 else 1
                outputs = 4 * width if self.bottleneck else width
                # From the fields of this class, not from x: a pruned x has fewer channels.
                projection = (channels, 1) != (outputs, stride)
                name = f"stage{stage}_block{block}"
                made = Block(width, stride, projection, self.bottleneck, self.ghost, name=name)
                x = made(x, train)
                channels = outputs
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes, name="classifier")(x)
