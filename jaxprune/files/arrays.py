"""A pytree of arrays in one NumPy file (``.npz``), easy to keep, copy and send.

Each array is stored under its place in the tree, beside JSON with the places, the data types and
whatever the caller says about the arrays. Nothing is pickled.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxprune.errors import UserError
from jaxprune.files.leaves import read, stored_as, written
from jaxprune.files.trees import Key, leaves_by_key, rebuilt, spelled
from jaxprune.files.whole import check_format, reading, replacing

_ABOUT = "about.json"
_FORMAT = 1


def save(path: Path, tree: Any, about: Mapping[str, Any] | None = None) -> None:
    """Writes a pytree to a file, whole or not at all.

    Args:
        path: The file; missing folders are made.
        tree: Any pytree of arrays, numbers or PRNG keys.
        about: Anything that JSON can hold; the function `about` returns it.

    Raises:
        OSError: The file cannot be written.
    """
    leaves = [(key, *written(leaf)) for key, leaf in leaves_by_key(tree)]
    manifest = {
        "format": _FORMAT,
        "about": dict(about or {}),
        "leaves": [{"key": list(key), "dtype": dtype} for key, _, dtype in leaves],
    }
    arrays = {spelled(key): array for key, array, _ in leaves}
    if len(arrays) != len(leaves):
        raise ValueError("two places of the tree are spelled alike")
    text = np.frombuffer(json.dumps(manifest).encode(), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as fresh, fresh.open("wb") as file:
        np.savez(file, allow_pickle=False, **{_ABOUT: text}, **arrays)


def load(path: Path, like: Any = None) -> Any:
    """Reads the pytree of a file into numpy arrays; PRNG keys come back as JAX's.

    Args:
        path: A file that `save` wrote.
        like: A pytree of the structure to give back; its leaves only mark places. Without it the
            tree comes back in dicts and lists alone.

    Raises:
        UserError: The file is missing, damaged, of a newer version, or does not fit ``like``.
    """
    _, arrays = _read(path, contents=True)
    return rebuilt(arrays, like, str(path))


def about(path: Path) -> dict[str, Any]:
    """What a file says about its arrays, which are not read.

    Raises:
        UserError: As `load`.
    """
    return _read(path, contents=False)[0]["about"]


def _read(path: Path, *, contents: bool) -> tuple[dict[str, Any], dict[Key, Any]]:
    """The manifest, and the arrays by their places."""
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    with reading(str(path)), path.open("rb") as whole, np.load(whole, allow_pickle=False) as file:
        manifest = json.loads(file[_ABOUT].tobytes())
        check_format(str(path), manifest["format"], _FORMAT)
        found = {}
        for leaf in manifest["leaves"] if contents else ():
            key, dtype = tuple(leaf["key"]), stored_as(leaf["dtype"])
            array = file[spelled(key)]
            # NumPy gives types that are not its own, such as bfloat16, back as bytes.
            array = array if array.dtype == dtype else array.view(dtype)
            found[key] = read(array, leaf["dtype"])
        return manifest, found
