"""VGG for small images, with BatchNorm."""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxprune.networks.bundled.ghost import Ghost

STAGES: dict[int, tuple[tuple[int, ...], ...]] = {
    11: ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    16: ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    19: ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}
"""Filters of each convolution, stage by stage (Simonyan & Zisserman, 2015, table 1: A, D, E)."""


class VGG(nn.Module):
    """The convolutions of VGG (Simonyan & Zisserman, arXiv 1409.1556) in their CIFAR form.

    BatchNorm follows each 3x3 convolution, and one dense layer of 512 inputs replaces the three of
    the ImageNet network. The convolutions carry no bias: BatchNorm subtracts it. VGG-16 on 32x32
    images: 14.72 M parameters, 313.2 M multiply-accumulates.

    Attributes:
        stages: Filters of each convolution, stage by stage; 2x2 max-pooling ends each stage.
        num_classes: Size of the output layer.
        ghost: With 2 or more, every convolution is a ghost module of that ratio.
    """

    stages: tuple[tuple[int, ...], ...]
    num_classes: int = 10
    ghost: int = 1

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps images `[B, H, W, C]` (32x32 or larger) to logits `[B, num_classes]`."""
        for stage, widths in enumerate(self.stages, start=1):
            for number, width in enumerate(widths, start=1):
                name = f"{stage}_{number}"
                if self.ghost > 1:
                    x = Ghost(width, ratio=self.ghost, name=f"ghost{name}")(x, train)
                    continue
                x = nn.Conv(width, (3, 3), use_bias=False, name=f"conv{name}")(x)
                norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"bn{name}")
                x = nn.relu(norm(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes, name="classifier")(x)
