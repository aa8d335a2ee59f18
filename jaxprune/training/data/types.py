"""What a dataset is: three splits of images with integer labels."""

import hashlib
from typing import Any, NamedTuple

import numpy as np


class Split(NamedTuple):
    """Some labelled images.

    Attributes:
        images: uint8 `[n, H, W, C]`; a dataset of the user's own may have floats, and fewer axes.
        labels: int32 `[n]`, in `0 .. num_classes - 1`.
    """

    images: np.ndarray
    labels: np.ndarray

    def divide(self, count: int, seed: int) -> tuple["Split", "Split"]:
        """Divides into the rest and `count` random examples (see `stratified_division`)."""
        others, picked = stratified_division(self.labels, count, seed)
        return (
            Split(self.images[others], self.labels[others]),
            Split(self.images[picked], self.labels[picked]),
        )


class Dataset(NamedTuple):
    """A dataset with its validation split already held out of train.

    Attributes:
        name: What `data.load` calls it.
        train: What weights are fitted to.
        validation: What choices are made by: searches see train and validation only.
        test: What the final numbers are measured on, once.
        num_classes: Number of classes.
        mean: float32 `[C]`, mean of each channel of train, after division by `scale`.
        std: float32 `[C]`, standard deviation of each channel of train, likewise; 1 for a channel
            that is constant.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int
    mean: np.ndarray
    std: np.ndarray

    @property
    def scale(self) -> float:
        """What pixels are divided by first: 255 if they are uint8, 1 if they are floats."""
        return 255.0 if self.train.images.dtype == np.uint8 else 1.0


def subset(dataset: Dataset, count: int, seed: int = 0) -> Dataset:
    """At most `count` examples of each split, drawn at random in proportion to the classes.

    Mean and standard deviation stay those of the whole train split.
    """

    def part(split: Split) -> Split:
        return split if len(split.labels) <= count else split.divide(count, seed)[1]

    return dataset._replace(
        train=part(dataset.train), validation=part(dataset.validation), test=part(dataset.test)
    )


def digest(dataset: Dataset) -> str:
    """A hash of all images and labels."""
    found = hashlib.sha256()
    for array in (*dataset.train, *dataset.validation, *dataset.test):
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


VALIDATION_SIZE = 5000


def held_out_count(train: int) -> int:
    """How many of so many training examples become the validation split: at most a tenth."""
    return min(VALIDATION_SIZE, train // 10)


def make_dataset(
    name: str, train: Split, validation: Split, test: Split, num_classes: int | None = None
) -> Dataset:
    """Measures the channels of three splits.

    Args:
        name: The dataset's name.
        train: The training split.
        validation: What has been held out of it.
        test: The test split.
        num_classes: Number of classes; by default one more than the largest training label.

    Returns:
        The dataset.
    """
    measured = _of_bytes if train.images.dtype == np.uint8 else _of_floats
    mean, std = measured(train.images.reshape(-1, train.images.shape[-1]))
    return Dataset(
        name=name,
        train=train,
        validation=validation,
        test=test,
        num_classes=num_classes or int(train.labels.max()) + 1,
        mean=np.asarray(mean, np.float32),
        std=np.where(np.asarray(std) > 0, std, 1).astype(np.float32),
    )


def _of_bytes(pixels: np.ndarray) -> tuple[Any, Any]:
    """Mean and standard deviation of each channel: uint8 `[n, C]`, scaled to 0..1."""
    levels = np.arange(256) / 255
    mean, std = [], []
    for channel in pixels.T:  # from the histogram: exact, and no float copy of all pixels
        share = np.bincount(channel, minlength=256) / len(channel)
        mean.append(share @ levels)
        std.append(np.sqrt(share @ (levels - mean[-1]) ** 2))
    return mean, std


def _of_floats(pixels: np.ndarray) -> tuple[Any, Any]:
    """The same of float32 `[n, C]`."""
    return pixels.mean(0, dtype=np.float64), pixels.std(0, dtype=np.float64)


def stratified_division(labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Picks `count` examples at random, from each class in proportion to its size.

    Classes whose exact share is not a whole number get one more in the order of the fraction cut
    off (largest remainder), so the parts sum to `count`.

    Args:
        labels: Class of each example, `[n]`.
        count: How many to pick, `0 <= count <= n`.
        seed: Seed of the choice. The same seed gives the same choice on every machine.

    Returns:
        Indices of the others and of the picked, each in ascending order.

    Raises:
        ValueError: If `count` is out of range.
    """
    if not 0 <= count <= len(labels):
        raise ValueError(f"cannot pick {count} of {len(labels)} examples")
    sizes = np.bincount(labels)
    shares = sizes * count / len(labels)
    quota = np.floor(shares).astype(int)
    missing = count - quota.sum()
    quota[np.argsort(quota - shares, kind="stable")[:missing]] += 1
    # RandomState, because NumPy promises that its numbers never change.
    random = np.random.RandomState(seed)
    picked = np.zeros(len(labels), bool)
    for label, number in enumerate(quota):
        picked[random.permutation(np.flatnonzero(labels == label))[:number]] = True
    return np.flatnonzero(~picked), np.flatnonzero(picked)
