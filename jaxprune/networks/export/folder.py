"""A compact network in a folder, usable without the code that made it.

The folder holds::

    arrays/           the parameters, as `jaxprune.files.checkpoint` writes them
    widths.json       the channels kept in each group, the inputs, and the caller's metadata
    model.stablehlo   the network as StableHLO, for any batch size, on CPU, CUDA and TPU

As jax.export guarantees, later versions of JAX read the StableHLO for at least six months. The
arrays and widths have no such limit.
"""

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from jaxprune.dependency import CompactNetwork
from jaxprune.errors import UserError
from jaxprune.files import checkpoint
from jaxprune.files.trees import plain
from jaxprune.files.whole import check_format, reading
from jaxprune.networks.export import program

_ARRAYS = "arrays"
_WIDTHS = "widths.json"
_PROGRAM = "model.stablehlo"
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class LoadedNetwork:
    """A compact network loaded from disk; call it as ``network(network.params, x)``.

    Attributes:
        params: The parameters, dicts and lists of NumPy arrays.
        widths: {group: number of channels kept}.
        kept: {group: indices of the channels kept, in the dense network}.
        input_shape: Shape of one example, without the batch axis.
        input_dtype: Data type of the examples.
        metadata: As given to `save`.
    """

    params: Any = field(repr=False)
    widths: Mapping[str, int]
    kept: Mapping[str, tuple[int, ...]] = field(repr=False)
    input_shape: tuple[int, ...]
    input_dtype: np.dtype
    metadata: Mapping[str, Any]
    _program: jax_export.Exported = field(repr=False)

    def __call__(self, params: Any, x: Any) -> Any:
        """Outputs for a batch.

        Args:
            params: The attribute `params`, or others of the same structure, shapes and types.
            x: `[B, *input_shape]` of `input_dtype`, any B >= 1, preprocessed as in training.

        Returns:
            The network's outputs; for a classifier the logits, float32 `[B, classes]`.

        Raises:
            ValueError: x has another shape.
        """
        if np.shape(x)[1:] != self.input_shape or np.ndim(x) == 0:
            expected = ", ".join(map(str, ("batch", *self.input_shape)))
            raise ValueError(f"x has shape {np.shape(x)} instead of ({expected})")
        return self._program.call(params, jax.numpy.asarray(x, self.input_dtype))


def save(
    path: str | os.PathLike[str],
    small: CompactNetwork,
    x: Any,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a compact network to a folder from which `load` brings it back.

    Args:
        path: Folder; it is made if missing, and files of an earlier model in it are replaced.
        small: The network, with the parameters to save. It must treat the examples of a batch
            independently, as for `stablehlo`.
        x: Any batch of inputs, `[B, ...]`; only its shape and type matter.
        metadata: Anything that JSON can hold.

    Raises:
        UserError: The folder has something else under the name ``arrays``.
        TypeError: `small` is not a compact network.
        OSError: The folder cannot be written.
    """
    if not isinstance(small, CompactNetwork):
        raise TypeError(
            f"small is of type {type(small).__name__}; give what jaxprune.prune or compact "
            "returned: save(path, small, x)"
        )
    path = Path(path).expanduser().resolve()
    path.mkdir(parents=True, exist_ok=True)
    example_shape, dtype = np.shape(x)[1:], np.dtype(jax.numpy.result_type(x))
    serialized = _program(small, example_shape, dtype)
    description = {
        "format": _FORMAT,
        "widths": dict(small.widths),
        "kept": {name: np.flatnonzero(mask).tolist() for name, mask in small.masks.items()},
        "input": {"shape": list(example_shape), "dtype": dtype.name},
        "program": {"crc32": zlib.crc32(serialized), "platforms": list(program.PLATFORMS)},
        "metadata": dict(metadata or {}),
    }
    checkpoint.save(path / _ARRAYS, small.params)
    (path / _PROGRAM).write_bytes(serialized)
    (path / _WIDTHS).write_text(json.dumps(description, indent=1) + "\n")


def load(path: str | os.PathLike[str]) -> LoadedNetwork:
    """Reads a network that `save` wrote; needs none of the code that made it.

    Args:
        path: The folder of the model, or of a run that has it as ``model``.

    Returns:
        The network. Its StableHLO runs on CPU, CUDA and TPU.

    Raises:
        UserError: There is no model, a newer version wrote it, or a file of it is damaged.
    """
    given = Path(path).expanduser().resolve()
    folder = given if (given / _WIDTHS).is_file() else given / "model"
    if not (folder / _WIDTHS).is_file():
        raise UserError(
            f"no model at {given}: expected {_WIDTHS} in it or in its subfolder model "
            "(a run writes it at its end)"
        )
    what = f"the model in {folder}"
    with reading(what):
        description = json.loads((folder / _WIDTHS).read_text())
        check_format(what, description["format"], _FORMAT)
        serialized = (folder / _PROGRAM).read_bytes()
        if zlib.crc32(serialized) != description["program"]["crc32"]:
            raise ValueError(f"{_PROGRAM} is not what was written")
        return LoadedNetwork(
            params=checkpoint.load(folder / _ARRAYS),
            widths=description["widths"],
            kept={name: tuple(indices) for name, indices in description["kept"].items()},
            input_shape=tuple(description["input"]["shape"]),
            input_dtype=np.dtype(description["input"]["dtype"]),
            metadata=description["metadata"],
            _program=jax_export.deserialize(bytearray(serialized)),
        )


def _program(small: CompactNetwork, example_shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """Serialized StableHLO for any batch size, whose params are the tree that `load` returns."""
    treedef: Any = jax.tree.structure(small.params)
    # The plain tree may have its leaves in another order: numbers tell which is which.
    order = jax.tree.leaves(plain(treedef.unflatten(range(treedef.num_leaves))))
    network = program.over_examples(small)

    def plain_network(params: Any, x: Any) -> Any:
        leaves = dict(zip(order, jax.tree.leaves(params), strict=True))
        return network(treedef.unflatten([leaves[place] for place in range(len(order))]), x)

    plain_shapes = jax.eval_shape(lambda: plain(small.params))
    exported = program.export(plain_network, (plain_shapes,), example_shape, dtype)
    return bytes(exported.serialize())
