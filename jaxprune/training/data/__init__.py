"""Datasets as arrays, and what happens to a batch of them on the device.

::

    dataset = data.load("digits")
    preprocess = data.preprocess(dataset, network.flat)
    x = preprocess(dataset.train.images[:64])
"""

from pathlib import Path

from jaxprune.errors import UserError
from jaxprune.files import functions
from jaxprune.training.data import digits, own, prepared
from jaxprune.training.data.pipeline import Augmentation, Preprocess, augment, preprocess
from jaxprune.training.data.types import Dataset, Split, digest, subset

__all__ = [
    "NAMES",
    "Augmentation",
    "Dataset",
    "Preprocess",
    "Split",
    "augment",
    "check_known",
    "digest",
    "load",
    "preprocess",
    "subset",
]

NAMES: tuple[str, ...] = ("digits", *prepared.NAMES)
"""The datasets that need nothing but the package to be there; `load` takes others, too."""


def load(
    name: str,
    data_dir: str | Path | None = None,
    *,
    cache_dir: str | Path | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads a dataset as three splits.

    `digits` is embedded. Others are read, without TensorFlow, from a folder that
    tensorflow-datasets or `jaxprune data prepare` has prepared. module:function is a function of
    your own, see `jaxprune.training.data.own`.

    Args:
        name: One of `NAMES`, another image classification dataset that is prepared, such as
            "svhn_cropped" or "emnist/letters", or "module:function", whose module is imported.
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
    check_known(name, data_dir)
    if functions.is_own(name):
        return own.load(name, seed)
    if name == "digits":
        return digits.load(seed)
    return prepared.load(name, data_dir, cache_dir, seed)


def check_known(name: str, data_dir: str | Path | None = None) -> None:
    """Raises UserError if `load` knows no dataset of that name; imports and reads nothing."""
    if functions.is_own(name) or prepared.is_prepared(name, data_dir) or name in NAMES:
        return
    raise UserError(
        f"unknown dataset {name!r}; the datasets are: {', '.join(NAMES)}, those of images "
        f"that lie prepared in {prepared.data_folder(data_dir)}, or module:function"
    )
