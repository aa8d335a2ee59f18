"""Datasets of the user's own: what becomes of their arrays, and what is refused."""

import numpy as np
import pytest

from jaxprune.errors import UserError
from jaxprune.training import data
from jaxprune.training.data import own

RANDOM = np.random.default_rng(0)


def pair(count=40, shape=(3, 2), dtype=np.float32, classes=4):
    images = (RANDOM.random((count, *shape)) * 200).astype(dtype)
    return images, np.arange(count) % classes


def test_two_pairs_give_three_splits():
    train, test = pair(), pair(8)
    dataset = own.made("mine:data", (train, test))
    assert (dataset.name, dataset.num_classes) == ("mine:data", 4)
    assert [len(split.labels) for split in dataset[1:4]] == [36, 4, 8]
    np.testing.assert_array_equal(dataset.test.images, test[0])
    np.testing.assert_array_equal(np.bincount(dataset.validation.labels), [1, 1, 1, 1])
    both = np.concatenate([dataset.train.images, dataset.validation.images])
    assert sorted(map(bytes, both)) == sorted(map(bytes, train[0]))


def test_three_pairs_are_taken_as_they_are():
    parts = pair(12), pair(8), pair(4)
    dataset = own.made("mine:data", parts)
    for split, (images, labels) in zip(dataset[1:4], parts, strict=True):
        np.testing.assert_array_equal(split.images, images)
        np.testing.assert_array_equal(split.labels, labels)
        assert split.labels.dtype == np.int32


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float64])
def test_the_network_gets_each_channel_with_mean_0_and_deviation_1(dtype):
    images, labels = pair(shape=(5, 4, 2), dtype=dtype)
    images[..., 1] = 7  # a constant channel becomes 0, not NaN
    dataset = own.made("mine:data", ((images, labels),) * 3)
    x = np.asarray(data.preprocess(dataset, flat=False)(dataset.train.images))
    assert x.shape == images.shape
    wide = images.astype(np.float64)
    expected = (wide - wide.mean((0, 1, 2))) / np.where([True, False], wide.std((0, 1, 2)), 1)
    np.testing.assert_allclose(x, expected, atol=1e-5)


def test_lists_and_other_integers_are_arrays_too():
    dataset = own.made("mine:data", [([[0.0, 1.0]] * 10, list(range(2)) * 5), ([[1, 2.5]], [1])])
    assert dataset.train.images.shape == (9, 2)
    assert dataset.test.images.tolist() == [[1, 2.5]]


def broken(images=lambda x: x, labels=lambda y: y, which=0):
    parts = [list(pair()), list(pair(8))]
    parts[which] = [images(parts[which][0]), labels(parts[which][1])]
    return tuple(map(tuple, parts))


def with_value(at, value):
    def change(array):
        array = array.copy()
        array[at] = value
        return array

    return change


CASES = {
    "a dict": ({"train": pair()}, "returned a dict of 1; it must return .train_images"),
    "no pairs": ((np.ones(3), np.ones(3)), "train: a ndarray instead of a pair"),
    "one-hot": (broken(labels=lambda y: np.eye(4)[y]), r"labels are float64 \[40, 4\].*argmax"),
    "floats": (broken(labels=lambda y: y + 0.5), "labels are float64 .*integers"),
    "columns": (broken(labels=lambda y: y[:, None]), r"labels are int64 \[40, 1\].*ravel"),
    "negative": (broken(labels=lambda y: y - 1), "the label -1 is below 0"),
    "huge": (broken(labels=lambda y: y + 10**6), "the label 1000003 makes more than 100,000"),
    "untrained": (broken(labels=lambda y: y + 1, which=1), "test has the label 4, which no train"),
    "fewer labels": (broken(labels=lambda y: y[:-1]), "40 images and 39 labels"),
    "no images": (broken(lambda x: x[:0], lambda y: y[:0], 1), r"shape \[0, 3, 2\]: there is not"),
    "too few": (
        broken(lambda x: x[:9], lambda y: y[:9]),
        "has 9 training examples; .* 10",
    ),
    "nan": (broken(with_value((3, 1, 1), np.nan)), "train: image 3 has a value that is not finite"),
    "inf": (broken(with_value(5, np.inf), which=1), "test: image 5 has a value that is not finite"),
    "too large": (broken(lambda x: x.astype(np.float64) * 1e300), "not finite, .* 39 others"),
    "integers": (broken(lambda x: x.astype(int)), "images are int64; give uint8"),
    "text": (broken(lambda x: x.astype(str)), "images are <U"),
    "scalars": (broken(lambda x: x[:, 0, 0]), r"images have shape \[40\]"),
    "ragged": (broken(lambda x: [[1.0], [1.0, 2.0]] * 20), "no arrays"),
    "other shape": (broken(lambda x: x[:, :2], which=1), r"test are \[2, 2\], those of train \[3"),
    "other type": (
        broken(lambda x: x.astype(np.uint8), which=1),
        "test are uint8, those of",
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:overflow")
def test_what_is_no_dataset_is_refused_in_one_line(case):
    value, says = CASES[case]
    with pytest.raises(UserError, match=rf"\Athe dataset 'mine:data'.*{says}") as caught:
        own.made("mine:data", value)
    assert "\n" not in str(caught.value)
