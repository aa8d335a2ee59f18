"""What happens to a batch of images on the device: augmentation and normalisation."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.training.data.types import Dataset

Augmentation = Literal["none", "shift", "shift_mirror", "crop_mirror"]
"""What `augment` does to images."""


@dataclass(frozen=True)
class Preprocess:
    """Turns images into normalised floats.

    A value rather than a closure: two of them are equal when they do the same, so a jitted training
    loop that was compiled for one serves the other.

    Attributes:
        mean: Mean of each channel, after division by `scale`.
        std: Standard deviation of each channel, likewise.
        flat: Whether to flatten each image to `H*W*C` features.
        scale: What pixels are divided by first: 255 for uint8, 1 for floats.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    flat: bool
    scale: float = 255.0

    def __call__(self, images: Array | np.ndarray) -> Array:
        """Maps `[B, H, W, C]` to float32 `[B, H, W, C]`, or `[B, H*W*C]` if flat."""
        # By rows, since XLA's loops over a last axis of 1 or 3 are not vectorised on a CPU.
        rows = jnp.asarray(images).reshape((images.shape[0], -1)).astype(jnp.float32)
        pixels = rows.shape[1] // len(self.mean)
        mean, std = (np.tile(np.asarray(of, np.float32), pixels) for of in (self.mean, self.std))
        x = (rows / self.scale - mean) / std
        return x if self.flat else x.reshape(images.shape)


def preprocess(dataset: Dataset, flat: bool) -> Preprocess:
    """The preprocessing of a dataset: subtract its mean, divide by its standard deviation.

    Args:
        dataset: Gives mean and standard deviation of each channel (of its train split).
        flat: Whether the network takes flattened features (`Network.flat`).

    Returns:
        A hashable, jit-able function of images `[B, H, W, C]`, to float32.
    """
    mean, std = tuple(dataset.mean.tolist()), tuple(dataset.std.tolist())
    return Preprocess(mean, std, flat, dataset.scale)


def augment(
    key: Array,
    images: Array,
    kind: Augmentation = "crop_mirror",
    mirrored: Array | None = None,
) -> Array:
    """Changes each image at random in a way that keeps its class. Jit-able.

    - `"shift"`: half of the images move by one pixel at most, down or up and to the right or left.
    - `"shift_mirror"`: the same, and half of all images are mirrored left to right.
    - `"crop_mirror"`: every image moves by up to 4 pixels, and half are mirrored: the usual
      augmentation of CIFAR-10 (He et al., arXiv 1512.03385, section 4.2).

    What moves in from outside is zero.

    Args:
        key: A PRNG key; consumed.
        images: uint8 `[B, H, W, C]`.
        kind: What is done; `"none"` returns the images.
        mirrored: bool `[B]`, which images are mirrored where the kind mirrors at all; by default
            each is with probability one half.

    Returns:
        Images of the same shape and type.
    """
    if kind == "none":
        return images
    count, height, width, channels = shape = images.shape
    if channels == 1:  # a last axis of 1 would not be vectorised on a CPU
        images = images[..., 0]
    pixels = 4 if kind == "crop_mirror" else 1
    corner_key, flip_key = jax.random.split(key)
    corners = jax.random.randint(corner_key, (count, 2), 0, 2 * pixels + 1)
    if kind != "crop_mirror":
        moved = jax.random.bernoulli(jax.random.fold_in(corner_key, 1), shape=(count, 1))
        corners = jnp.where(moved, corners, pixels)
    border, rest = (pixels, pixels), images.shape[3:]
    padded = jnp.pad(images, ((0, 0), border, border, *((0, 0) for _ in rest)))

    def crop(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (*corner, *(0 for _ in rest)), (height, width, *rest))

    cropped = jax.vmap(crop)(padded, corners)
    if kind != "shift":
        flips = jax.random.bernoulli(flip_key, shape=(count,)) if mirrored is None else mirrored
        flips = flips.reshape((count, 1, 1, *(1 for _ in rest)))
        cropped = jnp.where(flips, cropped[:, :, ::-1], cropped)
    return cropped.reshape(shape)
