"""Datasets as uint8 arrays, and what happens to a batch of them on the device.

    dataset = data.load("digits")
    preprocess = data.preprocess(dataset, network.flat)
    x = preprocess(dataset.train.images[:64])
"""

from pathlib import Path

from jaxprune.data import digits
from jaxprune.data.pipeline import Preprocess, augment, preprocess
from jaxprune.data.types import Dataset, Split
from jaxprune.errors import UserError

__all__ = ["NAMES", "Dataset", "Preprocess", "Split", "augment", "load", "preprocess"]

NAMES: tuple[str, ...] = ("digits", "mnist", "fashion_mnist", "cifar10")
"""The names that `load` knows."""


def load(
    name: str,
    data_dir: str | Path | None = None,
    *,
    cache_dir: str | Path | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads a dataset as three splits."""
    if name not in NAMES:
        raise UserError(f"unknown dataset {name!r}; the datasets are: {', '.join(NAMES)}")
    if name == "digits":
        return digits.load(seed)
    raise NotImplementedError(name)
