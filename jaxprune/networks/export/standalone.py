"""A run's network as a Flax Linen module in a file of its own, which needs Flax alone.

The file holds the source of the bundled model's module, the features that each layer has left, and
functions that bring the two together. It is meant to be read, copied and changed.
"""

import ast
import importlib.util
import inspect
import json
import sys
import tempfile
from pathlib import Path
from pprint import pformat
from typing import Any

import jax
import numpy as np
from flax import serialization

from jaxprune.errors import UserError
from jaxprune.networks.agreement import difference
from jaxprune.networks.export.rebuild import Rebuilt, example
from jaxprune.networks.narrow import fitted, linen_attributes
from jaxprune.version import __version__

SOURCE = "network.py"
VARIABLES = "variables.msgpack"
FILES = (SOURCE, VARIABLES)
"""What `linen` writes."""

_IMPORTS = (
    "from pathlib import Path",
    "from typing import Any",
    "import jax",
    "import jax.numpy as jnp",
    "from flax import linen as nn",
    "from flax import serialization",
)

_DOCSTRING = '''\
"""{name} for {dataset}, pruned: a Flax Linen network that needs flax alone.

    import network

    variables = network.load()
    logits = network.apply(variables, network.preprocess(images))

The module below is the dense one; `apply` and `init` build each layer with the features that
FEATURES gives it. Written by jaxprune {version} (Apache-2.0), which the module was copied from.
"""
'''

_FUNCTIONS = '''\
MODULE = {module}
"""The network before pruning."""

FEATURES: dict[str, int] = {features}
"""{{layer: its features after pruning}}."""

INPUT_SHAPE: tuple[int, ...] = {input_shape}
"""Shape of one input, without the batch axis."""

KEPT_INPUTS: list[int] | None = {kept_inputs}
"""The entries of an input's last axis that the network reads; None for all."""

MEAN, STD = {mean}, {std}
"""Of each channel of the training images, after division by {scale:g}."""


def preprocess(images: Any) -> jax.Array:
    """Turns images into inputs of the network.

    Args:
        images: {pixels} `[B, {image_shape}]`.

    Returns:
        float32 `[B, *INPUT_SHAPE]`.
    """
    x = (jnp.asarray(images, jnp.float32) / {scale:g} - jnp.array(MEAN)) / jnp.array(STD)
    return x.reshape((x.shape[0], *INPUT_SHAPE))


def load(path: Path | str = Path(__file__).with_name("{variables}")) -> dict[str, Any]:
    """The variables of the pruned network: {collections}."""
    return serialization.msgpack_restore(Path(path).read_bytes())


def init(key: jax.Array) -> dict[str, Any]:
    """New variables of the same shapes.

    Args:
        key: A PRNG key.
    """
    with nn.intercept_methods(_at_its_size):
        return dict(MODULE.init(key, _read(jnp.zeros((1, *INPUT_SHAPE)))))


def apply(variables: dict[str, Any], x: jax.Array, train: bool = False, **options: Any) -> Any:
    """Logits `[B, {classes}]`.

    Args:
        variables: What `load` or `init` returned.
        x: float32 `[B, *INPUT_SHAPE]`, as `preprocess` returns it.
        train: Whether BatchNorm normalises by the batch's statistics.
        **options: For `flax.linen.Module.apply`. A network with BatchNorm is trained with
            `mutable=["batch_stats"]`, and then returns (logits, new statistics).
    """
    with nn.intercept_methods(_at_its_size):
        return MODULE.apply(variables, _read(x), train=train, **options)


def _read(x: jax.Array) -> jax.Array:
    return x if KEPT_INPUTS is None else x[..., jnp.array(KEPT_INPUTS)]


def _at_its_size(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Sets a layer's features before it computes; Flax makes layers anew for each call."""
    layer = "/".join(context.module.path)
    if layer in FEATURES:
        object.__setattr__(context.module, "features", FEATURES[layer])
    return method(*args, **kwargs)
'''


def linen(path: Path, rebuilt: Rebuilt) -> None:
    """Writes a network as ``network.py`` and ``variables.msgpack``.

    The written files are loaded and compared with the network before they take their place.

    Args:
        path: The folder; it is made if missing, and files of these names in it are replaced.
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
    loaded, network, structure, small = rebuilt
    about = loaded.metadata
    kept_inputs = None
    for group in structure.groups:
        if group.name.startswith("input") and len(loaded.kept[group.name]) < group.size:
            kept_inputs = list(loaded.kept[group.name])
    x = example(loaded) if kept_inputs is None else example(loaded)[..., kept_inputs]
    narrow, fields, _ = fitted(network.module, small.params)
    jax.eval_shape(narrow.apply, small.params, x)
    scale = about["inputs"].get("scale", 255)  # older runs knew uint8 images alone
    features = {"/".join(path): of["features"] for path, of in fields.items() if of}
    arguments = (f"{name}={value!r}" for name, value in linen_attributes(network.module).items())
    functions = _FUNCTIONS.format(
        module=f"{type(network.module).__name__}({', '.join(arguments)})",
        features=json.dumps(features, indent=4).replace("\n}", ",\n}"),
        input_shape=loaded.input_shape,
        kept_inputs=pformat(kept_inputs, width=100, compact=True),
        mean=about["inputs"]["mean"],
        std=about["inputs"]["std"],
        image_shape=", ".join(map(str, about["image_shape"])),
        variables=VARIABLES,
        collections=" and ".join(f'"{name}"' for name in small.params),
        classes=about["classes"],
        scale=scale,
        pixels="uint8" if scale == 255 else "floats",
    )
    docstring = _DOCSTRING.format(
        name=network.name, dataset=about.get("dataset"), version=__version__
    )
    imports, module = _split(inspect.getsource(sys.modules[type(network.module).__module__]))
    return "\n\n\n".join([f"{docstring}\n{imports}", module, functions])


def _check(folder: Path, rebuilt: Rebuilt) -> None:
    spec: Any = importlib.util.spec_from_file_location("network", folder / SOURCE)
    written = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(written)
    loaded, x = rebuilt.loaded, example(rebuilt.loaded)
    found = difference(written.apply(written.load(), x), loaded(loaded.params, x))
    if found:
        raise UserError(
            f"the Flax module of {rebuilt.network.name} computes something else than the model "
            f"({found}): a bug of jaxprune, please report it"
        )


def _split(text: str) -> tuple[str, str]:
    """The imports of a source beside `_IMPORTS`, in order, and its text below them."""
    nodes = [node for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]
    lines = {*_IMPORTS, *map(ast.unparse, nodes)}
    ordered = sorted(lines, key=lambda line: (line.startswith("from"), line))
    others = [line for line in ordered if line.split()[1].split(".")[0] in ("jax", "flax")]
    standard = [line for line in ordered if line not in others]
    below = text.splitlines()[nodes[-1].end_lineno :]
    return "\n".join([*standard, "", *others]), "\n".join(below).strip()
