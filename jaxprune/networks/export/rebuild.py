"""A run's network rebuilt from its folder, for exporting it to other formats.

What `jaxprune.save` writes contains a compiled program, whose equations can no longer be changed or
translated. For a bundled model they follow from its name and the channels that were kept; for a
model of the user's own, from the function that the user names again.
"""

import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxprune.dependency import CompactNetwork, Structure, compact, trace
from jaxprune.errors import UserError, first_line
from jaxprune.files import functions
from jaxprune.networks import bundled, own
from jaxprune.networks.agreement import difference
from jaxprune.networks.export.folder import LoadedNetwork, load
from jaxprune.networks.network import Network

_NEEDED = ("model", "classes", "image_shape", "prune_inputs")
"""Entries of the metadata that say which network it is."""


class Rebuilt(NamedTuple):
    """A run's network, dense and compact.

    Attributes:
        loaded: The program and the parameters from the folder.
        network: The dense model.
        structure: Its channels.
        small: The compact network, with the parameters from the folder.
    """

    loaded: LoadedNetwork
    network: Network
    structure: Structure
    small: CompactNetwork


def open_model(path: str | os.PathLike[str]) -> LoadedNetwork:
    """Reads the model of a finished run, or any other that `save` wrote.

    Args:
        path: The folder of the run or of the model.

    Raises:
        UserError: There is no model, it is damaged, or the run is not finished.
    """
    path = Path(path).expanduser()
    run = path.parent if path.resolve().name == "model" else path
    if (run / "config.json").is_file() and not (run / "result.json").is_file():
        raise UserError(
            f"the run in {run} is not finished: python -m jaxprune.run --resume --out {run}"
        )
    return load(path)


def rebuild(path: str | os.PathLike[str], model: str | None = None) -> Rebuilt:
    """Rebuilds the network of a run and compares it with the program in the folder.

    Args:
        path: The folder of the run or of its model.
        model: "module:function", for a network of the user's own: as the user typed it, since the
            module is imported. What the folder says is never imported.

    Raises:
        UserError: As `open_model`; or the folder does not say which model it is, or it is another
            than `model`, or its network computes something else.
    """
    loaded = open_model(path)
    about = loaded.metadata
    missing = [name for name in _NEEDED if name not in about]
    if missing:
        raise UserError(
            f"the model in {path} does not say how it was built ({', '.join(missing)} missing in "
            "its metadata): it is a network of your own, or of an older version. It can be "
            "exported to stablehlo; for anything else see jaxprune.networks.export.onnx and "
            "jaxprune.linen_module, which take what jaxprune.prune returned"
        )
    named = str(about["model"])
    if functions.is_own(named) and model is None:
        raise UserError(
            f"the model in {path} is made by {named}, a function of your own, which is imported "
            f"only if you type its name: add --model {named}"
        )
    if model not in (None, named):
        raise UserError(f"--model is {model}, the model in {path} is {named}: leave the option out")
    build = own.build if functions.is_own(named) else bundled.build
    try:
        network = build(named, tuple(about["image_shape"]), about["classes"])
        shapes = jax.eval_shape(network.init, jax.random.PRNGKey(0))
        x = jax.ShapeDtypeStruct((1, *loaded.input_shape), loaded.input_dtype)
        structure = trace(network.apply, shapes, x, prune_inputs=about["prune_inputs"])
        if set(loaded.kept) != {group.name for group in structure.groups}:
            raise ValueError(f"its groups are {', '.join(loaded.kept)}")
        masks = {
            group.name: np.isin(np.arange(group.size), loaded.kept[group.name]).astype(np.uint8)
            for group in structure.groups
        }
        # Views of one number take no memory.
        dense = jax.tree.map(lambda leaf: np.broadcast_to(leaf.dtype.type(0), leaf.shape), shapes)
        small = compact(network.apply, structure, dense, masks)
        tree = jax.tree.structure(small.params)  # a folder gives back plain dicts
        params = jax.tree.unflatten(tree, jax.tree.leaves(loaded.params))
        small = dataclasses.replace(small, params=params)
        found = difference(small(params, example(loaded)), loaded(loaded.params, example(loaded)))
    except Exception as error:  # running a model with another one's inputs may raise anything
        raise UserError(
            f"the model in {path} is not the {about['model']} that it says "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error
    if found:
        raise UserError(
            f"the {network.name} of this version computes something else than the model in {path} "
            f"({found}): use the version of jaxprune, or of your function, that made it"
        )
    return Rebuilt(loaded, network, structure, small)


def example(loaded: LoadedNetwork) -> np.ndarray:
    """Two inputs of a network, standard normal, always the same."""
    values = np.random.default_rng(0).standard_normal((2, *loaded.input_shape))
    return values.astype(loaded.input_dtype)
