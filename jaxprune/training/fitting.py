"""Fits the weights of one network, or of one network under each of many masks."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxprune.dependency import CompactNetwork
from jaxprune.scoring import devices, threads
from jaxprune.training.data import Split
from jaxprune.training.loop import Begun, Loop, Metrics, TrainState, Variables
from jaxprune.training.recipes import Recipe
from jaxprune.training.unfinished import Kept, Position

Progress = Callable[[int, dict[str, float]], None]
"""Called with the number of epochs done and `{"loss": ..., "accuracy": ...}` of the last one."""


class History(NamedTuple):
    """How fitting went, measured on the training batches as the weights moved.

    Attributes:
        loss: float32 `[epochs]`, mean cross-entropy of each epoch, with label smoothing.
        accuracy: float32 `[epochs]`, share of examples classified correctly.
    """

    loss: np.ndarray
    accuracy: np.ndarray


def fit(
    apply_train: Callable[[Variables, Array], tuple[Array, Variables]],
    variables: Variables,
    split: Split,
    preprocess: Callable[[Array], Array],
    recipe: Recipe,
    key: Array,
    *,
    progress: Progress | None = None,
    mesh: Mesh | None = None,
    teacher: Callable[[Array], Array] | None = None,
    keep: Kept | None = None,
) -> tuple[Variables, History]:
    """Fits the weights of a network to a split.

    Equal functions and equal shapes are compiled once a process. A function that closes over
    arrays, such as masks, is another one each time: give it as
    `jax.tree_util.Partial(function, ...)` with the arrays bound, and they are passed instead.

    Args:
        apply_train: `apply_train(variables, x) -> (logits [B, classes], state)`, where `state` has
            the updated collections of `variables` other than `"params"`.
        variables: Where to start; left untouched.
        split: The examples; kept on the device as uint8.
        preprocess: Maps uint8 `[B, H, W, C]` to what the network takes.
        recipe: How to fit.
        key: A PRNG key: the order of the examples and their augmentation. The same key gives the
            same weights, bit for bit, on the same device.
        progress: Called after each epoch. Without it the host never waits for the device.
        mesh: The devices that the examples of each step are divided among
            (`devices.make_mesh`); None: one. The result is the same up to the order of sums.
        teacher: `teacher(x) -> logits [B, classes]`, what `recipe.distill` asks the network to
            agree with on every batch, such as `Partial(network.apply, dense)`. Not asked where
            `recipe.distill` is 0.
        keep: Where the position is kept while training lasts. Training that finds one there goes
            on from it and ends with the same weights, bit for bit, on the same device. Several
            processes do without.

    Returns:
        The fitted variables and the history.

    Raises:
        ValueError: If the split is empty, or `recipe.distill` is above 0 without a teacher.
    """
    loop = Loop(apply_train, split, preprocess, recipe, key, mesh, teacher)
    if devices.several_processes():
        keep = None
    position = Position(0, None, loop.start(variables))
    if keep is not None and (found := keep.load(position.state)) is not None:
        position = found._replace(state=devices.replicate(found.state, mesh))
    first, begun, state, _ = position
    history = list(position.history)

    for epoch in range(first, recipe.epochs):

        def after_step(step: int, state: TrainState, part: Metrics, epoch: int = epoch) -> None:
            if keep is not None and keep.due(part):
                keep.save(Position(epoch, Begun(step, part), state, tuple(history)))

        state, metrics = loop.epoch(epoch, state, begun=begun, after_step=after_step)
        begun = None
        history.append(metrics)
        if progress is not None:
            progress(epoch + 1, metrics.as_floats())
        if keep is not None and keep.due(metrics):
            keep.save(Position(epoch + 1, None, state, tuple(history)))
    columns = np.asarray(jax.device_get(history), np.float32).reshape(-1, 2)
    return devices.gather(state.fitted, mesh), History(*columns.T)


def finetune(
    apply_train: Callable[[Variables, Array], tuple[Array, Variables]],
    variables: Variables,
    split: Split,
    preprocess: Callable[[Array], Array],
    recipe: Recipe,
    key: Array,
    *,
    progress: Progress | None = None,
    mesh: Mesh | None = None,
    teacher: Callable[[Array], Array] | None = None,
    keep: Kept | None = None,
) -> tuple[Variables, History]:
    """Goes on fitting a network whose weights were fitted before, such as a pruned one.

    This is `fit`; what differs is the recipe, usually
    `default_recipe(model, dataset, phase="finetune")`. See `fit` for arguments, result and errors.
    """
    return fit(
        *(apply_train, variables, split, preprocess, recipe, key),
        progress=progress,
        mesh=mesh,
        teacher=teacher,
        keep=keep,
    )


def finetune_each(
    networks: Sequence[CompactNetwork],
    split: Split,
    preprocess: Callable[[Array], Array],
    recipe: Recipe,
    key: Array,
) -> list[Variables]:
    """Fine-tunes several smaller networks, each from its own `params`, on the same batches.

    Each is compiled for its own widths, which takes a while and then costs what is left of it; on a
    CPU as many as there are cores are compiled and trained at once.

    Args:
        networks: What `compact` makes of a function that gives `(logits, state)`, as in `fit`.
        split: The examples.
        preprocess: Maps uint8 `[B, H, W, C]` to what the networks take.
        recipe: How to fit.
        key: A PRNG key, the same for all networks.

    Returns:
        The fitted variables of each, those that `finetune` would give.
    """

    def one(network: CompactNetwork) -> Variables:
        fitted, _ = finetune(network, network.params, split, preprocess, recipe, key)
        return jax.block_until_ready(fitted)

    if jax.default_backend() != "cpu":
        return [one(network) for network in networks]
    return threads.each(one, networks)


def finetune_many(
    masked_train: Callable[[Variables, dict[str, Array], Array], tuple[Array, Variables]],
    variables: Variables,
    masks: dict[str, Array],
    split: Split,
    preprocess: Callable[[Array], Array],
    recipe: Recipe,
    key: Array,
    *,
    at_once: int | None = None,
    mesh: Mesh | None = None,
) -> Variables:
    """Fine-tunes a network under each of K masks, from the same weights and on the same batches.

    Candidate k ends where `finetune` of it alone would, up to float summation order.

    Args:
        masked_train: `masked_train(variables, masks, x) -> (logits, state)` for one mask.
        variables: The weights that all candidates start from; left untouched.
        masks: For each group, the masks `[K, size]`.
        split: The examples.
        preprocess: Maps uint8 `[B, H, W, C]` to what the network takes.
        recipe: How to fit.
        key: A PRNG key, the same for all candidates.
        at_once: How many candidates to train together under `vmap`. None: all of them on a GPU or
            TPU, one on a CPU, where kernels of their own for each candidate become slow grouped
            convolutions.
        mesh: As in `fit`.

    Returns:
        Variables whose leaves have a leading axis K.

    Raises:
        ValueError: If there is no mask, the numbers of masks differ, or `at_once` is below 1.
    """
    counts = {len(mask) for mask in masks.values()}
    if len(counts) != 1 or counts == {0}:
        raise ValueError(f"each group needs the same number of masks, 1 or more; got {counts}")
    (count,) = counts
    if at_once is None:
        at_once = 1 if jax.default_backend() == "cpu" else count
    if at_once < 1:
        raise ValueError(f"at_once is {at_once}, but must be 1 or more")
    loop = Loop(masked_train, split, preprocess, recipe, key, mesh)

    def train(part: dict[str, Array]) -> Variables:
        """Trains the candidates of `masks [k, size]`."""
        number = len(next(iter(part.values())))
        batched = number > 1  # one candidate is spared the slower kernels of vmap
        state = loop.start(variables)
        if batched:
            state = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], number, axis=0), state)
            state = devices.replicate(state, mesh)
        else:
            part = jax.tree.map(lambda leaf: leaf[0], part)
        for epoch in range(recipe.epochs):
            state, _ = loop.epoch(epoch, state, (part,), batched=batched)
        trained = devices.gather(state.fitted, mesh)
        return trained if batched else jax.tree.map(lambda leaf: leaf[None], trained)

    parts = [
        train({name: jnp.asarray(mask[first : first + at_once]) for name, mask in masks.items()})
        for first in range(0, count, at_once)
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
