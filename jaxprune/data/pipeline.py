"""What happens to a batch of images on the device: augmentation and normalisation."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from jaxprune.data.types import Dataset

PADDING = 4
"""Pixels by which `augment` may shift an image, in each direction."""


@dataclass(frozen=True)
class Preprocess:
    """Turns uint8 images into normalised floats.

    A value rather than a closure: two of them are equal when they do the same, so a jitted training
    loop that was compiled for one serves the other.

    Attributes:
        mean: Mean of each channel, on the scale 0..1.
        std: Standard deviation of each channel, on the scale 0..1.
        flat: Whether to flatten each image to `H*W*C` features.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    flat: bool

    def __call__(self, images: Array) -> Array:
        """Maps uint8 `[B, H, W, C]` to float32 `[B, H, W, C]`, or `[B, H*W*C]` if flat."""
        mean, std = jnp.array(self.mean, jnp.float32), jnp.array(self.std, jnp.float32)
        x = (jnp.asarray(images, jnp.float32) / 255 - mean) / std
        return x.reshape((x.shape[0], -1)) if self.flat else x


def preprocess(dataset: Dataset, flat: bool) -> Preprocess:
    """The preprocessing of a dataset: subtract its mean, divide by its standard deviation.

    Args:
        dataset: Gives mean and standard deviation of each channel (of its train split).
        flat: Whether the network takes flattened features (`Network.flat`).

    Returns:
        A hashable, jit-able function uint8 `[B, H, W, C]` -> float32.
    """
    return Preprocess(tuple(dataset.mean.tolist()), tuple(dataset.std.tolist()), flat)


def augment(key: Array, images: Array) -> Array:
    """Shifts each image by up to 4 pixels and mirrors it left to right half of the time.

    The usual CIFAR-10 augmentation (He et al., arXiv 1512.03385, section 4.2): pad by 4 zero
    pixels on each side, crop at random, flip at random. Jit-able.

    Args:
        key: A PRNG key; consumed.
        images: uint8 `[B, H, W, C]`.

    Returns:
        Images of the same shape and type.
    """
    count, height, width, channels = images.shape
    corner_key, flip_key = jax.random.split(key)
    corners = jax.random.randint(corner_key, (count, 2), 0, 2 * PADDING + 1)
    flips = jax.random.bernoulli(flip_key, shape=(count, 1, 1, 1))
    border = (PADDING, PADDING)
    padded = jnp.pad(images, ((0, 0), border, border, (0, 0)))

    def crop(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (*corner, 0), (height, width, channels))

    cropped = jax.vmap(crop)(padded, corners)
    return jnp.where(flips, cropped[:, :, ::-1], cropped)
