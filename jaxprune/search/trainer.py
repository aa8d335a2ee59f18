"""Training while a search goes on: candidates for a few steps, or the network with the policy."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxprune import costs
from jaxprune.dependency import CompactNetwork, Structure, compact, masked
from jaxprune.networks.network import Network
from jaxprune.scoring import threads
from jaxprune.scoring.evaluation import Scores, classified, evaluate
from jaxprune.search.problem import Material, Trainer
from jaxprune.training.data import Split
from jaxprune.training.fitting import finetune_each, finetune_many, fit
from jaxprune.training.loop import Variables
from jaxprune.training.recipes import Recipe

COMPILING = 45_000_000_000
"""Multiply-adds of training in the time that one layer's share of a training step takes to be
compiled on a CPU."""

MASKS_PER_STEP = 4
"""Candidates that share the examples of one step of the network that is trained with the policy."""


def compiling_pays(structure: Structure, masks: Array, examples: int) -> bool:
    """Whether smaller networks are predicted to be trained sooner, their compilation included.

    On a CPU, if the work that is saved would take longer than compiling. A rule of counts alone, so
    that a run always goes one way.

    Args:
        structure: The network's structure.
        masks: The candidates, `[K, N]`.
        examples: How many each is trained on.
    """
    kept = map(structure.unflatten, np.asarray(masks))
    left = np.mean([costs.exact(structure, mask, "macs") for mask in kept])
    saved = 3 * examples * (costs.dense(structure, "macs") - left)
    return jax.default_backend() == "cpu" and bool(saved > COMPILING * len(structure.layers))


def make_trainer(
    network: Network,
    structure: Structure,
    variables: Variables,
    split: Split,
    preprocess: Callable[[Array], Array],
    *,
    finetune: Recipe,
    pretrain: Recipe,
    scored: Callable[[Variables, Array], Array],
    train: tuple[Array, Array],
    validation: tuple[Array, Array],
    held_out: Split | None = None,
    mesh: Mesh | None = None,
) -> Trainer:
    """What a search trains with.

    Every call trains by a recipe of its own length: its learning rate falls to zero within the
    steps that are asked for, and its momentum begins anew.

    Args:
        network: The network.
        structure: Its structure.
        variables: The dense weights, which fine-tuning starts from.
        split: The training split.
        preprocess: uint8 images to inputs of the network.
        finetune: How candidates are fine-tuned; its epochs do not matter.
        pretrain: How the network is trained from fresh weights; its epochs do not matter.
        scored: `scored(variables, x) -> logits`, what candidates are scored by.
        train: (x, y), the batch of the training split that is scored.
        validation: (x, y), the same of the validation split.
        held_out: The validation split, for methods that train on it; by default none may.
        mesh: The devices that examples and candidates are divided among; None: one.
    """
    masked_train = masked(network.apply_train, structure)
    masked_scored = masked(scored, structure)

    def finetune_candidates(
        masks: Array, steps: int, key: Array, *, few: bool = False
    ) -> tuple[Scores, Scores]:
        part, recipe = _excerpt(split, finetune, steps, key)
        examples = steps * min(recipe.batch_size, len(split.labels))
        if few and mesh is None and compiling_pays(structure, masks, examples):
            return finetune_smaller(masks, part, recipe, key)
        candidates = structure.unflatten(jnp.asarray(masks, jnp.float32))
        tuned = finetune_many(
            masked_train, variables, candidates, part, preprocess, recipe, key, mesh=mesh
        )
        return (
            _score_each(masked_scored, tuned, candidates, *train),
            _score_each(masked_scored, tuned, candidates, *validation),
        )

    def finetune_smaller(
        masks: Array, part: Split, recipe: Recipe, key: Array
    ) -> tuple[Scores, Scores]:
        def smaller(function: Callable[..., Any]) -> list[CompactNetwork]:
            kept = map(structure.unflatten, np.asarray(masks))
            return [compact(function, structure, variables, mask) for mask in kept]

        tuned = finetune_each(smaller(network.apply_train), part, preprocess, recipe, key)

        def both(pair: tuple[CompactNetwork, Variables]) -> tuple[Scores, Scores]:
            score = jax.jit(functools.partial(_score, pair[0]))
            return score(pair[1], *train), score(pair[1], *validation)

        found = threads.each(both, list(zip(smaller(scored), tuned, strict=True)))
        of_train, of_validation = zip(*found, strict=True)
        return _stacked(of_train), _stacked(of_validation)

    def train_shared(weights: Variables, masks: Array, steps: int, key: Array) -> Variables:
        choice_key, key = jax.random.split(key)
        count = min(MASKS_PER_STEP, len(masks))
        chosen = jax.random.choice(choice_key, jnp.asarray(masks, jnp.float32), (count,), False)
        part, recipe = _excerpt(split, pretrain, steps, key)
        whole = max(count, recipe.batch_size // count * count)
        function = jax.tree_util.Partial(_Shared(masked_train), structure.unflatten(chosen))
        whole_batches = replace(recipe, batch_size=whole)
        fitted, _ = fit(function, weights, part, preprocess, whole_batches, key, mesh=mesh)
        return fitted

    def on(x: Array, y: Array) -> Callable[[Any, Array], Scores]:
        return lambda weights, masks: evaluate(
            masked_scored, weights, structure.unflatten(masks.astype(jnp.float32)), x, y, mesh=mesh
        )

    def flat_train(variables: Variables, mask: Array, x: Array) -> tuple[Array, Variables]:
        return masked_train(variables, structure.unflatten(mask), x)

    material = None
    if held_out is not None:
        material = Material(
            function=flat_train,
            preprocess=preprocess,
            train=(split.images, split.labels),
            validation=(held_out.images, held_out.labels),
            recipe=pretrain,
            dense=variables,
        )
    return Trainer(
        finetune_candidates, network.init, train_shared, on(*train), on(*validation), material
    )


class _Shared:
    """One network under several masks at once, each on its part of the batch.

    The kernels are shared, so that the candidates fold into the batch; running statistics are the
    mean over the candidates. Equal for equal functions, so that it is compiled once.
    """

    def __init__(self, masked_train: Callable[..., tuple[Array, Variables]]) -> None:
        self.masked_train = masked_train

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Shared) and self.masked_train == other.masked_train

    def __hash__(self) -> int:
        return hash(self.masked_train)

    def __call__(
        self, masks: dict[str, Array], variables: Variables, x: Array
    ) -> tuple[Array, Variables]:
        count = len(next(iter(masks.values())))
        parts = x.reshape(count, len(x) // count, *x.shape[1:])
        logits, state = jax.vmap(self.masked_train, (None, 0, 0))(variables, masks, parts)
        means = jax.tree.map(lambda leaf: leaf.mean(0), state)
        return logits.reshape(len(x), -1), means


def _excerpt(split: Split, recipe: Recipe, steps: int, key: Array) -> tuple[Split, Recipe]:
    """Random examples of a split for about so many steps, and the recipe that takes them."""
    batch = min(recipe.batch_size, len(split.labels))
    wanted = steps * batch
    epochs = -(-wanted // len(split.labels))
    count = wanted // epochs
    index = np.asarray(jax.random.permutation(key, len(split.labels)))[:count]
    part = Split(np.asarray(split.images)[index], np.asarray(split.labels)[index])
    return part, replace(recipe, epochs=epochs, warmup=0.0)


def _score_each(
    masked_scored: Callable[..., Array],
    variables: Variables,
    masks: dict[str, Array],
    x: Array,
    y: Array,
) -> Scores:
    """The scores of K networks, each with weights and a mask of its own."""
    count = len(next(iter(masks.values())))

    def one(k: int) -> Scores:
        def part(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: leaf[k], tree)

        lone = {name: mask[k : k + 1] for name, mask in masks.items()}
        return evaluate(masked_scored, part(variables), lone, x, y)

    columns = zip(*(one(k) for k in range(count)), strict=True)
    return Scores(*(jnp.concatenate(list(column)) for column in columns))


def _score(apply: Callable[..., Array], variables: Variables, x: Array, y: Array) -> Scores:
    """The scores of one network, [] each."""
    return classified(apply(variables, x), y)


def _stacked(scores: Sequence[Scores]) -> Scores:
    """The scores of several networks, [K] each."""
    return Scores(*map(jnp.stack, zip(*scores, strict=True)))
