"""A run's network as a Flax Linen module in a file of its own, which needs flax alone.

The file holds the source of the bundled model's module, the number of features that is left of each
layer, and functions that bring the two together. It is meant to be read, copied and changed.
"""

import ast
import dataclasses
import importlib.util
import inspect
import json
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import serialization

from jaxprune.errors import UserError
from jaxprune.networks.export.rebuild import Rebuilt, agree, example
from jaxprune.version import __version__

SOURCE = "network.py"
VARIABLES = "variables.msgpack"
FILES = (SOURCE, VARIABLES)
"""What `linen` writes."""

_IMPORTS = """\
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import serialization
"""

_DOCSTRING = '''\
"""{name} for {dataset}, pruned: a Flax Linen network that needs flax alone.

    import network

    variables = network.load()
    logits = network.apply(variables, network.preprocess(images))

The module below is the whole one; FEATURES says what is left of its layers, and `apply` and `init`
build each layer at that size. Written by jaxprune {version} (Apache-2.0), from which the module is.
"""
'''

_FUNCTIONS = '''\
MODULE = {module}
"""The network as it was before pruning."""

FEATURES: dict[str, int] = {features}
"""{{layer: its features}} that are left."""

INPUT_SHAPE: tuple[int, ...] = {input_shape}
"""Shape of one input, without the batch axis."""

KEPT_INPUTS: list[int] | None = {kept_inputs}
"""Entries of an input's last axis that are read; None: all."""

MEAN, STD = {mean}, {std}
"""Of each channel of the training images, on the scale 0..1."""


def preprocess(images: Any) -> jax.Array:
    """Images as the network takes them.

    Args:
        images: uint8 `[B, {image_shape}]`.

    Returns:
        float32 `[B, *INPUT_SHAPE]`.
    """
    x = (jnp.asarray(images, jnp.float32) / 255 - jnp.array(MEAN)) / jnp.array(STD)
    return x.reshape((x.shape[0], *INPUT_SHAPE))


def load(path: Path | str = Path(__file__).with_name("{variables}")) -> dict[str, Any]:
    """The variables of the pruned network: {collections}."""
    return serialization.msgpack_restore(Path(path).read_bytes())


def init(key: jax.Array) -> dict[str, Any]:
    """Fresh variables of the same shapes.

    Args:
        key: A PRNG key.
    """
    with nn.intercept_methods(_at_its_size):
        return dict(MODULE.init(key, _read(jnp.zeros((1, *INPUT_SHAPE)))))


def apply(variables: dict[str, Any], x: jax.Array, train: bool = False, **options: Any) -> Any:
    """Logits `[B, {classes}]`.

    Args:
        variables: As `load` and `init` give them.
        x: float32 `[B, *INPUT_SHAPE]`, as `preprocess` gives them.
        train: Whether BatchNorm normalises by the batch.
        **options: For `flax.linen.Module.apply`; where there is BatchNorm, training takes
            `mutable=["batch_stats"]` and gives (logits, new statistics).
    """
    with nn.intercept_methods(_at_its_size):
        return MODULE.apply(variables, _read(x), train=train, **options)


def _read(x: jax.Array) -> jax.Array:
    return x if KEPT_INPUTS is None else x[..., jnp.array(KEPT_INPUTS)]


def _at_its_size(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Sets the features of a layer before it computes: Flax makes layers anew for each call."""
    layer = "/".join(context.module.path)
    if layer in FEATURES:
        object.__setattr__(context.module, "features", FEATURES[layer])
    return method(*args, **kwargs)
'''


