"""Datasets that tensorflow-datasets has prepared, read without TensorFlow.

A prepared dataset is a folder `<data dir>/<name>/<version>` of array_record files with PNG images.
They are decoded once; the arrays are kept in a cache whose key is a digest of the folder's bytes,
so a folder that changed, or was damaged after it was decoded, is noticed.
"""

import hashlib
import io
import json
import math
import os
import shlex
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxprune.errors import UserError, first_line
from jaxprune.files.functions import slug
from jaxprune.training.data.cache import cache_folder
from jaxprune.training.data.types import Dataset, Split, held_out_count, make_dataset

NAMES: tuple[str, ...] = ("mnist", "fashion_mnist", "cifar10")
"""The datasets that `jaxprune data prepare` prepares."""

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")

TEST_SHARE = 5
"""Where a dataset has one split alone, one in so many of its examples is for testing."""


class Format(NamedTuple):
    """What the examples of a prepared dataset look like, as its folder says.

    Attributes:
        image_shape: Height, width and channels, in pixels.
        num_classes: Number of classes.
        image: The name of the images among the features.
        label: The name of the labels.
        test: The name of the test split, None where there is one split alone.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    image: str = "image"
    label: str = "label"
    test: str | None = "test"


def load(
    name: str, data_dir: str | Path | None, cache_dir: str | Path | None, seed: int
) -> Dataset:
    """Loads a prepared dataset, from the cache if it was decoded before.

    The validation split is 5,000 images of the prepared train split, each class in proportion (a
    tenth of the train split where that is fewer). The test split is the one called test, or else
    validation; where there is neither, a fifth of train, always the same.

    Args:
        name: A dataset of images of one size with one label each, such as "svhn_cropped" or, with
            its configuration, "emnist/letters".
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
    form = _format(name, folder, root)
    cached = cache_folder(cache_dir) / "datasets" / f"{slug(name)}-{_digest(folder)}.npz"
    arrays = _read_cache(cached, form)
    if arrays is None:
        arrays = _decode(name, folder, root, form)
        _write_cache(cached, arrays)
    train = Split(arrays["train_images"], arrays["train_labels"])
    test = Split(arrays["test_images"], arrays["test_labels"])
    train, validation = train.divide(held_out_count(len(train.labels)), seed)
    return make_dataset(name, train, validation, test, form.num_classes)


def is_prepared(name: str, data_dir: str | Path | None = None) -> bool:
    """Whether the folder of prepared datasets has one of that name, whatever its state."""
    root = data_folder(data_dir)
    return name in NAMES or any((root / name).glob("*/dataset_info.json"))


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
    if name not in NAMES:
        return f"tfds build {name} --data_dir {shlex.quote(str(root))} --file_format=array_record"
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


def _format(name: str, folder: Path, root: Path) -> Format:
    """What the files beside the examples say of them.

    Raises:
        UserError: They are damaged, or the examples are no images of one size with one label.
    """
    try:
        features = json.loads((folder / "features.json").read_text())["featuresDict"]["features"]
        info = json.loads((folder / "dataset_info.json").read_text())
        splits = [split["name"] for split in info["splits"]]
        keys = info.get("supervisedKeys", {}).get("tuple", {}).get("items", [])
        named = [key.get("featureKey") for key in keys]
        image, label = named if len(named) == 2 and all(named) else ("image", "label")
        kinds = {
            key: feature["pythonClassName"].split(".")[-1] for key, feature in features.items()
        }
    except (FileNotFoundError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(name, folder, root, error) from error
    if (kinds.get(image), kinds.get(label)) != ("Image", "ClassLabel"):
        found = ", ".join(f"{key}: {kind}" for key, kind in kinds.items())
        raise UserError(f"dataset {name!r} is no image classification ({found}); {_YOUR_FUNCTION}")
    try:
        about = features[image]["image"]
        shape = tuple(int(size) for size in about["shape"]["dimensions"])
        num_classes = int(features[label]["classLabel"]["numClasses"])
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(name, folder, root, error) from error
    if len(shape) != 3 or min(shape) < 1 or about.get("dtype", "uint8") != "uint8":
        raise UserError(
            f"dataset {name!r} has images {list(shape)} of type {about.get('dtype')}, where -1 "
            f"stands for any size, not uint8 images of one size; {_YOUR_FUNCTION}"
        )
    if "train" not in splits:
        raise UserError(
            f"dataset {name!r} has no split train, but {', '.join(splits)}; {_YOUR_FUNCTION}"
        )
    test = next((split for split in ("test", "validation") if split in splits), None)
    return Format(shape, num_classes, image, label, test)


_YOUR_FUNCTION = "write a function that returns its arrays: --dataset module:function"


def _unreadable(name: str, folder: Path, root: Path, error: Exception) -> UserError:
    return UserError(
        f"dataset {name!r} in {folder} cannot be read ({type(error).__name__}: "
        f"{first_line(error):.160}); remove that folder and prepare it again: "
        f"{_command(name, root)}"
    )


def _digest(folder: Path) -> str:
    """A digest of the names and bytes of all files in a folder."""
    digest = hashlib.blake2b(digest_size=12)
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "blake2b").digest()
        digest.update(path.name.encode() + b"\0" + content)
    return digest.hexdigest()


def _decode(name: str, folder: Path, root: Path, form: Format) -> dict[str, np.ndarray]:
    """Decodes all images of the splits."""
    import tensorflow_datasets as tfds  # slow to import

    arrays: dict[str, np.ndarray] = {}
    try:
        builder = tfds.builder_from_directory(folder)
        for split, called in (("train", "train"), ("test", form.test))[: 2 if form.test else 1]:
            # Pillow decodes here, as it would there, without the checks around every image.
            still_encoded = {form.image: tfds.decode.SkipDecoding()}
            source = builder.as_data_source(called, decoders=still_encoded)
            images = np.empty((len(source), *form.image_shape), np.uint8)
            labels = np.empty(len(source), np.int32)
            for first in range(0, len(source), 1000):  # together: one call into the reader
                index = range(first, min(first + 1000, len(source)))
                for at, example in zip(index, source.__getitems__(index), strict=True):
                    images[at] = _pixels(example[form.image], form)
                    labels[at] = example[form.label]
            arrays |= {f"{split}_images": images, f"{split}_labels": labels}
        if not form.test:
            whole = Split(arrays["train_images"], arrays["train_labels"])
            divided = whole.divide(len(whole.labels) // TEST_SHARE, seed=0)
            arrays = dict(zip(_ARRAYS, (*divided[0], *divided[1]), strict=True))
        _check(arrays, form)
    except Exception as error:  # array_record, PIL and tfds raise what their file layers raise
        raise _unreadable(name, folder, root, error) from error
    return arrays


def _pixels(encoded: bytes, form: Format) -> np.ndarray:
    """Decodes an image; raises ValueError if it is not what `form` says."""
    with Image.open(io.BytesIO(encoded), formats=["PNG", "JPEG"]) as image:
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
