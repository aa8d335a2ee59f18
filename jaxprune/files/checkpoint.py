"""Pytrees on disk: saved whole or not at all, checked when they are read.

A checkpoint is a folder::

    arrays/       the arrays, as orbax writes a nested dict: any program with orbax reads them
    leaves.json   place, shape, data type and CRC-32 of every array

orbax stores arrays only, none without elements, and gives named tuples back as dicts;
``leaves.json`` closes these gaps and tells a damaged checkpoint from a whole one. Nothing is
pickled, so reading a checkpoint runs no code of whoever wrote it.
"""

import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxprune.errors import UserError, first_line
from jaxprune.files import interrupts

Key = tuple[str | int, ...]
"""Place of a leaf: names in dicts, named tuples and dataclasses, indices in lists and tuples."""

_LONE = "array"
_FORMAT = 1
_ARRAYS = "arrays"
_LEAVES = "leaves.json"
_BYTES = "arrays.npz"


def save(path: str | os.PathLike[str], tree: Any) -> None:
    """Writes a pytree of arrays to the folder ``path``; what was there stays until it is complete.

    The new checkpoint is written beside the old one and then takes its name, so that a process
    killed at any moment leaves the old or the new one, never a mixture.

    Args:
        path: Folder of the checkpoint; relative paths are resolved, missing parents made.
        tree: Any pytree whose leaves are arrays or numbers. Keys of dicts must be strings.

    Raises:
        ValueError: A leaf is no array (a string, an object), or a dict has a key that is no string.
        UserError: ``path`` is there and is no checkpoint.
        OSError: The folder cannot be written.
    """
    path = Path(path).expanduser().resolve()
    _check_replaceable(path)
    leaves = [(key, _array(key, leaf)) for key, leaf in leaves_by_key(tree)]
    manifest = {
        "format": _FORMAT,
        "leaves": [
            {
                "key": list(key),
                "shape": list(array.shape),
                "dtype": array.dtype.name,
                "crc32": _checksum(array),
            }
            for key, array in leaves
        ],
    }
    stored = [(key, array) for key, array in leaves if array.size]

    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent))
    try:
        if stored:
            _write_arrays(fresh, stored, path)
        (fresh / _LEAVES).write_text(json.dumps(manifest) + "\n")
        fresh.chmod(0o755)  # a temporary folder keeps others out, a checkpoint is an ordinary one
        _replace(path, fresh)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def load(path: str | os.PathLike[str], like: Any = None) -> Any:
    """Reads a checkpoint into numpy arrays.

    Args:
        path: Folder that `save` wrote.
        like: A pytree with the structure to give back, for instance the ``init(...)`` of the state
            that was saved. Its leaves only mark places: shapes and types are those of the
            checkpoint, so an archive that grew comes back at its size. Without it, the pytree comes
            back as `plain` gives it.

    Returns:
        The pytree, with `numpy.ndarray` leaves.

    Raises:
        UserError: There is no checkpoint at ``path``, it is damaged, a newer version wrote it, or
            it does not fit ``like``.
    """
    path = Path(path).expanduser().resolve()
    if not exists(path):
        raise UserError(f"no checkpoint at {path}")
    leaves = _read(path)
    if like is None:
        return nested(leaves)
    wanted = [key for key, _ in leaves_by_key(like)]
    if set(wanted) != set(leaves):
        missing = sorted(spelled(key) for key in set(wanted) - set(leaves))
        extra = sorted(spelled(key) for key in set(leaves) - set(wanted))
        raise UserError(
            f"the checkpoint {path} belongs to another configuration or version: "
            f"{len(missing)} arrays missing {missing[:3]}, {len(extra)} not expected {extra[:3]}"
        )
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[key] for key in wanted])


def exists(path: str | os.PathLike[str]) -> bool:
    """Says whether a checkpoint is there, after undoing a replacement that was killed half way."""
    path = Path(path).expanduser().resolve()
    if not path.exists():
        for old in path.parent.glob(f".{path.name}.*.old"):
            old.rename(path)
            break
    return (path / _LEAVES).is_file()


def plain(tree: Any) -> Any:
    """The pytree in dicts and lists alone, as `load` gives it back without a template.

    Named tuples and dataclasses become dicts, tuples become lists, and containers without any leaf
    are left out.

    Raises:
        ValueError: A dict has a key that is no string.
    """
    return nested(dict(leaves_by_key(tree)))


def _check_replaceable(path: Path) -> None:
    """Raises UserError where something stands that is not ours to remove."""
    if not path.exists() or (path / _LEAVES).is_file():
        return
    if not path.is_dir() or any(path.iterdir()):
        raise UserError(f"{path} is there and is no checkpoint: choose another place or remove it")


def _replace(path: Path, fresh: Path) -> None:
    """Gives ``fresh`` the name ``path``, keeping what had that name until then."""
    if path.exists():
        # A folder cannot be renamed onto another: for a moment only `.old` is there, and if the
        # process is killed in it, `exists` puts it back.
        path.rename(fresh.with_suffix(".old"))
    fresh.rename(path)
    for old in path.parent.glob(f".{path.name}.*.old"):
        shutil.rmtree(old, ignore_errors=True)


