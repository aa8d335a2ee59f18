"""Pretrained networks, made once and kept."""

import hashlib
import json
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxprune.errors import UserError
from jaxprune.files import checkpoint
from jaxprune.networks.bundled import Network
from jaxprune.scoring import devices
from jaxprune.training.data import Dataset, preprocess
from jaxprune.training.data.cache import cache_folder
from jaxprune.training.fitting import Progress
from jaxprune.training.loop import Loop, Variables
from jaxprune.training.recipes import Recipe

VERSION = 2
"""Raised whenever a change to the training code changes weights: all networks are made anew."""


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
) -> Variables:
    """A network fitted to the train split of a dataset, from the cache if it was made before.

    The cache knows a network by a hash of everything that made it: the model and the shapes of its
    variables, the pixels and labels of the train split, the recipe, the seed, and `VERSION`. A
    damaged entry is made again. An interrupted pretraining goes on after its last saved epoch, and
    ends with the same weights, bit for bit, as an uninterrupted one.

    Args:
        network: The network.
        dataset: Only its train split is used.
        recipe: How to fit.
        seed: Seed of the initial weights, and of the order and augmentation of the examples.
        cache_dir: See `data.cache.cache_folder`; networks are kept in its subfolder `pretrained`. A
            folder that cannot be written is done without.
        progress: As in `fit`; not called if the network comes from the cache.
        save_every: Seconds after which the end of an epoch is worth saving.
        mesh: As in `fit`. Several processes use the cache if all of them find the network there,
            and do not go on with interrupted pretraining.

    Returns:
        The variables.

    Raises:
        ValueError: If the train split is empty.
    """
    recipe = recipe.resolved()
    init_key, fit_key = jax.random.split(jax.random.key(seed))
    shapes = jax.eval_shape(network.init, init_key)
    entry = _entry(network, dataset, recipe, seed, shapes, cache_folder(cache_dir))
    finished, unfinished = entry / "variables", entry / "unfinished"

    variables = _load(finished, like=shapes)
    if devices.everywhere(variables is not None):
        return jax.tree.map(jnp.asarray, devices.as_first(variables))

    inputs = preprocess(dataset, network.flat)
    loop = Loop(network.apply_train, dataset.train, inputs, recipe, fit_key, mesh)
    state = loop.start(network.init(init_key))
    done = 0
    saved = _load(unfinished, like={"epochs": np.int32(0), "state": state})
    if saved is not None and not devices.several_processes():
        done = int(saved["epochs"])
        state = devices.replicate(jax.tree.map(jnp.asarray, saved["state"]), mesh)

    last_save = monotonic()
    for epoch in range(done, recipe.epochs):
        state, metrics = loop.epoch(epoch, state)
        if progress is not None:
            progress(epoch + 1, metrics.as_floats())
        if epoch + 1 < recipe.epochs and monotonic() - last_save >= save_every:
            _save(unfinished, {"epochs": np.int32(epoch + 1), "state": state})
            last_save = monotonic()
    variables = devices.gather(state.variables, mesh)
    _save(finished, variables)
    shutil.rmtree(unfinished, ignore_errors=True)
    return variables


def _entry(
    network: Network, dataset: Dataset, recipe: Recipe, seed: int, shapes: Any, cache: Path
) -> Path:
    """The folder of a network in the cache, named by the hash of what makes the network."""
    pixels = hashlib.sha256()
    for array in (*dataset.train, dataset.mean, dataset.std):
        pixels.update(f"{array.dtype} {array.shape}".encode())
        pixels.update(np.ascontiguousarray(array).data)
    origin = {
        "version": VERSION,
        "model": network.name,
        "variables": str(shapes),
        "dataset": dataset.name,
        "train": pixels.hexdigest(),
        "recipe": asdict(recipe),
        "seed": seed,
    }
    digest = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()
    return cache / "pretrained" / f"{network.name}-{dataset.name}-{digest[:16]}"


def _load(path: Path, like: Any) -> Any:
    """The checkpoint at `path`, or None if there is none that is whole and fits `like`."""
    try:
        tree = checkpoint.load(path, like=like)
    except (UserError, OSError):
        return None

    def kinds(tree: Any) -> list[tuple]:
        return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]

    return tree if kinds(tree) == kinds(like) else None


def _save(path: Path, tree: Any) -> None:
    """Writes a checkpoint, or nothing where the folder cannot be written."""
    with suppress(OSError):
        checkpoint.save(path, tree)
