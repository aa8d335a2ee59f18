"""A pytree of arrays in one file that can be kept, copied and sent: NumPy's ``.npz``.

The file holds each array under its place in the tree and, as JSON, the places, the data types and
whatever there is to say about the arrays. Nothing is pickled.
"""

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxprune.errors import UserError
from jaxprune.files.checkpoint import leaves_by_key, nested, spelled

_ABOUT = "about.json"
_FORMAT = 1


def save(path: Path, tree: Any, about: Mapping[str, Any] | None = None) -> None:
    """Writes a pytree to a file, whole or not at all.

    Args:
        path: The file; missing folders are made.
        tree: Any pytree of arrays or numbers. Keys of dicts must be strings.
        about: What `about` gives back: anything that JSON can hold.

    Raises:
        OSError: The file cannot be written.
    """
    leaves = [(key, np.asarray(leaf)) for key, leaf in leaves_by_key(tree)]
    manifest = {
        "format": _FORMAT,
        "about": dict(about or {}),
        "leaves": [{"key": list(key), "dtype": array.dtype.name} for key, array in leaves],
    }
    arrays = {spelled(key): array for key, array in leaves}
    if len(arrays) != len(leaves):
        raise ValueError("two places of the tree are spelled alike")
    text = np.frombuffer(json.dumps(manifest).encode(), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, allow_pickle=False, **{_ABOUT: text}, **arrays)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def load(path: Path, like: Any = None) -> Any:
    """Reads the pytree of a file into numpy arrays.

    Args:
        path: A file that `save` wrote.
        like: A pytree with the structure to give back; its leaves only mark places. Without it the
            tree comes back in dicts and lists alone.

    Returns:
        The pytree.

    Raises:
        UserError: The file is missing, damaged, of a newer version, or does not fit ``like``.
    """
    _, arrays = _read(path, contents=True)
    if like is None:
        return nested(arrays)
    wanted = [key for key, _ in leaves_by_key(like)]
    if set(wanted) != set(arrays):
        missing = sorted(spelled(key) for key in set(wanted) - set(arrays))
        extra = sorted(spelled(key) for key in set(arrays) - set(wanted))
        raise UserError(
            f"{path} holds other arrays than are needed: "
            f"{len(missing)} missing {missing[:3]}, {len(extra)} not expected {extra[:3]}"
        )
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[key] for key in wanted])


def about(path: Path) -> dict[str, Any]:
    """What a file says about its arrays, which are not read.

    Raises:
        UserError: As `load`.
    """
    return _read(path, contents=False)[0]["about"]


def _read(path: Path, *, contents: bool) -> tuple[dict[str, Any], dict[tuple, np.ndarray]]:
    """The manifest, and the arrays by their places."""
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        with path.open("rb") as whole, np.load(whole, allow_pickle=False) as file:
            manifest = json.loads(file[_ABOUT].tobytes())
            if manifest["format"] > _FORMAT:
                raise UserError(
                    f"{path} was written by a newer version of jaxprune (format "
                    f"{manifest['format']}, this one reads {_FORMAT}): upgrade jaxprune to read it"
                )
            found = {}
            for leaf in manifest["leaves"] if contents else ():
                key, dtype = tuple(leaf["key"]), np.dtype(leaf["dtype"])
                array = file[spelled(key)]
                # NumPy gives types that are not its own, such as bfloat16, back as bytes.
                found[key] = array if array.dtype == dtype else array.view(dtype)
            return manifest, found
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged, or not a file of jaxprune: {error}") from error
