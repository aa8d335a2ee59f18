"""A compact network in a folder, usable without the code that made it.

The folder holds::

    arrays/           the parameters, as `jaxprune.files.checkpoint` writes them
    widths.json       the channels kept in each group, the inputs, and the caller's metadata
    model.stablehlo   the network as StableHLO, for any batch size if its examples are independent,
                      on CPU, CUDA and TPU

As jax.export guarantees, later versions of JAX read the StableHLO for at least six months. The
arrays and widths have no such limit.
"""

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export as jax_export

from jaxprune.dependency import CompactNetwork
from jaxprune.errors import UserError
from jaxprune.files import checkpoint
from jaxprune.files.trees import Key, leaves_by_key, nested, plain, spelled
from jaxprune.files.whole import check_format, reading
from jaxprune.networks.agreement import difference
from jaxprune.networks.export import examples, program

_ARRAYS = "arrays"
_WIDTHS = "widths.json"
_PROGRAM = "model.stablehlo"
_FORMAT = 2
_FIRST_FORMAT = 1
"""It knew one array as input, with any number of examples."""


class Input(NamedTuple):
    """An array that a saved network takes.

    Attributes:
        key: Its place in the inputs: the number of the input, and names below it.
        shape: Its shape; None stands for any number of examples.
        dtype: Its data type.
    """

    key: Key
    shape: tuple[int | None, ...]
    dtype: np.dtype

    def __repr__(self) -> str:
        return f"{spelled(self.key)}: {self.dtype.name}({_spelled_shape(self.shape)})"


@dataclass(frozen=True, eq=False)
class LoadedNetwork:
    """A compact network loaded from disk; call it as ``network(network.params, *inputs)``.

    Attributes:
        params: The parameters, dicts and lists of NumPy arrays.
        widths: {group: number of channels kept}.
        kept: {group: indices of the channels kept, in the dense network}.
        inputs: The arrays that it takes.
        batch: How many examples it takes at once, if they depend on each other; else None.
        metadata: As given to `save`.
    """

    params: Any = field(repr=False)
    widths: Mapping[str, int]
    kept: Mapping[str, tuple[int, ...]] = field(repr=False)
    inputs: tuple[Input, ...]
    batch: int | None
    metadata: Mapping[str, Any]
    _program: jax_export.Exported = field(repr=False)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example of the only input, without the batch axis."""
        (only,) = self.inputs
        return tuple(size for size in only.shape[1:] if size is not None)

    @property
    def input_dtype(self) -> np.dtype:
        """Data type of the only input."""
        (only,) = self.inputs
        return only.dtype

    def shapes(self, batch: int = 2) -> tuple[Any, ...]:
        """Shapes and dtypes of inputs for some number of examples, in dicts and lists."""
        size = batch if self.batch is None else self.batch
        leaves = {
            each.key: jax.ShapeDtypeStruct(
                tuple(size if n is None else n for n in each.shape), each.dtype
            )
            for each in self.inputs
        }
        return tuple(nested(leaves))

    def __call__(self, params: Any, *inputs: Any) -> Any:
        """Outputs for a batch.

        Args:
            params: The attribute `params`, or others of the same structure, shapes and types.
            *inputs: As the saved network took them, preprocessed as in training; for most one array
                `[B, ...]`, any B >= 1. Dicts, lists, named tuples may stand for each other.

        Returns:
            The network's outputs; for a classifier the logits, float32 `[B, classes]`.

        Raises:
            ValueError: An input is missing or has another shape.
        """
        given = dict(leaves_by_key(inputs))
        wanted = [each.key for each in self.inputs]
        if set(given) != set(wanted):
            raise ValueError(
                f"the network takes inputs {', '.join(map(spelled, wanted))}, it was given "
                f"{', '.join(map(spelled, given)) or 'none'} (numbers count the inputs)"
            )
        values = [self._fitting(each, given[each.key]) for each in self.inputs]
        sizes = {
            np.shape(value)[0]
            for value, each in zip(values, self.inputs, strict=True)
            if None in each.shape
        }
        if len(sizes) > 1:
            raise ValueError(f"the inputs hold different numbers of examples: {sorted(sizes)}")
        return self._program.call(params, *values)

    def _fitting(self, each: Input, value: Any) -> Any:
        shape = np.shape(value)
        pairs = zip(shape, each.shape, strict=False)
        if len(shape) != len(each.shape) or any(b is not None and a != b for a, b in pairs):
            name = "x" if len(self.inputs) == 1 else f"input {spelled(each.key)}"
            why = f"; it was saved for {self.batch} examples, which depend on each other"
            raise ValueError(
                f"{name} has shape {shape} instead of ({_spelled_shape(each.shape)})"
                f"{why if self.batch is not None else ''}"
            )
        if jax.numpy.issubdtype(each.dtype, jax.dtypes.extended):
            return value
        return jax.numpy.asarray(value, each.dtype)


def _spelled_shape(shape: Sequence[int | None]) -> str:
    sizes = ["batch" if size is None else str(size) for size in shape]
    return ", ".join(sizes) + ("," if len(sizes) == 1 else "")


def save(
    path: str | os.PathLike[str],
    small: CompactNetwork,
    *inputs: Any,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a compact network to a folder from which `load` brings it back.

    What was written is read back and compared with the network before the call returns. The file
    takes any number of examples if the network treats them independently, else as many as `inputs`
    hold, see `stablehlo`. Prints and checks are left out.

    Args:
        path: Folder; it is made if missing, and files of an earlier model in it are replaced.
        small: The network, with the parameters to save.
        *inputs: A batch of inputs as the network takes them: arrays, or dicts, lists and tuples of
            arrays. Their values are tried, and random ones.
        metadata: Anything that JSON can hold.

    Raises:
        UserError: The folder has something else under the name ``arrays``, the network calls
            Python, or what was written computes something else.
        TypeError: `small` is not a compact network.
        OSError: The folder cannot be written.
    """
    if not isinstance(small, CompactNetwork):
        raise TypeError(
            f"small is of type {type(small).__name__}; give what jaxprune.prune or compact "
            "returned: save(path, small, x)"
        )
    read = examples.read(inputs)
    exported = _program(small, read)
    serialized = bytes(exported.serialize())
    own_size = _takes_own_size(exported)
    path = Path(path).expanduser().resolve()
    path.mkdir(parents=True, exist_ok=True)
    description = {
        "format": _FORMAT,
        "widths": dict(small.widths),
        "kept": {name: np.flatnonzero(mask).tolist() for name, mask in small.masks.items()},
        "inputs": [
            {
                "key": list(key),
                "shape": [None if d == 0 and each and not own_size else n for d, n in sizes],
                "dtype": str(leaf.dtype),
            }
            for (key, _), leaf, each, sizes in zip(
                leaves_by_key(inputs),
                read.leaves,
                read.batched,
                [list(enumerate(leaf.shape)) for leaf in read.leaves],
                strict=True,
            )
        ],
        "batch": read.batch if own_size else None,
        "program": {"crc32": zlib.crc32(serialized), "platforms": list(program.PLATFORMS)},
        "metadata": dict(metadata or {}),
    }
    checkpoint.save(path / _ARRAYS, small.params)
    (path / _PROGRAM).write_bytes(serialized)
    (path / _WIDTHS).write_text(json.dumps(description, indent=1) + "\n")
    back = load(path)
    if found := difference(back.params, plain(small.params)):
        raise UserError(f"the arrays in {path} are not those of the network: {found}")


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
        if description["format"] != _FIRST_FORMAT:
            check_format(what, description["format"], _FORMAT)
        serialized = (folder / _PROGRAM).read_bytes()
        if zlib.crc32(serialized) != description["program"]["crc32"]:
            raise ValueError(f"{_PROGRAM} is not what was written")
        return LoadedNetwork(
            params=checkpoint.load(folder / _ARRAYS),
            widths=description["widths"],
            kept={name: tuple(indices) for name, indices in description["kept"].items()},
            inputs=_inputs(description),
            batch=description.get("batch"),
            metadata=description["metadata"],
            _program=jax_export.deserialize(bytearray(serialized)),
        )


