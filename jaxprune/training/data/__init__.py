"""Datasets as uint8 arrays, and what happens to a batch of them on the device.

::

    dataset = data.load("digits")
    preprocess = data.preprocess(dataset, network.flat)
    x = preprocess(dataset.train.images[:64])
"""

from pathlib import Path

from jaxprune.errors import UserError
from jaxprune.training.data import digits, prepared
from jaxprune.training.data.pipeline import Augmentation, Preprocess, augment, preprocess
from jaxprune.training.data.types import Dataset, Split, subset

__all__ = [
    "NAMES",
    "Augmentation",
    "Dataset",
    "Preprocess",
    "Split",
    "augment",
    "load",
    "preprocess",
    "subset",
]

NAMES: tuple[str, ...] = ("digits", *prepared.FORMATS)
"""The names that `load` knows."""


def load(
    name: str,
    data_dir: str | Path | None = None,
    *,
    cache_dir: str | Path | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads a dataset as three splits.

    `digits` is embedded; the others are read, without TensorFlow, from a folder that
    tensorflow-datasets or `jaxprune data prepare` has prepared.

    Args:
        name: One of `NAMES`.
        data_dir: The folder that holds `<name>/<version>`. Default: the environment variable
            `TFDS_DATA_DIR`, else `~/tensorflow_datasets`. Not used by `digits`.
        cache_dir: Where decoded images are kept. Default: the environment variable
            `JAXPRUNE_CACHE`, else `~/.cache/jaxprune`. Not used by `digits`.
        seed: Seed of the division into train and validation. The test split never depends on it.
            Results are comparable only under one division, so leave it alone from run to run.

    Returns:
        The dataset.

    Raises:
        UserError: If the name is unknown, or the dataset is missing or damaged; the message says
            what to type.
    """
    if name not in NAMES:
        raise UserError(f"unknown dataset {name!r}; the datasets are: {', '.join(NAMES)}")
    if name == "digits":
        return digits.load(seed)
    return prepared.load(name, data_dir, cache_dir, seed)
