"""The equations of a run's network, built again from what its folder says of it.

A folder of `jaxprune.save` holds a program that computes the network, in which nothing can be
changed any more. What writes the network in another language needs its equations. For the bundled
models they follow from the name of the model and the channels that were kept.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune.dependency import CompactNetwork, Structure, compact, trace
from jaxprune.errors import UserError
from jaxprune.networks import bundled
from jaxprune.networks.export.folder import LoadedNetwork, load

_NEEDED = ("model", "classes", "image_shape", "prune_inputs")
"""Entries of the metadata that say which network it is."""


class Rebuilt(NamedTuple):
    """A run's network, dense and compact.

    Attributes:
        loaded: The program and the parameters in the folder.
        network: The dense bundled model.
        structure: Its channels.
        small: The compact network, with the parameters in the folder.
    """

    loaded: LoadedNetwork
    network: bundled.Network
    structure: Structure
    small: CompactNetwork


def open_model(path: str | os.PathLike[str]) -> LoadedNetwork:
    """Reads the model of a run that has come to its end, or any other that `save` wrote.

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


def rebuild(path: str | os.PathLike[str]) -> Rebuilt:
    """Builds the network of a run again, and compares it with the program in the folder.

    Args:
        path: The folder of the run or of its model.

    Raises:
        UserError: As `open_model`; or the folder does not say which bundled model it is, or its
            network computes something else.
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
    try:
        network = bundled.build(about["model"], tuple(about["image_shape"]), about["classes"])
        shapes = jax.eval_shape(network.init, jax.random.PRNGKey(0))
        x = jax.ShapeDtypeStruct((1, *loaded.input_shape), loaded.input_dtype)
        structure = trace(network.apply, shapes, x, prune_inputs=about["prune_inputs"])
        masks = _masks(structure, loaded)
        small = compact(network.apply, structure, _placeholders(shapes), masks)
        small = dataclasses.replace(small, params=_in_the_tree_of(small.params, loaded.params))
        same = agree(small(small.params, example(loaded)), loaded(loaded.params, example(loaded)))
    except Exception as error:  # whatever a model brings up that gets another one's inputs
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise UserError(
            f"the model in {path} is not the {about['model']} that it says "
            f"({type(error).__name__}: {reason:.160})"
        ) from error
    if not same:
        raise UserError(
            f"the {network.name} of this version computes something else than the model in {path}: "
            "export it with the version of jaxprune that made it"
        )
    return Rebuilt(loaded, network, structure, small)


def example(loaded: LoadedNetwork) -> np.ndarray:
    """Two inputs of a network, standard normal, always the same."""
    values = np.random.default_rng(0).standard_normal((2, *loaded.input_shape))
    return values.astype(loaded.input_dtype)


def agree(outputs: Any, expected: Any) -> bool:
    """Whether two trees of outputs are the same but for rounding."""
    pairs = zip(jax.tree.leaves(outputs), jax.tree.leaves(expected), strict=True)
    return all(_close(np.asarray(output), np.asarray(wanted)) for output, wanted in pairs)


def _close(output: np.ndarray, wanted: np.ndarray) -> bool:
    scale = max(float(np.abs(wanted).max(initial=0)), 1.0)
    return output.shape == wanted.shape and np.allclose(output, wanted, 1e-3, 1e-4 * scale)


def _placeholders(shapes: Any) -> Any:
    """Parameters of the given shapes that take no memory."""
    return jax.tree.map(lambda leaf: np.broadcast_to(leaf.dtype.type(0), leaf.shape), shapes)


def _in_the_tree_of(model: Any, params: Any) -> Any:
    """Parameters that came back in plain dicts."""
    return jax.tree.unflatten(jax.tree.structure(model), jax.tree.leaves(params))


def _masks(structure: Structure, loaded: LoadedNetwork) -> dict[str, np.ndarray]:
    if set(loaded.kept) != {group.name for group in structure.groups}:
        raise ValueError(f"its groups are {', '.join(loaded.kept)}")
    masks = {}
    for group in structure.groups:
        masks[group.name] = np.zeros(group.size, np.uint8)
        masks[group.name][list(loaded.kept[group.name])] = 1
    return masks
