"""The embedded dataset: scikit-learn's 1,797 real handwritten digits of 8x8 pixels."""

import numpy as np

from jaxprune.training.data.types import Dataset, Split, make_dataset

TEST_SIZE = 360
VALIDATION_SIZE = 360


def load(seed: int = 0) -> Dataset:
    """Loads the digits: 1,077 train, 360 validation and 360 test images.

    The images are the 8x8 counts 0..16 of the UCI "Optical recognition of handwritten digits" test
    set (Alpaydin & Kaynak, 1998) as scikit-learn ships them, scaled to 0..255. All three splits
    keep the shares of the classes. The source has no split of its own, so the test split is ours:
    drawn once with a seed that never changes.

    Args:
        seed: Seed of the division of the rest into train and validation.

    Returns:
        The dataset.
    """
    from sklearn.datasets import load_digits  # slow to import

    images, labels = load_digits(return_X_y=True)
    images = np.round(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    everything = Split(images, labels.astype(np.int32))
    rest, test = everything.divide(TEST_SIZE, seed=0)
    return make_dataset("digits", *rest.divide(VALIDATION_SIZE, seed), test)
