"""A dataset of the user's own for the command: ``--dataset module:function``.

The function takes no arguments and returns `(train_images, train_labels), (test_images,
test_labels)`, as those of `keras.datasets` do, or three such pairs, the second for validation.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune.errors import UserError
from jaxprune.files import functions
from jaxprune.training.data.types import Dataset, Split, held_out_count, make_dataset

KIND = "dataset"
"""What messages call it."""

FEWEST = 10
"""Training examples that are enough to hold a tenth of them out."""

MOST_CLASSES = 100_000
"""A network has an output for each; larger labels are numbers of something else."""

_WANTED = (
    "it must return (train_images, train_labels), (test_images, test_labels), or three such "
    "pairs: train, validation, test"
)


def load(name: str, seed: int = 0) -> Dataset:
    """Loads the dataset that a user's function returns.

    Args:
        name: "module:function", as the user typed it; the module is imported.
        seed: Seed of the division into train and validation.

    Raises:
        UserError: The function cannot be found or called, or `made` refuses what it returns.
    """
    function = functions.find(KIND, name)
    functions.asks_for(KIND, name, function, set())
    return made(name, functions.call(KIND, name, function), seed)


def made(name: str, value: Any, seed: int = 0) -> Dataset:
    """A dataset of arrays.

    Images are uint8, or floats of any range; `[n, H, W, C]`, or `[n, T, C]` or `[n, C]` for a
    network that takes these. The last axis holds the channels, which are standardised one by one.
    Labels are integers `[n]` from 0. Where there is no validation split, 5,000 training examples
    (a tenth, where that is fewer) are held out, each class in proportion.

    Args:
        name: What the dataset is called.
        value: What the user's function returned.
        seed: Seed of the division into train and validation.

    Raises:
        UserError: The value has another form; or images or labels are of another shape or type, not
            finite, missing, or do not fit together.
    """
    whole = f"the {KIND} {name!r}"
    if not (isinstance(value, tuple | list) and len(value) in (2, 3)):
        raise UserError(f"{whole} returned {_shown(value)}; {_WANTED}")
    names = ("train", "test") if len(value) == 2 else ("train", "validation", "test")
    splits = {
        split: _split(f"{whole}, {split}", pair) for split, pair in zip(names, value, strict=True)
    }
    train = splits["train"]
    for split, part in splits.items():
        if part.images.shape[1:] != train.images.shape[1:]:
            raise UserError(
                f"{whole}: images of {split} are {list(part.images.shape[1:])}, those of train "
                f"{list(train.images.shape[1:])}; give them one shape"
            )
        if part.images.dtype != train.images.dtype:
            raise UserError(
                f"{whole}: images of {split} are {part.images.dtype}, those of train "
                f"{train.images.dtype}; give them one type and one range"
            )
        unknown = set(part.labels.tolist()) - set(train.labels.tolist())
        if unknown:
            raise UserError(
                f"{whole}: {split} has the label {min(unknown)}, which no training example has: "
                "its network could not learn it; leave such examples out"
            )
    if "validation" in splits:
        return make_dataset(name, train, splits["validation"], splits["test"])
    if len(train.labels) < FEWEST:
        raise UserError(
            f"{whole} has {len(train.labels)} training examples; it needs at least {FEWEST}, of "
            "which a tenth are held out for validation"
        )
    train, validation = train.divide(held_out_count(len(train.labels)), seed)
    return make_dataset(name, train, validation, splits["test"])


def _split(what: str, pair: Any) -> Split:
    """The arrays of one split, checked one by one."""
    if not (isinstance(pair, tuple | list) and len(pair) == 2):
        raise UserError(f"{what}: {_shown(pair)} instead of a pair (images, labels); {_WANTED}")
    try:
        images, labels = (np.asarray(part) for part in pair)
    except Exception as error:  # lists of unequal lengths, tensors on another device, ...
        raise UserError(f"{what}: no arrays ({error}); {_WANTED}") from error
    if not 2 <= images.ndim <= 4:
        raise UserError(
            f"{what}: images have shape {list(images.shape)}; give [n, H, W, C], [n, T, C] or "
            "[n, C]"
        )
    if not images.size:
        raise UserError(f"{what}: images have shape {list(images.shape)}: there is nothing in them")
    if images.dtype != np.uint8:
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise UserError(
                f"{what}: images are {images.dtype}; give uint8 (0 to 255) or floats, such as "
                "images.astype('float32')"
            )
        images = images.astype(np.float32)
        strange = np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(1))
        if len(strange):
            raise UserError(
                f"{what}: image {strange[0]} has a value that is not finite, and so have "
                f"{len(strange) - 1} others; leave such examples out or fill them in"
            )
    if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
        one_hot = labels.ndim == 2 and labels.shape[1] > 1
        advice = "labels.argmax(1)" if one_hot else "labels.ravel().astype('int32')"
        raise UserError(
            f"{what}: labels are {labels.dtype} {list(labels.shape)}; give integers [n] from 0, "
            f"such as {advice}"
        )
    if len(labels) != len(images):
        raise UserError(f"{what}: {len(images)} images and {len(labels)} labels; give one each")
    if labels.min() < 0:
        raise UserError(f"{what}: the label {labels.min()} is below 0; count classes from 0")
    if labels.max() >= MOST_CLASSES:
        raise UserError(
            f"{what}: the label {labels.max()} makes more than {MOST_CLASSES:,} classes; number "
            "them from 0, such as np.unique(labels, return_inverse=True)[1]"
        )
    return Split(images, labels.astype(np.int32))


def _shown(value: Any) -> str:
    many = isinstance(value, tuple | list | dict)
    return f"a {type(value).__name__}" + (f" of {len(value)}" if many else "")
