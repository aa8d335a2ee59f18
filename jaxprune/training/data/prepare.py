"""Prepares datasets as tensorflow-datasets would, without TensorFlow.

tensorflow-datasets needs TensorFlow to unpack the original files and to encode PNG images. Here
NumPy unpacks and Pillow encodes, and the builders of tensorflow-datasets only write: the result is
an ordinary prepared folder in array_record format with the same pixels, labels, ids and order.
"""

import contextlib
import gzip
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxprune.errors import UserError
from jaxprune.training.data.prepared import NAMES, data_folder

Examples = Iterator[tuple[int, dict[str, Any]]]


class Raw(NamedTuple):
    """The content of the original files.

    Attributes:
        splits: For "train" and "test": images uint8 `[n, H, W, C]` and labels `[n]`.
        label_names: Names of the classes, where the files give them.
    """

    splits: dict[str, tuple[np.ndarray, np.ndarray]]
    label_names: list[str] | None


def prepare(
    name: str,
    data_dir: str | Path | None = None,
    *,
    raw: str | Path | None = None,
    report: Callable[[str], None] = print,
    _checksums: bool = True,
) -> Path:
    """Prepares a dataset in array_record format.

    Everything is written to a hidden folder in `data_dir` that takes its final name at the end: an
    interrupted preparation leaves no dataset behind.

    Args:
        name: One of `NAMES`.
        data_dir: Where to put `<name>/<version>`; see `data_folder`.
        raw: A folder with the original files (for CIFAR-10 `cifar-10-binary.tar.gz`, else the four
            `...-ubyte.gz`), or None to download them.
        report: Called with one line for each stage.

    Returns:
        The folder of the prepared dataset.

    Raises:
        UserError: If the name is unknown, the dataset is there already, an original file is
            missing, cannot be downloaded or differs from the one that tensorflow-datasets
            registered (SHA-256), or the folder cannot be written.
    """
    if name not in NAMES:
        raise UserError(f"cannot prepare {name!r}; what can be prepared: {', '.join(NAMES)}")
    import tensorflow_datasets as tfds  # slow to import

    root = data_folder(data_dir)
    official = tfds.builder_cls(name)
    folder = root / name / str(official.VERSION)
    if folder.exists():
        raise UserError(f"{folder} exists already; remove it to prepare the dataset again")
    made = not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=root, prefix=f".{name}.", suffix=".incomplete"))
    except OSError as error:
        raise UserError(f"cannot write to {root} ({error.strerror}); choose --data-dir") from error
    try:
        url_infos = official(data_dir=staging).url_infos
        files = {
            Path(url).name: _original(url, info, raw, staging, report, _checksums)
            for url, info in url_infos.items()
        }
        report(f"encoding and writing {name}")
        content = (_read_cifar10 if name == "cifar10" else _read_mnist)(files)
        written = _write(official, content, staging)
        folder.parent.mkdir(exist_ok=True)
        os.rename(written, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):  # it holds the dataset
                root.rmdir()
    return folder


def _original(
    url: str,
    info: Any,
    raw: str | Path | None,
    staging: Path,
    report: Callable[[str], None],
    checksums: bool,
) -> Path:
    """The path of one original file, downloaded unless `raw` is given, its checksum checked."""
    name = Path(url).name
    if raw is None:
        path = staging / name
        report(f"downloading {url} ({int(info.size) / 2**20:.1f} MiB)")
        try:
            with urllib.request.urlopen(url, timeout=60) as response, path.open("wb") as file:
                shutil.copyfileobj(response, file)
        except (OSError, urllib.error.URLError) as error:
            raise UserError(
                f"cannot download {url} ({error}); get it by other means and pass its folder "
                "with --raw"
            ) from error
    else:
        path = Path(raw).expanduser().resolve() / name
        if not path.is_file():
            raise UserError(f"{path} is missing; it is the file at {url}")
    if checksums:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != info.checksum:
            raise UserError(
                f"{path.name} is not the original file: its SHA-256 is {found}, "
                f"not {info.checksum}; get it from {url}"
            )
    return path


def _read_mnist(files: dict[str, Path]) -> Raw:
    """Reads the four IDX files of MNIST or Fashion-MNIST."""
    splits = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = _read_idx(files[f"{prefix}-images-idx3-ubyte.gz"], 3)
        labels = _read_idx(files[f"{prefix}-labels-idx1-ubyte.gz"], 1)
        splits[split] = images[..., None], labels
    return Raw(splits, None)


def _read_idx(path: Path, rank: int) -> np.ndarray:
    """Reads a gzipped IDX file of unsigned bytes (format: yann.lecun.com/exdb/mnist)."""
    try:
        content = gzip.decompress(path.read_bytes())
        header = np.frombuffer(content, ">u4", 1 + rank)
        if header[0] != 0x0800 + rank:
            raise ValueError(f"magic number {header[0]:#x}")
        return np.frombuffer(content, np.uint8, offset=4 * (1 + rank)).reshape(header[1:])
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} is no gzipped IDX file ({error})") from error


def _read_cifar10(files: dict[str, Path]) -> Raw:
    """Reads the binary archive of CIFAR-10: records of a label byte and 3x32x32 bytes."""
    path = files["cifar-10-binary.tar.gz"]
    try:
        with tarfile.open(path) as archive:

            def member(name: str) -> bytes:
                file = archive.extractfile(f"cifar-10-batches-bin/{name}")
                assert file is not None, name
                return file.read()

            def batch(name: str) -> tuple[np.ndarray, np.ndarray]:
                records = np.frombuffer(member(name), np.uint8).reshape(-1, 1 + 3 * 32 * 32)
                images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
                return images, records[:, 0]

            batches = [batch(f"data_batch_{number}.bin") for number in range(1, 6)]
            images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
            test = batch("test_batch.bin")
            names = [line for line in member("batches.meta.txt").decode().split("\n") if line]
    except (OSError, EOFError, KeyError, ValueError, tarfile.TarError) as error:
        raise UserError(f"{path} is no CIFAR-10 binary archive ({error})") from error
    return Raw({"train": (images, labels), "test": test}, names)


def _write(official: Any, raw: Raw, staging: Path) -> Path:
    """Has the builder of tensorflow-datasets write the examples; returns the folder it made."""
    import tensorflow_datasets as tfds

    class Builder(official, skip_registration=True):  # type: ignore[misc, call-arg]
        __module__ = official.__module__  # dataset_info.json names it
        name = official.name
        VERSION = official.VERSION

        def _split_generators(self, dl_manager: Any) -> dict[str, Examples]:
            del dl_manager  # the original files are read already
            if raw.label_names is not None:
                self.info.features["label"].names = raw.label_names
            return {split: self._generate_examples(split) for split in raw.splits}

        def _generate_examples(self, split: str) -> Examples:
            with_id = "id" in self.info.features
            # The index as key, as in the official builder: it decides the order on disk.
            for index, (image, label) in enumerate(zip(*raw.splits[split], strict=True)):
                example = {"image": _png(image), "label": int(label)}
                if with_id:
                    example["id"] = f"{split}_{index:05d}"
                yield index, example

    builder = Builder(data_dir=staging, file_format="array_record")
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    with contextlib.redirect_stdout(io.StringIO()):  # it would name the folder written to for now
        builder.download_and_prepare(download_config=config)
    return Path(builder.data_dir)


def _png(image: np.ndarray) -> bytes:
    """Encodes an image uint8 `[H, W, 1 or 3]`."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()
