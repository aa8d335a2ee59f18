"""Datasets: splits, augmentation, preparing without TensorFlow, caching, kinds of damage."""

import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from jaxprune.commands.data import main
from jaxprune.errors import UserError
from jaxprune.training import data
from jaxprune.training.data.cache import cache_folder
from jaxprune.training.data.prepare import _original, prepare
from jaxprune.training.data.types import stratified_division

# --- splits --------------------------------------------------------------------------------------


def rows(split):
    """Each image with its label, as sortable bytes."""
    return sorted(
        image.tobytes() + bytes([label])
        for image, label in zip(split.images, split.labels, strict=True)
    )


def test_digits_are_all_of_scikit_learns_and_each_is_in_one_split():
    dataset = data.load("digits")
    images, labels = load_digits(return_X_y=True)
    scaled = np.rint(images * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    splits = (dataset.train, dataset.validation, dataset.test)
    assert [len(split.labels) for split in splits] == [1077, 360, 360]
    assert sorted(row for split in splits for row in rows(split)) == rows(
        data.Split(scaled, labels)
    )
    for split in splits:
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        share = np.bincount(split.labels) / len(split.labels)
        np.testing.assert_allclose(share, np.bincount(labels) / len(labels), atol=1.01 / 360)


def test_the_seed_moves_validation_but_never_test():
    first, again, other = (data.load("digits", seed=seed) for seed in (0, 0, 1))
    for left, right in zip(first, again, strict=True):
        assert jax.tree.all(jax.tree.map(np.array_equal, left, right))
    np.testing.assert_array_equal(first.test.images, other.test.images)
    np.testing.assert_array_equal(first.test.labels, other.test.labels)
    assert rows(first.validation) != rows(other.validation)
    assert sorted(rows(first.train) + rows(first.validation)) == sorted(
        rows(other.train) + rows(other.validation)
    )


def test_the_test_split_of_the_digits_is_the_one_that_results_were_measured_on():
    test = data.load("digits").test
    digest = hashlib.sha256(test.images.tobytes() + test.labels.tobytes()).hexdigest()
    assert digest[:16] == "cfc0bc3fcbee73c0"


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_stratified_division_is_a_proportional_partition(labels, fraction, seed):
    count = round(fraction * len(labels))
    rest, picked = stratified_division(labels, count, seed)
    assert len(picked) == count
    assert sorted([*rest, *picked]) == list(range(len(labels)))
    exact = np.bincount(labels) * count / len(labels)
    quota = np.bincount(labels[picked], minlength=len(exact))
    assert np.all(np.abs(quota - exact) < 1)
    for again, first in zip(stratified_division(labels, count, seed), (rest, picked), strict=True):
        np.testing.assert_array_equal(again, first)


def test_stratified_division_gives_what_is_left_to_the_largest_fractions():
    labels = np.array([0] * 5 + [1] * 3 + [2] * 2)  # 4 of 10: exactly 2.0, 1.2 and 0.8
    _, picked = stratified_division(labels, 4, seed=0)
    np.testing.assert_array_equal(np.bincount(labels[picked]), [2, 1, 1])


def test_a_subset_keeps_proportions_pixels_and_statistics():
    digits = data.load("digits")
    small = data.subset(digits, 100)
    for part, whole in zip(small[1:4], digits[1:4], strict=True):
        assert part.images.shape == (100, 8, 8, 1)
        shares = 100 * np.bincount(whole.labels) / len(whole.labels)
        assert np.abs(np.bincount(part.labels) - shares).max() < 1
        pairs = {(image.tobytes(), label) for image, label in zip(*whole, strict=True)}
        assert all((i.tobytes(), label) in pairs for i, label in zip(*part, strict=True))
    np.testing.assert_array_equal(small.mean, digits.mean)
    assert len(data.subset(digits, 1000).test.labels) == len(digits.test.labels)


@pytest.mark.parametrize("count", [-1, 4])
def test_stratified_division_refuses_impossible_counts(count):
    with pytest.raises(ValueError, match=f"cannot pick {count} of 3"):
        stratified_division(np.array([0, 1, 1]), count, seed=0)


def test_unknown_dataset_lists_the_datasets():
    with pytest.raises(UserError, match=r"'imagenet'.*digits, mnist, fashion_mnist, cifar10"):
        data.load("imagenet")


# --- on the device -------------------------------------------------------------------------------


def colour_dataset():
    random = np.random.default_rng(0)
    images = (random.random((50, 4, 4, 3)) * (100, 200, 255)).astype(np.uint8)
    split = data.Split(images, np.zeros(50, np.int32))
    mean, std = (images / 255).mean((0, 1, 2)), (images / 255).std((0, 1, 2))
    dataset = data.types.make_dataset("colours", split, split, split)
    np.testing.assert_allclose(dataset.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(dataset.std, std, rtol=1e-6)
    return dataset


def test_preprocessing_normalises_each_channel():
    dataset = colour_dataset()
    x = jax.jit(data.preprocess(dataset, flat=False))(dataset.train.images)
    assert (x.shape, x.dtype) == ((50, 4, 4, 3), np.float32)
    np.testing.assert_allclose(x.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(x.std((0, 1, 2)), 1, atol=1e-5)
    flat = data.preprocess(dataset, flat=True)(dataset.train.images)
    np.testing.assert_allclose(flat, x.reshape(50, 48), rtol=1e-6, atol=1e-6)


def test_equal_preprocessing_is_compiled_once():
    dataset = colour_dataset()
    first, second = (data.preprocess(dataset, flat=True) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != data.preprocess(dataset, flat=False)


def test_augmentation_shifts_and_mirrors():
    random = np.random.default_rng(0)
    images = random.integers(1, 256, (400, 6, 5, 2), np.uint8)
    augmented = np.asarray(jax.jit(data.augment)(jax.random.key(0), images))
    assert (augmented.shape, augmented.dtype) == (images.shape, np.uint8)
    seen = np.zeros((9, 9, 2), int)
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    for image, result in zip(padded, augmented, strict=True):
        matches = [
            (down, right, flip)
            for down in range(9)
            for right in range(9)
            for flip in (0, 1)
            if np.array_equal(image[down : down + 6, right : right + 5][:, :: 1 - 2 * flip], result)
        ]
        assert matches
        for match in matches:  # more than one only where a shift leaves nothing of the image
            seen[match] += 1
    assert np.all(seen.sum((1, 2)) > 0)  # each of the nine shifts, in both directions
    assert np.all(seen.sum((0, 2)) > 0)
    assert 150 < seen[..., 0].sum() < 250
    assert not np.array_equal(augmented, data.augment(jax.random.key(1), images))


@pytest.mark.parametrize("kind", ["shift", "shift_mirror"])
def test_half_of_the_images_move_by_a_pixel(kind):
    random = np.random.default_rng(0)
    images = random.integers(1, 256, (2000, 5, 4, 1), np.uint8)
    changed = np.asarray(data.augment(jax.random.key(0), images, kind))
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    seen = np.zeros((3, 3, 2))
    for image, result in zip(padded, changed, strict=True):
        (match,) = [
            (down, right, flip)
            for down in range(3)
            for right in range(3)
            for flip in (0, 1)
            if np.array_equal(image[down : down + 5, right : right + 4][:, :: 1 - 2 * flip], result)
        ]
        seen[match] += 1 / len(images)
    still, flipped = seen.sum(2)[1, 1], seen[..., 1].sum()
    assert abs(still - (1 / 2 + 1 / 18)) < 0.05  # a ninth of those that may move stay
    assert np.all(np.abs(np.delete(seen.sum(2).ravel(), 4) - 1 / 18) < 0.02)
    assert flipped == 0 if kind == "shift" else abs(flipped - 1 / 2) < 0.05


def test_no_augmentation_returns_the_images():
    images = np.ones((2, 3, 3, 1), np.uint8)
    assert data.augment(jax.random.key(0), images, "none") is images


# --- preparing -----------------------------------------------------------------------------------


def write_mnist(folder: Path, train: int = 60, test: int = 20) -> dict[str, data.Split]:
    """Writes the four original files of a small MNIST; returns what is in them."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = {}
    for split, prefix, count in (("train", "train", train), ("test", "t10k", test)):
        random = np.random.default_rng(count)
        images = random.integers(0, 256, (count, 28, 28), np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        header = np.array([0x0803, count, 28, 28], ">u4").tobytes()
        path = folder / f"{prefix}-images-idx3-ubyte.gz"
        path.write_bytes(gzip.compress(header + images.tobytes(), 1))
        header = np.array([0x0801, count], ">u4").tobytes()
        path = folder / f"{prefix}-labels-idx1-ubyte.gz"
        path.write_bytes(gzip.compress(header + labels.tobytes(), 1))
        splits[split] = data.Split(images[..., None], labels.astype(np.int32))
    return splits


def write_cifar10(folder: Path, each: int = 8) -> dict[str, data.Split]:
    """Writes a small `cifar-10-binary.tar.gz`; returns what is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    parts: dict[str, list] = {"train": [], "test": []}
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

        names = [f"data_batch_{number}.bin" for number in range(1, 6)]
        for name in (*names, "test_batch.bin"):
            images = random.integers(0, 256, (each, 3, 32, 32), np.uint8)
            labels = random.integers(0, 10, each)
            records = np.concatenate([labels[:, None], images.reshape(each, -1)], axis=1)
            add(name, records.astype(np.uint8).tobytes())
            split = data.Split(images.transpose(0, 2, 3, 1), labels.astype(np.int32))
            parts["test" if name == "test_batch.bin" else "train"].append(split)
        add("batches.meta.txt", "\n".join(f"class {n}" for n in range(10)).encode() + b"\n\n")
    return {
        name: data.Split(*(np.concatenate(arrays) for arrays in zip(*pieces, strict=True)))
        for name, pieces in parts.items()
    }


def prepare_quietly(name: str, data_dir: Path, raw: Path, **options) -> Path:
    return prepare(
        name, data_dir, raw=raw, report=lambda line: None, **{"_checksums": False, **options}
    )


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """A folder with a small prepared MNIST, and what is in it."""
    root = tmp_path_factory.mktemp("data")
    splits = write_mnist(root / "raw")
    prepare_quietly("mnist", root / "tfds", root / "raw")
    return SimpleNamespace(root=root / "tfds", folder=root / "tfds/mnist/3.0.1", splits=splits)


def copy_of(mnist, to: Path) -> Path:
    """A copy of the prepared folder to damage; returns the version's folder."""
    folder = to / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    for path in mnist.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_a_prepared_folder_has_every_example(mnist, tmp_path):
    dataset = data.load("mnist", mnist.root, cache_dir=tmp_path)
    assert [len(split.labels) for split in dataset[1:4]] == [54, 6, 20]
    assert rows(dataset.test) == rows(mnist.splits["test"])
    assert sorted(rows(dataset.train) + rows(dataset.validation)) == rows(mnist.splits["train"])
    assert dataset.num_classes == 10


def other_dataset(mnist, to: Path) -> Path:
    """The small MNIST under another name and version; returns the folder, its files to change."""
    folder = to / "letters" / "small" / "1.0.0"
    folder.mkdir(parents=True)
    for path in mnist.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def change(path: Path, alter) -> None:
    content = json.loads(path.read_text())
    alter(content)
    path.write_text(json.dumps(content))


def test_any_prepared_dataset_of_images_is_read(mnist, tmp_path):
    folder = other_dataset(mnist, tmp_path)
    with pytest.raises(UserError, match=r"unknown dataset 'letters'.*digits, mnist"):
        data.load("letters", tmp_path, cache_dir=tmp_path / "cache")
    dataset = data.load("letters/small", tmp_path, cache_dir=tmp_path / "cache")
    assert dataset.name == "letters/small"
    assert rows(dataset.test) == rows(mnist.splits["test"])

    def only_train(info):
        del info["splits"][1]

    change(folder / "dataset_info.json", only_train)
    dataset = data.load("letters/small", tmp_path, cache_dir=tmp_path / "cache")
    assert [len(split.labels) for split in dataset[1:4]] == [44, 4, 12]
    whole = rows(dataset.train) + rows(dataset.validation) + rows(dataset.test)
    assert sorted(whole) == rows(mnist.splits["train"])
    other = data.load("letters/small", tmp_path, cache_dir=tmp_path / "cache", seed=1)
    assert rows(other.test) == rows(dataset.test)


@pytest.mark.parametrize(
    ("alter", "says"),
    [
        (
            lambda of: of.pop("label"),
            r"is no image classification \(image: Image\).*--dataset module",
        ),
        (lambda of: of["image"]["image"].pop("shape"), "cannot be read .KeyError"),
        (
            lambda of: of["image"]["image"]["shape"].update(dimensions=["-1", "-1", "3"]),
            r"images \[-1, -1, 3\] of type uint8, where -1 stands for any size",
        ),
        (lambda of: of["image"]["image"].update(dtype="float32"), "of type float32"),
        (lambda of: of["label"]["classLabel"].update(numClasses="5"), "labels reach from 0 to 9"),
    ],
)
def test_prepared_datasets_of_other_kinds_are_refused(mnist, tmp_path, alter, says):
    folder = other_dataset(mnist, tmp_path)
    change(folder / "features.json", lambda content: alter(content["featuresDict"]["features"]))
    with pytest.raises(UserError, match=rf"dataset 'letters/small' .*{says}") as caught:
        data.load("letters/small", tmp_path, cache_dir=tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_tensorflow_datasets_reads_what_was_prepared(mnist):
    import tensorflow_datasets as tfds

    source = tfds.data_source("mnist", split="train", data_dir=mnist.root)
    examples = list(source)
    images = np.stack([example["image"] for example in examples])
    labels = np.array([example["label"] for example in examples])
    assert rows(data.Split(images, labels)) == rows(mnist.splits["train"])
    assert {path.name for path in mnist.root.iterdir()} == {"mnist"}  # nothing left over


def test_cifar10_is_prepared_with_its_ids_and_class_names(tmp_path):
    import tensorflow_datasets as tfds

    splits = write_cifar10(tmp_path / "raw")
    folder = prepare_quietly("cifar10", tmp_path / "tfds", tmp_path / "raw")
    assert folder == tmp_path / "tfds/cifar10/3.0.2"
    dataset = data.load("cifar10", tmp_path / "tfds", cache_dir=tmp_path / "cache")
    assert rows(dataset.test) == rows(splits["test"])
    assert sorted(rows(dataset.train) + rows(dataset.validation)) == rows(splits["train"])
    builder = tfds.builder("cifar10", data_dir=tmp_path / "tfds")
    assert builder.info.features["label"].names == [f"class {number}" for number in range(10)]
    for example in builder.as_data_source("test"):
        number = int(example["id"].decode().removeprefix("test_"))
        np.testing.assert_array_equal(example["image"], splits["test"].images[number])


def test_a_prepared_folder_is_never_overwritten(mnist, tmp_path):
    folder = copy_of(mnist, tmp_path / "tfds")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_mnist(tmp_path / "raw", train=30)
    with pytest.raises(UserError, match=rf"{folder} exists already; remove it"):
        prepare_quietly("mnist", tmp_path / "tfds", tmp_path / "raw")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_missing_original_file_is_named(tmp_path):
    write_mnist(tmp_path / "raw")
    (tmp_path / "raw/t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match=r"raw/t10k-labels-idx1-ubyte.gz is missing.*http"):
        prepare_quietly("mnist", tmp_path / "tfds", tmp_path / "raw")
    assert not (tmp_path / "tfds").exists()


def test_files_with_another_checksum_are_refused(tmp_path):
    write_mnist(tmp_path / "raw")
    with pytest.raises(UserError, match=r"ubyte.gz is not the original file: its SHA-256 is"):
        prepare_quietly("mnist", tmp_path / "tfds", tmp_path / "raw", _checksums=True)
    assert not (tmp_path / "tfds").exists()


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(b"abc"), gzip.compress(np.array([0x0801, 9], ">u4").tobytes())],
    ids=["no gzip", "no header", "no labels"],  # not the bytes: gzip puts the time into them
)
def test_files_of_another_format_are_refused(tmp_path, content):
    write_mnist(tmp_path / "raw")
    (tmp_path / "raw/train-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte.gz is no gzipped IDX file"):
        prepare_quietly("mnist", tmp_path / "tfds", tmp_path / "raw")
    assert not (tmp_path / "tfds").exists()


def test_a_broken_cifar10_archive_is_refused(tmp_path):
    write_cifar10(tmp_path / "raw")
    archive = tmp_path / "raw/cifar-10-binary.tar.gz"
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"is no CIFAR-10 binary archive"):
        prepare_quietly("cifar10", tmp_path / "tfds", tmp_path / "raw")


def test_downloads_are_checked(tmp_path):
    (tmp_path / "server").mkdir()
    (tmp_path / "server/file.gz").write_bytes(b"original")
    url = (tmp_path / "server/file.gz").as_uri()
    info = SimpleNamespace(size=8, checksum=hashlib.sha256(b"original").hexdigest())
    lines: list[str] = []
    path = _original(url, info, None, tmp_path, lines.append, True)
    assert path.read_bytes() == b"original"
    assert lines == [f"downloading {url} (0.0 MiB)"]
    (tmp_path / "server/file.gz").write_bytes(b"changed")
    with pytest.raises(UserError, match=r"file.gz is not the original file"):
        _original(url, info, None, tmp_path, lines.append, True)
    with pytest.raises(UserError, match=r"cannot download .*absent.gz.*--raw"):
        _original(url.replace("file.gz", "absent.gz"), info, None, tmp_path, lines.append, True)


def start_preparing(root: Path) -> subprocess.Popen:
    """Starts a preparation in another process; returns once examples are being written."""
    write_mnist(root / "raw", train=60000)  # enough to be still at it when the signal comes
    script = (
        "import signal\n"  # a shell has its background jobs ignore SIGINT, and so would this one
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from jaxprune.training.data.prepare import prepare\n"
        f"prepare('mnist', {str(root / 'tfds')!r}, raw={str(root / 'raw')!r}, _checksums=False)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list((root / "tfds").glob(".mnist.*/mnist/*")):
        assert process.poll() is None
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_preparation_leaves_no_dataset(tmp_path, how):
    process = start_preparing(tmp_path)
    process.send_signal(how)
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:  # Python drops a Ctrl-C that meets a destructor: press again
        process.send_signal(how)
    assert process.wait(60) != 0
    assert not (tmp_path / "tfds/mnist").exists()
    if how == signal.SIGINT:
        assert not (tmp_path / "tfds").exists()
    with pytest.raises(UserError, match="no dataset 'mnist'"):
        data.load("mnist", tmp_path / "tfds", cache_dir=tmp_path)
    splits = write_mnist(tmp_path / "raw")
    prepare_quietly("mnist", tmp_path / "tfds", tmp_path / "raw")
    test = data.load("mnist", tmp_path / "tfds", cache_dir=tmp_path).test
    assert rows(test) == rows(splits["test"])


def test_command_line(tmp_path, capsys):
    empty = tmp_path / "it's empty"
    empty.mkdir()
    arguments = ["prepare", "mnist", "--data-dir", str(tmp_path / "tfds"), "--raw", str(empty)]
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("jaxprune: error: ")
    assert output.err.count("\n") == 1
    for wrong in (["prepare", "digits"], ["prepare"], []):
        with pytest.raises(SystemExit) as exit_:
            main(wrong)
        assert exit_.value.code == 2
    (tmp_path / "file").write_text("")
    assert main([*arguments[:3], str(tmp_path / "file"), *arguments[4:]]) == 2
    assert "cannot write to" in capsys.readouterr().err


# --- reading, the cache, and damage --------------------------------------------------------------


def test_a_missing_dataset_says_what_to_type(tmp_path, monkeypatch):
    folder = tmp_path / "my data"
    with pytest.raises(UserError) as error:
        data.load("cifar10", folder)
    assert str(error.value) == (
        f"no dataset 'cifar10' in {folder}; "
        f"prepare it: jaxprune data prepare cifar10 --data-dir '{folder}'"
    )
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "other"))
    with pytest.raises(UserError, match=f"no dataset 'mnist' in {tmp_path / 'other'}"):
        data.load("mnist")
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=f"in {tmp_path / 'tensorflow_datasets'}"):
        data.load("mnist")


def test_other_formats_are_told_from_missing_ones(mnist, tmp_path):
    folder = copy_of(mnist, tmp_path)
    for path in folder.glob("*.array_record*"):
        path.rename(path.with_name(path.name.replace("array_record", "tfrecord")))
    with pytest.raises(UserError, match=r"no array_record files .*another folder: jaxprune data"):
        data.load("mnist", tmp_path, cache_dir=tmp_path / "cache")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50_000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def overwrite(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5000:5100] = b"\xff" * 100
    path.write_bytes(content)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [truncate, empty, overwrite, remove])
@pytest.mark.parametrize("name", ["mnist-test.array_record-00000-of-00001", "features.json"])
def test_a_damaged_folder_is_one_clear_line(mnist, tmp_path, name, damage):
    cache = tmp_path / "cache"
    data.load("mnist", mnist.root, cache_dir=cache)  # intact bytes in the cache must not hide it
    folder = copy_of(mnist, tmp_path)
    if damage is overwrite and name == "features.json":
        (folder / name).write_text('{"pythonClassName": ')
    else:
        damage(folder / name)
    if damage is truncate and name == "features.json":
        (folder / name).write_bytes((folder / name).read_bytes()[:100])
    with pytest.raises(UserError) as error:
        data.load("mnist", tmp_path, cache_dir=cache)
    message = str(error.value)
    assert "\n" not in message
    assert f"dataset 'mnist' in {folder} cannot be read" in message
    assert message.endswith(
        f"remove that folder and prepare it again: "
        f"jaxprune data prepare mnist --data-dir {tmp_path}"
    )


def test_the_cache_is_used_rebuilt_when_damaged_and_done_without(mnist, tmp_path):
    first = data.load("mnist", mnist.root, cache_dir=tmp_path)
    (cached,) = (tmp_path / "datasets").iterdir()
    whole = cached.read_bytes()

    def same(dataset) -> bool:
        return jax.tree.all(jax.tree.map(np.array_equal, first[1:], dataset[1:]))

    # A copy of the folder elsewhere has the same bytes: it is served by the same entry.
    copy_of(mnist, tmp_path / "copy")
    modified = cached.stat().st_mtime_ns
    assert same(data.load("mnist", tmp_path / "copy", cache_dir=tmp_path))
    assert cached.stat().st_mtime_ns == modified

    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (bytes(flipped), whole[: len(whole) // 2], b""):
        cached.write_bytes(damaged)
        assert same(data.load("mnist", mnist.root, cache_dir=tmp_path))
        assert same(data.load("mnist", mnist.root, cache_dir=tmp_path))
        assert len(cached.read_bytes()) == len(whole)
    assert [path.name for path in (tmp_path / "datasets").iterdir()] == [cached.name]

    (tmp_path / "file").write_text("in the way")
    assert same(data.load("mnist", mnist.root, cache_dir=tmp_path / "file"))


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXPRUNE_CACHE", str(tmp_path / "from environment"))
    assert cache_folder() == tmp_path / "from environment"
    assert cache_folder(tmp_path) == tmp_path
    monkeypatch.delenv("JAXPRUNE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/jaxprune"


def test_reading_needs_no_tensorflow_and_importing_no_tensorflow_datasets(mnist, tmp_path):
    script = (
        "import sys\n"
        "from jaxprune.training import data\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        f"data.load('mnist', {str(mnist.root)!r}, cache_dir={str(tmp_path)!r})\n"
        "assert 'tensorflow_datasets' in sys.modules\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


# --- the real datasets ---------------------------------------------------------------------------

# Sums of all pixels and classes of the original files, before any split of ours.
REAL = {
    "mnist": (1_567_298_545, 264_923_200, [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]),
    "fashion_mnist": (3_431_114_169, 573_469_082, [1000] * 10),
    "cifar10": (18_540_682_003, 3_733_375_634, [1000] * 10),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_datasets_have_the_published_pixels(name):
    if not Path(os.environ.get("TFDS_DATA_DIR", "/nowhere"), name).is_dir():
        pytest.skip(f"TFDS_DATA_DIR has no prepared {name}")
    dataset = data.load(name)
    sums = [int(split.images.sum(dtype=np.int64)) for split in dataset[1:4]]
    train, test, classes = REAL[name]
    assert (sums[0] + sums[1], sums[2]) == (train, test)
    np.testing.assert_array_equal(np.bincount(dataset.test.labels), classes)
    assert len(dataset.validation.labels) == 5000
