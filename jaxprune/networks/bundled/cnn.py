"""A small convolutional network for the embedded 8x8 digits."""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array


class CNN(nn.Module):
    """Three 3x3 convolutions with BatchNorm and ReLU, then a dense layer.

    2x2 max-pooling follows the first convolution, and global average pooling the last, so any image
    of at least 2x2 pixels will do. Not a published network: it is the default because it trains in
    seconds on a CPU, yet has enough filters (112) to make the search interesting.

    Attributes:
        widths: Filters of the three convolutions.
        num_classes: Size of the output layer.
    """

    widths: tuple[int, int, int] = (16, 32, 64)
    num_classes: int = 10

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Maps images `[B, H, W, C]` to logits `[B, num_classes]`."""
        for number, width in enumerate(self.widths, start=1):
            x = nn.Conv(width, (3, 3), use_bias=False, name=f"conv{number}")(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"bn{number}")(x)
            x = nn.relu(x)
            if number == 1:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes, name="classifier")(x)