def _inputs(description: Mapping[str, Any]) -> tuple[Input, ...]:
    if description["format"] == _FIRST_FORMAT:
        only = description["input"]
        return (Input((0,), (None, *only["shape"]), np.dtype(only["dtype"])),)
    return tuple(
        Input(tuple(each["key"]), tuple(each["shape"]), _dtype(each["dtype"]))
        for each in description["inputs"]
    )


def _dtype(name: str) -> Any:
    keys = name.startswith("key<")
    return jax.eval_shape(lambda: jax.random.key(0)).dtype if keys else np.dtype(name)


def _program(small: CompactNetwork, inputs: examples.Inputs) -> jax_export.Exported:
    """The program of `(params, *leaves)`, whose params are the tree that `load` returns."""
    treedef: Any = jax.tree.structure(small.params)
    # The plain tree may have its leaves in another order: numbers tell which is which.
    order = jax.tree.leaves(plain(treedef.unflatten(range(treedef.num_leaves))))

    def plain_network(params: Any, *leaves: Any) -> Any:
        numbered = dict(zip(order, jax.tree.leaves(params), strict=True))
        given = treedef.unflatten([numbered[place] for place in range(len(order))])
        return small(given, *inputs.tree.unflatten(leaves))

    flat = inputs._replace(tree=jax.tree.structure(inputs.leaves))
    return program.checked(plain_network, (plain(small.params),), flat)


def _takes_own_size(exported: jax_export.Exported) -> bool:
    sizes = [size for aval in exported.in_avals for size in aval.shape]
    return all(isinstance(size, int) for size in sizes)