def linen(path: Path, rebuilt: Rebuilt) -> None:
    """Writes a network as ``network.py`` and ``variables.msgpack``.

    The written files are loaded again and compared with the network before they take their place.

    Args:
        path: The folder; it is made if there is none, and files of these names are replaced.
        rebuilt: The network.

    Raises:
        UserError: The written network computes something else than the compact one.
        OSError: The folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        fresh = Path(folder)
        (fresh / SOURCE).write_text(source(rebuilt))
        variables = jax.tree.map(np.asarray, rebuilt.small.params)
        (fresh / VARIABLES).write_bytes(serialization.msgpack_serialize(variables))
        _check(fresh, rebuilt)
        path.mkdir(exist_ok=True)
        for name in FILES:
            (fresh / name).replace(path / name)


def source(rebuilt: Rebuilt) -> str:
    """The content of ``network.py``."""
    loaded, network, _, small = rebuilt
    about = loaded.metadata
    module: Any = inspect.getmodule(type(network.module))
    imports, body = _split(inspect.getsource(module))
    functions = _FUNCTIONS.format(
        module=_constructor(network.module),
        features=_table(dict(_features(small.params["params"]))),
        input_shape=loaded.input_shape,
        kept_inputs=_numbers(_kept_inputs(rebuilt)),
        mean=about["inputs"]["mean"],
        std=about["inputs"]["std"],
        image_shape=", ".join(map(str, about["image_shape"])),
        variables=VARIABLES,
        collections=" and ".join(f'"{name}"' for name in small.params),
        classes=about["classes"],
    )
    docstring = _DOCSTRING.format(
        name=network.name, dataset=about.get("dataset"), version=__version__
    )
    body = body.strip()
    gap = ["", ""] if body.startswith(("class", "def")) else [""]
    return "\n".join([docstring, _merged(_IMPORTS, imports), *gap, body, "", "", functions])


def _check(folder: Path, rebuilt: Rebuilt) -> None:
    spec = importlib.util.spec_from_file_location("network", folder / SOURCE)
    assert spec is not None
    assert spec.loader is not None
    written = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(written)
    x = example(rebuilt.loaded)
    if not agree(written.apply(written.load(), x), rebuilt.loaded(rebuilt.loaded.params, x)):
        raise UserError(
            f"the Flax module of {rebuilt.network.name} computes something else than the model: "
            "a bug of jaxprune, please report it"
        )


def _features(params: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, int]]:
    """(path, features) of each layer with a kernel; normalisations follow their inputs."""
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _features(value, (*path, name))
        elif name == "kernel":
            yield "/".join(path), int(np.shape(value)[-1])


def _kept_inputs(rebuilt: Rebuilt) -> list[int] | None:
    """What is left of the inputs' last axis, if something was removed."""
    for group in rebuilt.structure.groups:
        kept = rebuilt.loaded.kept[group.name]
        if group.name.startswith("input") and len(kept) < group.size:
            return list(kept)
    return None


def _constructor(module: nn.Module) -> str:
    """What to type for an unbound module."""
    values = (
        f"{field.name}={getattr(module, field.name)!r}"
        for field in dataclasses.fields(module)  # type: ignore[arg-type]
        if field.init and field.name not in ("parent", "name")
    )
    return f"{type(module).__name__}({', '.join(values)})"


def _table(features: Mapping[str, int]) -> str:
    """A dict as it is typed, an entry a line."""
    return json.dumps(features, indent=4).replace("\n}", ",\n}")


def _numbers(numbers: list[int] | None) -> str:
    """A list as it is typed."""
    if numbers is None:
        return "None"
    lines = textwrap.fill(
        f"{', '.join(map(str, numbers))},", 100, initial_indent="    ", subsequent_indent="    "
    )
    return f"[\n{lines}\n]"


def _split(text: str) -> tuple[str, str]:
    """The imports of a file, and what follows them; its docstring is left out."""
    nodes = ast.parse(text).body
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    after = max(node.end_lineno or 0 for node in imports)
    return "\n".join(map(ast.unparse, imports)), "\n".join(text.splitlines()[after:])


def _merged(*texts: str) -> str:
    """Import statements, those of the standard library first."""
    unsorted = {line for text in texts for line in text.splitlines() if line}
    lines = sorted(unsorted, key=lambda line: (line.startswith("from"), line))
    others = [line for line in lines if line.split()[1].split(".")[0] in ("jax", "flax")]
    own = [line for line in lines if line not in others]
    return "\n".join([*own, "", *others])
