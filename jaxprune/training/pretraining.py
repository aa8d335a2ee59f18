"""Pretrained networks, made once, kept, and carried from machine to machine.

Each is one file, `<model>-<dataset>-<hash>.npz`, known by the hash of everything that made it. It
is looked for in the cache, then among those that come with the package
(`jaxprune/training/networks`): a file that is copied into either folder is found.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxprune.errors import UserError
from jaxprune.files import arrays
from jaxprune.files.functions import slug
from jaxprune.files.trees import leaves_by_key, spelled
from jaxprune.networks.network import Network
from jaxprune.scoring import devices
from jaxprune.training.data import Dataset, preprocess
from jaxprune.training.data.cache import cache_folder
from jaxprune.training.fitting import Progress, fit
from jaxprune.training.loop import Variables
from jaxprune.training.recipes import Recipe
from jaxprune.training.unfinished import Kept, kinds

VERSION = 4
"""Raised whenever weights change because the training code or a default of `Recipe` does: all
networks are made anew."""

SHIPPED = Path(__file__).parent / "networks"
"""The networks that come with the package."""


class Origin(NamedTuple):
    """What makes a network.

    Attributes:
        name: What its file is called.
        facts: What the name is a hash of, and a reader wants to know.
    """

    name: str
    facts: dict[str, Any]


def pretrained(
    network: Network,
    dataset: Dataset,
    recipe: Recipe,
    seed: int,
    cache_dir: str | Path | None = None,
    *,
    progress: Progress | None = None,
    save_every: float = 10.0,
    mesh: Mesh | None = None,
    unfinished: Path | None = None,
) -> Variables:
    """A network fitted to the train split of a dataset, from the cache if it was made before.

    A network is known by a hash of everything that made it: the model and the shapes of its
    variables (and what it computes, where it is the user's own), the pixels and labels of the train
    split, the recipe, the seed, and `VERSION`; not by the device, and with the precision "auto" not
    by what this stood for. A damaged file is made again. An interrupted pretraining goes on from
    its last saved position, and ends with the same weights, bit for bit, as an uninterrupted one.

    Args:
        network: The network.
        dataset: Only its train split is used.
        recipe: How to fit.
        seed: Seed of the initial weights, and of the order and augmentation of the examples.
        cache_dir: See `data.cache.cache_folder`; networks are kept in its subfolder `pretrained`. A
            folder that cannot be written is done without.
        progress: As in `fit`; not called if the network was made before.
        save_every: Seconds after which a position is worth saving.
        mesh: As in `fit`. Several processes use a network that was made before if all of them find
            it, and do not go on with interrupted pretraining.
        unfinished: The file of the position; by default one in the cache.

    Returns:
        The variables.

    Raises:
        ValueError: If the train split is empty.
    """
    folder = networks_folder(cache_dir)
    init_key, fit_key = jax.random.split(jax.random.key(seed))
    shapes = jax.eval_shape(network.init, init_key)
    name, facts = origin(network, dataset, recipe, seed)
    found = _read(folder / name, shapes)
    if found is None:
        found = _read(SHIPPED / name, shapes)
    if devices.everywhere(found is not None):
        return jax.tree.map(jnp.asarray, devices.as_first(found))

    keep = Kept(unfinished or unfinished_file(folder / name), save_every)
    variables, _ = fit(
        network.apply_train,
        network.init(init_key),
        dataset.train,
        preprocess(dataset, network.flat),
        recipe,
        fit_key,
        progress=progress,
        mesh=mesh,
        keep=keep,
    )
    with suppress(OSError):
        arrays.save(folder / name, variables, facts)
    keep.remove()
    return variables


def networks_folder(cache_dir: str | Path | None = None) -> Path:
    """The folder of pretrained networks in a cache; see `data.cache.cache_folder`."""
    return cache_folder(cache_dir) / "pretrained"


def unfinished_file(file: Path) -> Path:
    """Where training keeps its position until it writes a network's file."""
    return file.with_suffix(".unfinished.npz")


def origin(network: Network, dataset: Dataset, recipe: Recipe, seed: int) -> Origin:
    """What makes a network, and the name of its file."""
    pixels = hashlib.sha256()
    for array in (*dataset.train, dataset.mean, dataset.std):
        pixels.update(f"{array.dtype} {array.shape}".encode())
        pixels.update(np.ascontiguousarray(array).data)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    facts = {
        "version": VERSION,
        "model": network.name,
        "variables": {
            spelled(key): [str(leaf.dtype), *leaf.shape] for key, leaf in leaves_by_key(shapes)
        },
        "dataset": dataset.name,
        "train": pixels.hexdigest(),
        "recipe": _telling(recipe),
        "seed": seed,
    }
    if network.content:
        facts["content"] = network.content
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    del facts["variables"]  # the file has them
    task = f"{slug(network.name)}-{slug(dataset.name)}"
    return Origin(f"{task}-{digest[:16]}.npz", facts)


def _telling(recipe: Recipe) -> dict[str, Any]:
    """The fields that are not at their defaults: a new field changes no older network's name."""
    defaults = {field.name: field.default for field in fields(Recipe)}
    return {name: value for name, value in asdict(recipe).items() if value != defaults[name]}


def halve(variables: Variables) -> Variables:
    """The variables in half the bytes: kernels as float16, while vectors, which are few, stay."""

    def narrow(leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        return array.astype(np.float16) if array.ndim > 1 else array

    with np.errstate(over="ignore"):  # whoever writes the result looks for what became infinite
        return jax.tree.map(narrow, variables)


def widen(variables: Variables, like: Variables) -> Variables:
    """The inverse of `halve`, as far as there is one: float16 as the types of `like`."""

    def wide(leaf: np.ndarray, wanted: Any) -> np.ndarray:
        return leaf.astype(wanted.dtype) if leaf.dtype == np.float16 else leaf

    return jax.tree.map(wide, variables, like)


def write(path: Path, variables: Variables, about: Mapping[str, Any]) -> None:
    """Writes a network that is to travel, in half precision.

    Raises:
        UserError: A weight is too large for float16.
        OSError: The file cannot be written.
    """
    half = halve(variables)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(half)):
        raise UserError("a weight of the network is not finite in half precision: nothing written")
    arrays.save(path, half, about)


def _read(path: Path, like: Any) -> Variables | None:
    """The network in a file, or None if there is none that is whole and fits `like`."""
    try:
        tree = arrays.load(path, like)
    except UserError:
        return None

    tree = widen(tree, like)
    return tree if kinds(tree) == kinds(like) else None
