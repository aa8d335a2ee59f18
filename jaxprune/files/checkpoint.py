"""Checkpoints: pytrees on disk, saved whole or not at all, and verified when they are read.

A checkpoint is a folder::

    arrays/       a nested dict of arrays that any program can read with orbax
    leaves.json   place, shape, data type and CRC-32 of every array

Orbax cannot store arrays without elements, PRNG keys, and some types of 8 bits and fewer, and
returns named tuples as dicts; ``leaves.json`` fills these gaps and reveals damage. Nothing is
pickled, so reading a checkpoint runs no foreign code.
"""

import json
import os
import re
import shutil
import tempfile
import zlib
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxprune.errors import UserError
from jaxprune.files import arrays, interrupts
from jaxprune.files.leaves import read, stored_as, written
from jaxprune.files.trees import Key, leaves_by_key, rebuilt, spelled
from jaxprune.files.whole import check_format, reading

_LONE = "array"
_FORMAT = 1
_ARRAYS = "arrays"
_LEAVES = "leaves.json"
_ONE_FILE = "arrays.npz"
_BYTES = np.dtype(np.uint8)


def save(path: str | os.PathLike[str], tree: Any) -> None:
    """Writes a pytree of arrays to a folder, replacing an earlier checkpoint only once complete.

    A process killed at any moment leaves the old or the new checkpoint, never a mixture.

    Args:
        path: Folder of the checkpoint; missing parents are made.
        tree: Any pytree whose leaves are arrays, numbers or PRNG keys.

    Raises:
        ValueError: A leaf is not an array (a string, an object).
        UserError: ``path`` exists and is not a checkpoint.
        OSError: The folder cannot be written.
    """
    path = Path(path).expanduser().resolve()
    checkpoint = (path / _LEAVES).is_file()
    if path.exists() and not checkpoint and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} is there and is no checkpoint: choose another place or remove it")
    leaves = [(key, *_array(key, leaf)) for key, leaf in leaves_by_key(tree)]
    manifest = {
        "format": _FORMAT,
        "leaves": [
            {
                "key": list(key),
                "shape": list(array.shape),
                "dtype": dtype,
                "crc32": _checksum(array),
            }
            for key, array, dtype in leaves
        ],
    }
    stored = [(key, _known(array)) for key, array, _ in leaves if array.size]

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
        like: A pytree of the structure to return, such as the ``init(...)`` of the saved state. Its
            leaves only mark places: shapes and types are those of the checkpoint. Without it, the
            pytree comes back in dicts and lists, as `jaxprune.files.trees.plain` returns it.

    Returns:
        The pytree, with `numpy.ndarray` leaves; PRNG keys come back as JAX's.

    Raises:
        UserError: There is no checkpoint at ``path``, it is damaged, a newer version wrote it, or
            it does not fit ``like``.
    """
    path = Path(path).expanduser().resolve()
    if not exists(path):
        raise UserError(f"no checkpoint at {path}")
    return rebuilt(_read(path), like, f"the checkpoint {path}")


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is a checkpoint, after undoing a replacement that was killed half way."""
    path = Path(path).expanduser().resolve()
    if not path.exists():
        for old in path.parent.glob(f".{path.name}.*.old"):
            old.rename(path)
            break
    return (path / _LEAVES).is_file()


def _replace(path: Path, fresh: Path) -> None:
    """Renames ``fresh`` to ``path``, keeping what had that name until then."""
    if path.exists():
        # A folder cannot replace another in one step: if the process is killed while only `.old`
        # is there, `exists` puts it back.
        path.rename(fresh.with_suffix(".old"))
    fresh.rename(path)
    for old in path.parent.glob(f".{path.name}.*.old"):
        shutil.rmtree(old, ignore_errors=True)


def _checkpointer() -> Any:
    """An orbax checkpointer for this process alone, also in a run of several processes."""
    import orbax.checkpoint as ocp  # takes a second, which `--help` need not spend

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
    """Writes the arrays with orbax; errors of the system, such as a full disk, are about `path`.

    Orbax lets only the first of several processes write numpy arrays; the others write one file.
    """
    if jax.process_index() > 0:
        arrays.save(fresh / _ONE_FILE, [array for _, array in stored])
        return
    tree: dict[str, Any] = {}
    for key, array in stored:
        *parents, last = key or (_LONE,)
        node = tree
        for part in parents:
            node = node.setdefault(str(part), {})
        node[str(last)] = array
    try:
        # Orbax's event loop, when interrupted, complains on the terminal.
        with interrupts.held(), _checkpointer() as checkpointer:
            checkpointer.save(fresh / _ARRAYS, tree)
    except ValueError as error:  # tensorstore's only error, with the system's number in it
        number = re.search(r"os_error_code='(\d+)'", str(error))
        if number is None:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(path)) from error


def _read(path: Path) -> dict[Key, Any]:
    what = f"the checkpoint {path}"
    with reading(what):
        manifest = json.loads((path / _LEAVES).read_text())
        check_format(what, manifest["format"], _FORMAT)
        leaves = manifest["leaves"]
        stored = iter(_read_arrays(path, [leaf for leaf in leaves if 0 not in leaf["shape"]]))
        found = {}
        for leaf in leaves:
            key, shape, dtype = tuple(leaf["key"]), tuple(leaf["shape"]), stored_as(leaf["dtype"])
            array = np.zeros(shape, dtype) if 0 in shape else np.asarray(next(stored))
            array = array.view(dtype) if array.dtype == _BYTES else array
            if (array.shape, array.dtype, _checksum(array)) != (shape, dtype, leaf["crc32"]):
                raise ValueError(f"{spelled(key)} is not what was written")
            found[key] = read(array, leaf["dtype"])
        return found


def _read_arrays(path: Path, leaves: list[dict[str, Any]]) -> list[Any]:
    """The arrays of those leaves in the manifest that have elements."""
    if not leaves:
        return []
    if (path / _ONE_FILE).exists():
        return arrays.load(path / _ONE_FILE)
    with _checkpointer() as checkpointer:
        tree = checkpointer.restore(path / _ARRAYS)
    keys = (map(str, leaf["key"] or (_LONE,)) for leaf in leaves)
    return [reduce(getitem, key, tree) for key in keys]


def _array(key: Key, leaf: Any) -> tuple[np.ndarray, str]:
    array, dtype = written(leaf)
    if array.dtype.kind in "OUSMm":
        raise ValueError(f"a checkpoint holds arrays and numbers; {spelled(key)} is {leaf!r:.80}")
    return array, dtype


def _known(array: np.ndarray) -> np.ndarray:
    """The array, or its bytes if it is of a type of one byte that orbax may not know."""
    own = array.dtype.isbuiltin == 1
    return array if own or array.dtype.itemsize > 1 else array.view(_BYTES)


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data) if array.size else 0