def _checkpointer() -> Any:
    """An orbax checkpointer of this process alone, also where several work together."""
    import orbax.checkpoint as ocp  # a second of import time, of which `--help` has no need

    if jax.process_count() == 1:
        return ocp.PyTreeCheckpointer()
    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"process{process}",
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _write_arrays(fresh: Path, stored: list[tuple[Key, np.ndarray]], path: Path) -> None:
    """Has orbax write; what the system refuses it, such as space, is an OSError about `path`.

    Of several processes orbax lets only the first write numpy arrays: the others write the bytes.
    """
    if jax.process_index() > 0:
        np.savez(fresh / _BYTES, *(np.frombuffer(array.tobytes(), np.uint8) for _, array in stored))
        return
    try:
        # An interrupted event loop of orbax's complains on the terminal.
        with interrupts.held(), _checkpointer() as checkpointer:
            checkpointer.save(fresh / _ARRAYS, _nested_dict(stored))
    except ValueError as error:  # tensorstore's for everything, with the system's number in it
        number = re.search(r"os_error_code='(\d+)'", str(error))
        if number is None:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(path)) from error


def _read(path: Path) -> dict[Key, np.ndarray]:
    try:
        manifest = json.loads((path / _LEAVES).read_text())
        if manifest["format"] > _FORMAT:
            raise UserError(
                f"the checkpoint {path} was written by a newer version of jaxprune (format "
                f"{manifest['format']}, this one reads {_FORMAT}): upgrade jaxprune to load it"
            )
        if manifest["format"] != _FORMAT:
            raise ValueError(f"format {manifest['format']} instead of {_FORMAT}")
        stored = _read_arrays(path, [leaf for leaf in manifest["leaves"] if 0 not in leaf["shape"]])
        return {tuple(leaf["key"]): _checked(leaf, stored) for leaf in manifest["leaves"]}
    except UserError:
        raise
    except Exception as error:  # orbax and tensorstore raise whatever their storage layers raise
        raise UserError(
            f"the checkpoint {path} is damaged ({type(error).__name__}: {first_line(error)}): "
            "remove that folder and make it again"
        ) from error


def _read_arrays(path: Path, leaves: list[dict[str, Any]]) -> dict[str, Any]:
    """The nested dict of the arrays that have elements."""
    if not leaves:
        return {}
    if not (path / _BYTES).exists():
        with _checkpointer() as checkpointer:
            return checkpointer.restore(path / _ARRAYS)
    with np.load(path / _BYTES) as file:
        arrays = [file[name] for name in file.files]
    return _nested_dict(
        (tuple(leaf["key"]), array.view(np.dtype(leaf["dtype"])).reshape(leaf["shape"]))
        for leaf, array in zip(leaves, arrays, strict=True)
    )


def _checked(leaf: dict[str, Any], stored: Any) -> np.ndarray:
    """One array of the manifest, from the nested dict ``stored``, equal to what was written."""
    shape, dtype = tuple(leaf["shape"]), np.dtype(leaf["dtype"])
    if 0 in shape:
        return np.zeros(shape, dtype)
    for part in leaf["key"] or (_LONE,):
        stored = stored[str(part)]
    array = np.asarray(stored)
    if (array.shape, array.dtype, _checksum(array)) != (shape, dtype, leaf["crc32"]):
        raise ValueError(f"{spelled(leaf['key'])} is not what was written")
    return array


def leaves_by_key(tree: Any) -> list[tuple[Key, Any]]:
    """The leaves of a pytree with their places, in JAX's order."""
    return [
        (tuple(_key_part(entry) for entry in path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _key_part(entry: Any) -> str | int:
    match entry:
        case jax.tree_util.DictKey(key=str(name)) | jax.tree_util.GetAttrKey(name=name):
            return name
        case jax.tree_util.SequenceKey(idx=index) | jax.tree_util.FlattenedIndexKey(key=index):
            return index
    raise ValueError(f"a checkpoint needs dicts with strings as keys, not {entry}")


def _array(key: Key, leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    if array.dtype.kind in "OUSMm":
        raise ValueError(f"a checkpoint holds arrays and numbers; {spelled(key)} is {leaf!r:.80}")
    return array


def spelled(key: Iterable[str | int]) -> str:
    """A place as one word."""
    return "/".join(map(str, key)) or "the array"


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data) if array.size else 0


def _nested_dict(leaves: Iterable[tuple[Key, np.ndarray]]) -> dict[str, Any]:
    """The nested dict that orbax stores; indices become strings, a lone array gets a name."""
    tree: dict[str, Any] = {}
    for key, array in leaves:
        *parents, last = key or (_LONE,)
        node = tree
        for part in parents:
            node = node.setdefault(str(part), {})
        node[str(last)] = array
    return tree


def nested(leaves: dict[Key, Any]) -> Any:
    """Dicts and lists as the keys have them."""
    if list(leaves) == [()]:
        return leaves[()]
    children: dict[str | int, dict[Key, Any]] = {}
    for (first, *rest), array in leaves.items():
        children.setdefault(first, {})[tuple(rest)] = array
    tree = {part: nested(below) for part, below in children.items()}
    if tree and all(isinstance(part, int) for part in tree):
        return [tree[index] for index in sorted(tree)]
    return tree
