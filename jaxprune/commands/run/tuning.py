"""Fine-tuning of a run's networks, each kept when it is done."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxprune import training
from jaxprune.commands.run.display import Display
from jaxprune.commands.run.job import Job
from jaxprune.dependency import CompactNetwork, compact
from jaxprune.files.run_folder import RunFolder


def finetune(
    job: Job,
    weights: dict[str, Any],
    networks: dict[str, CompactNetwork],
    dense: Any,
    folder: RunFolder,
    display: Display,
) -> dict[str, Any]:
    """The fine-tuned parameters of each network, all by the same recipe and from the same key.

    Where the run asks for it, the dense network is the teacher of all of them.
    """
    recipe = dataclasses.replace(
        job.recipe("finetune"),
        distill=job.config.distill,
        temperature=job.config.distill_temperature,
    )
    teacher = jax.tree_util.Partial(job.network.apply, dense)
    display.begin("fine-tune", recipe.epochs * len(networks))
    trained: dict[str, Any] = {}
    for number, (name, small) in enumerate(networks.items()):
        if folder.has(f"finetuned_{name}"):
            trained[name] = folder.load(f"finetuned_{name}", like=small.params)
            continue
        position = training.Kept(folder.position(f"finetuning_{name}"))
        twin = same_network(networks, weights, name)
        if twin is None:
            trained[name] = _finetune_one(
                job,
                weights[name],
                small,
                recipe,
                _finetune_progress(name, number * recipe.epochs, recipe.epochs, folder, display),
                teacher,
                position,
            )
        else:
            trained[name] = trained[twin]
        folder.save(f"finetuned_{name}", trained[name])
        position.remove()
    display.end(f"{len(networks)} networks, {recipe.epochs} epochs each")
    return trained


def _finetune_one(
    job: Job,
    variables: Any,
    small: CompactNetwork,
    recipe: training.Recipe,
    progress: training.Progress,
    teacher: Callable[[jax.Array], jax.Array],
    position: training.Kept,
) -> Any:
    train = compact(job.network.apply_train, job.structure, variables, small.masks)
    fitted, _ = training.finetune(
        train,
        small.params,
        job.dataset.train,
        job.preprocess,
        recipe,
        job.key("finetune"),
        progress=progress,
        mesh=job.mesh,
        teacher=teacher,
        keep=position,
    )
    return fitted


def _finetune_progress(
    name: str, before: int, epochs: int, folder: RunFolder, display: Display
) -> Callable[[int, dict[str, float]], None]:
    def progress(epoch: int, metrics: dict[str, float]) -> None:
        folder.log(f"finetune {name}", epoch, metrics)
        display.step(
            before + epoch,
            f"{name}, epoch {epoch}/{epochs}, training accuracy {metrics['accuracy']:.2%}",
        )

    return progress


def same_network(
    networks: dict[str, CompactNetwork], weights: dict[str, Any], name: str
) -> str | None:
    """An earlier network with the same masks and weights, which must end with the same numbers."""
    for other in networks:
        if other == name:
            return None
        if weights[other] is not weights[name]:
            continue
        pairs = zip(networks[other].masks.values(), networks[name].masks.values(), strict=True)
        if all(np.array_equal(left, right) for left, right in pairs):
            return other
    return None
