"""Datasets that tensorflow-datasets has prepared, read without TensorFlow.

A prepared dataset is a folder `<data dir>/<name>/<version>` of array_record files with PNG images.
They are decoded once; the arrays are kept in a cache whose key is a digest of the folder's bytes,
so a folder that changed, or was damaged after it was decoded, is noticed.
"""

import hashlib
import io
import math
import os
import shlex
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxprune.errors import UserError
from jaxprune.training.data.cache import cache_folder
from jaxprune.training.data.types import Dataset, Split, make_dataset

VALIDATION_SIZE = 5000

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


class Format(NamedTuple):
    """What the examples of a prepared dataset must look like."""

    image_shape: tuple[int, int, int]
    num_classes: int


FORMATS: dict[str, Format] = {
    "mnist": Format((28, 28, 1), 10),
    "fashion_mnist": Format((28, 28, 1), 10),
    "cifar10": Format((32, 32, 3), 10),
}


def load(
    name: str, data_dir: str | Path | None, cache_dir: str | Path | None, seed: int
) -> Dataset:
    """Loads a prepared dataset, from the cache if it was decoded before.

    The validation split is 5,000 images of the prepared train split, each class in proportion (a
    tenth of the train split where that is fewer).

    Args:
        name: A key of `FORMATS`.
        data_dir: The folder that holds `<name>/<version>`; see `data_folder`.
        cache_dir: The folder of decoded arrays; see `cache_folder`. A folder that cannot be written
            is done without.
        seed: Seed of the division into train and validation.

    Returns:
        The dataset.

    Raises:
        UserError: If the dataset is not there, or cannot be read.
    """
    root = data_folder(data_dir)
    folder = _version_folder(name, root)
    cached = cache_folder(cache_dir) / "datasets" / f"{name}-{_digest(folder)}.npz"
    arrays = _read_cache(cached, FORMATS[name])
    if arrays is None:
        arrays = _decode(name, folder, root)
        _write_cache(cached, arrays)
    train = Split(arrays["train_images"], arrays["train_labels"])
    test = Split(arrays["test_images"], arrays["test_labels"])
    held_out = min(VALIDATION_SIZE, len(train.labels) // 10)
    return make_dataset(name, train, test, held_out, seed)


def data_folder(data_dir: str | Path | None = None) -> Path:
    """The folder of prepared datasets.

    Args:
        data_dir: A folder, or None for the environment variable `TFDS_DATA_DIR` and, where that is
            unset, `~/tensorflow_datasets`.

    Returns:
        An absolute path.
    """
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(chosen).expanduser().resolve()


def _command(name: str, root: Path) -> str:
    """What to type to prepare a dataset."""
    return f"jaxprune data prepare {name} --data-dir {shlex.quote(str(root))}"


def _version_folder(name: str, root: Path) -> Path:
    """The folder of the newest prepared version."""

    def version(info: Path) -> tuple[int, ...]:
        return tuple(int(part) for part in info.parent.name.split("."))

    found = [
        info
        for info in (root / name).glob("*/dataset_info.json")
        if all(part.isdecimal() for part in info.parent.name.split("."))
    ]
    if not found:
        halves = sorted(root.glob(f".{name}.*.incomplete"))
        interrupted = f" (its preparation was interrupted: remove {halves[0]})" if halves else ""
        raise UserError(
            f"no dataset {name!r} in {root}{interrupted}; prepare it: {_command(name, root)}"
        )
    folder = max(found, key=version).parent
    if not any(folder.glob("*.array_record*")):
        raise UserError(
            f"{folder} has no array_record files (other formats need TensorFlow); prepare the "
            f"dataset in another folder: {_command(name, root.with_name(root.name + '_jaxprune'))}"
        )
    return folder


def _digest(folder: Path) -> str:
    """A digest of the names and bytes of all files in a folder."""
    digest = hashlib.blake2b(digest_size=12)
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "blake2b").digest()
        digest.update(path.name.encode() + b"\0" + content)
    return digest.hexdigest()


def _decode(name: str, folder: Path, root: Path) -> dict[str, np.ndarray]:
    """Decodes all images of both splits."""
    import tensorflow_datasets as tfds  # slow to import

    form = FORMATS[name]
    arrays: dict[str, np.ndarray] = {}
    try:
        builder = tfds.builder_from_directory(folder)
        for split in ("train", "test"):
            # Pillow decodes here, as it would there, without the checks around every image.
            still_encoded = {"image": tfds.decode.SkipDecoding()}
            source = builder.as_data_source(split, decoders=still_encoded)
            images = np.empty((len(source), *form.image_shape), np.uint8)
            labels = np.empty(len(source), np.int32)
            for first in range(0, len(source), 1000):  # together: one call into the reader
                index = range(first, min(first + 1000, len(source)))
                for at, example in zip(index, source.__getitems__(index), strict=True):
                    images[at] = _pixels(example["image"], form)
                    labels[at] = example["label"]
            arrays |= {f"{split}_images": images, f"{split}_labels": labels}
        _check(arrays, form)
    except Exception as error:  # array_record, PIL and tfds raise what their file layers raise
        lines = str(error).strip().splitlines() or ["no reason given"]
        raise UserError(
            f"dataset {name!r} in {folder} cannot be read ({type(error).__name__}: "
            f"{lines[0]:.160}); remove that folder and prepare it again: {_command(name, root)}"
        ) from error
    return arrays


def _pixels(png: bytes, form: Format) -> np.ndarray:
    """Decodes an image; raises ValueError if it is not what `form` says."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.size != math.prod(form.image_shape):
        raise ValueError(f"an image is {pixels.dtype} {pixels.shape}, not {form.image_shape}")
    return pixels.reshape(form.image_shape)


def _check(arrays: dict[str, np.ndarray], form: Format) -> None:
    """Raises ValueError unless the arrays are what `form` says."""
    for split in ("train", "test"):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if images.dtype != np.uint8 or images.shape[1:] != form.image_shape:
            raise ValueError(f"{split} images are {images.dtype} {images.shape}")
        if labels.dtype != np.int32 or labels.shape != images.shape[:1] or not len(labels):
            raise ValueError(f"{split} labels are {labels.dtype} {labels.shape}")
        if labels.min() < 0 or labels.max() >= form.num_classes:
            raise ValueError(f"{split} labels reach from {labels.min()} to {labels.max()}")


def _read_cache(path: Path, form: Format) -> dict[str, np.ndarray] | None:
    """The arrays of a cache file, or None if it is missing or damaged."""
    try:
        # The zip format checks a CRC of each array.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {key: file[key] for key in _ARRAYS}
        _check(arrays, form)
    except Exception:  # whatever is wrong with a cache file, the remedy is to make it again
        return None
    return arrays


def _write_cache(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes a cache file whole or not at all; does without where the folder is not writable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".incomplete")
    except OSError:
        return
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(unfinished, path)
    except OSError:  # such as a full disk
        Path(unfinished).unlink(missing_ok=True)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
