"""Training while a search goes on: candidates for a few steps, or the network with the policy."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxprune.data import Split
from jaxprune.dependency import Structure, masked
from jaxprune.evaluate import Scores, evaluate
from jaxprune.models import Network
from jaxprune.problem import Material, Trainer
from jaxprune.training.fitting import finetune_many, fit
from jaxprune.training.loop import Variables
from jaxprune.training.recipes import Recipe

MASKS_PER_STEP = 4
"""Candidates that share the examples of one step of the network that is trained with the policy."""


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

    def finetune_candidates(masks: Array, steps: int, key: Array) -> tuple[Scores, Scores]:
        part, recipe = _excerpt(split, finetune, steps, key)
        candidates = structure.unflatten(jnp.asarray(masks, jnp.float32))
        tuned = finetune_many(
            masked_train, variables, candidates, part, preprocess, recipe, key, mesh=mesh
        )
        return (
            _score_each(masked_scored, tuned, candidates, *train),
            _score_each(masked_scored, tuned, candidates, *validation),
        )

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
