"""A run from the data to the report, in phases whose results are kept.

Each phase keeps its result in the run's folder, the search after every iteration. A run that is
stopped at any moment, and resumed, computes again only what was not kept, from the same random
keys, and comes to the same end.
"""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import costs, data, export, models, training
from jaxprune.baselines import global_l1, random_mask, uniform_l1
from jaxprune.config import RunConfig
from jaxprune.dependency import CompactNetwork, Structure, compact, masked, trace
from jaxprune.problem import Archive, Problem, check_budget, make_problem, ranking
from jaxprune.report import write_report
from jaxprune.run.display import Display
from jaxprune.run.folder import RESULT, RunFolder, write_json

T = TypeVar("T")

BASELINES = ("uniform_l1", "global_l1", "random")

LARGEST_DIFFERENCE = 1e-3
"""Of masked and compact outputs, as a fraction of the largest output: far above what another order
of float32 sums can do, far below what one wrong channel does."""

KEYS = {"search": 1, "random": 2, "finetune": 3}
"""Streams of random numbers that do not depend on each other."""


class Job(NamedTuple):
    """What a run works on, known before anything is computed.

    Attributes:
        config: Settings of the run, with the model filled in.
        search: Settings of the method.
        method: The method's module.
        dataset: The data.
        network: The dense network.
        preprocess: uint8 images to inputs of the network.
        structure: The network's groups of channels.
    """

    config: RunConfig
    search: Any
    method: ModuleType
    dataset: data.Dataset
    network: models.Network
    preprocess: data.Preprocess
    structure: Structure

    def recipe(self, phase: Literal["pretrain", "finetune"]) -> training.Recipe:
        """How weights are fitted in "pretrain" or "finetune"."""
        epochs = getattr(self.config, f"{phase}_epochs")
        recipe = training.default_recipe(self.network.name, self.dataset.name, phase=phase)
        return recipe if epochs is None else dataclasses.replace(recipe, epochs=epochs)

    def key(self, stream: str) -> jax.Array:
        """The PRNG key of a stream of `KEYS`."""
        return jax.random.fold_in(jax.random.PRNGKey(self.config.seed), KEYS[stream])


def prepare(config: RunConfig, search: Any, method: ModuleType) -> Job:
    """Loads the data and traces the network; refuses what cannot work.

    Args:
        config: Settings that `config.check` has passed, resolved.
        search: Settings of the method.
        method: The method's module.

    Raises:
        UserError: The data are missing or damaged, the model does not fit the images, or the budget
            cannot be reached.
    """
    dataset = data.load(config.dataset, config.data_dir, cache_dir=config.cache_dir)
    if config.examples is not None:
        dataset = data.subset(dataset, config.examples)
    network = models.build(str(config.model), dataset.train.images.shape[1:], dataset.num_classes)
    preprocess = data.preprocess(dataset, network.flat)
    variables = jax.eval_shape(network.init, jax.random.PRNGKey(0))
    inputs = jax.eval_shape(preprocess, dataset.train.images[:1])
    structure = trace(network.apply, variables, inputs, prune_inputs=config.prune_inputs)
    check_budget(structure, config.cost, config.budget)
    return Job(config, search, method, dataset, network, preprocess, structure)


def run(job: Job, folder: RunFolder, display: Display) -> dict[str, Any]:
    """Does all that is left to do.

    Args:
        job: What to work on.
        folder: Where results are kept; finished phases are read from it.
        display: Where progress is shown.

    Returns:
        The content of result.json.

    Raises:
        RuntimeError: A compact network differs from its masked one: a bug, nothing is reported.
    """
    variables = _pretrain(job, folder, display)
    problem = _problem(job, variables)
    answer = _search(job, problem, folder, display)
    archive = Archive(**answer["archive"])
    masks = {**_finalists(job, archive), **_baselines(job, problem)}
    networks = {
        name: compact(job.network.apply, job.structure, variables, mask)
        for name, mask in masks.items()
    }
    differences = _verify(job, variables, networks, folder)
    trained = _finetune(job, variables, networks, folder, display)
    winner = _winner(job, networks, trained)
    masks, networks = _with_winner(masks, winner), _with_winner(networks, winner)
    trained, differences = _with_winner(trained, winner), _with_winner(differences, winner)
    result = _evaluate(job, variables, networks, trained, answer, differences, folder, display)

    display.begin("report")
    _export(job, dataclasses.replace(networks["pruned"], params=trained["pruned"]), folder)
    write_report(
        folder.path,
        result,
        archive=archive,
        metrics=folder.metrics("search"),
        dense_widths={group.name: group.size for group in job.structure.groups},
        points=_points(job, problem, masks),
    )
    write_json(folder.path / RESULT, result)
    display.end(f"{folder.path / 'report.md'}")
    return result


def _pretrain(job: Job, folder: RunFolder, display: Display) -> Any:
    recipe = job.recipe("pretrain")
    display.begin("pretrain", recipe.epochs)
    if folder.has("pretrained"):
        variables = folder.load("pretrained", like=_shapes(job))
        display.end("done before")
        return variables

    def progress(epoch: int, metrics: dict[str, float]) -> None:
        folder.log("pretrain", epoch, metrics)
        display.step(
            epoch,
            f"epoch {epoch}/{recipe.epochs}, loss {metrics['loss']:.3f}, "
            f"training accuracy {metrics['accuracy']:.2%}",
        )

    variables = training.pretrained(
        job.network,
        job.dataset,
        recipe,
        job.config.seed,
        job.config.cache_dir,
        progress=progress,
    )
    folder.save("pretrained", variables)
    accuracy = training.accuracy(
        job.network.apply, variables, job.dataset.validation, job.preprocess
    )
    display.end(f"validation accuracy {accuracy:.2%}")
    return variables


def _shapes(job: Job) -> Any:
    return jax.eval_shape(job.network.init, jax.random.PRNGKey(0))


def _problem(job: Job, variables: Any) -> Problem:
    def batch(split: data.Split) -> tuple[jax.Array, jax.Array]:
        count = min(job.config.search_examples, len(split.labels))
        _, part = split.divide(count, job.config.seed)
        return job.preprocess(jnp.asarray(part.images)), jnp.asarray(part.labels)

    def apply(variables: Any, x: jax.Array) -> jax.Array:
        if job.config.statistics == "dense":
            return job.network.apply(variables, x)
        logits, _ = job.network.apply_train(variables, x)
        return logits

    return make_problem(
        apply,
        job.structure,
        variables,
        batch(job.dataset.train),
        batch(job.dataset.validation),
        cost=job.config.cost,
        budget=job.config.budget,
    )


def _search(job: Job, problem: Problem, folder: RunFolder, display: Display) -> dict[str, Any]:
    """The answer: {"mask", "archive", "episodes", "seconds"}, of numpy arrays."""
    display.begin("search", _planned(job.search))
    if folder.has("answer"):
        answer = folder.load("answer")
        display.end(_found(len(answer["archive"]["cost"]), float(answer["seconds"])))
        return answer

    state, seconds = None, 0.0
    if folder.has("search"):
        first = job.method.init(job.search, problem, job.key("search"))
        kept = folder.load("search", like={"state": first, "seconds": 0.0})
        state, seconds = kept["state"], float(kept["seconds"])
    clock = _Clock(seconds)

    def progress(state: Any, metrics: dict[str, float]) -> None:
        folder.log("search", int(metrics["iteration"]), metrics)
        folder.save("search", {"state": state, "seconds": clock.seconds()})
        done = metrics["candidates"] if hasattr(job.search, "candidates") else metrics["iteration"]
        display.step(
            done,
            f"iteration {metrics['iteration']}, episode {metrics['episodes']}, best validation "
            f"accuracy {metrics['best_accuracy']:.2%}",
        )

    found = job.method.search(
        job.search, problem, job.key("search"), state=state, progress=progress
    )
    answer = {
        "mask": np.asarray(found.mask, np.uint8),
        "archive": found.archive._asdict(),
        "episodes": np.int64(found.episodes),
        "seconds": np.float64(clock.seconds()),
    }
    folder.save("answer", answer)
    display.end(_found(len(found.archive.cost), clock.seconds()))
    return answer


class _Clock:
    """Seconds of work on a phase, those before an interruption included."""

    def __init__(self, before: float):
        self._before = before
        self._start = time.monotonic()

    def seconds(self) -> float:
        return self._before + time.monotonic() - self._start


def _planned(search: Any) -> int | None:
    """How many iterations or candidates a method plans, where its settings say so."""
    return getattr(search, "candidates", None) or getattr(search, "iterations", None)


def _found(candidates: int, seconds: float) -> str:
    return f"{candidates} candidates in {seconds:.1f} s"


def _finalists(job: Job, archive: Archive) -> dict[str, dict[str, np.ndarray]]:
    """The masks of the search's best candidates, named by rank."""
    best = ranking(archive, job.config.budget)[: job.config.finalists]
    return {
        f"finalist_{rank}": job.structure.unflatten(archive.masks[index])
        for rank, index in enumerate(best, start=1)
    }


def _baselines(job: Job, problem: Problem) -> dict[str, dict[str, np.ndarray]]:
    flat = uniform_l1(problem), global_l1(problem), random_mask(problem, job.key("random"))
    return {
        name: job.structure.unflatten(np.asarray(mask, np.uint8))
        for name, mask in zip(BASELINES, flat, strict=True)
    }


def _winner(job: Job, networks: dict[str, CompactNetwork], trained: dict[str, Any]) -> str:
    """The fine-tuned finalist of highest validation accuracy; among equals, of lowest loss."""

    def order(name: str) -> tuple[float, float]:
        loss, accuracy = training.scores(
            networks[name], trained[name], job.dataset.validation, job.preprocess
        )
        return -accuracy, loss

    return min((name for name in networks if name not in BASELINES), key=order)


def _with_winner(of_all: dict[str, T], winner: str) -> dict[str, T]:
    """The winner under the name "pruned" and the baselines, without the other finalists."""
    return {"pruned": of_all[winner], **{name: of_all[name] for name in BASELINES}}


def _verify(
    job: Job, variables: Any, networks: dict[str, CompactNetwork], folder: RunFolder
) -> dict[str, float]:
    """The largest absolute difference of masked and compact logits, on validation images."""
    if folder.has("differences"):
        return folder.load_json("differences")
    x = job.preprocess(jnp.asarray(job.dataset.validation.images[:256]))
    masked_apply = jax.jit(masked(job.network.apply, job.structure))
    differences = {}
    with jax.default_matmul_precision("highest"):  # TF32 and bfloat16 would hide a difference
        for name, small in networks.items():
            expected = np.asarray(masked_apply(variables, small.masks, x))
            actual = np.asarray(jax.jit(small)(small.params, x))
            differences[name] = float(np.abs(actual - expected).max())
            scale = max(1.0, float(np.abs(expected).max()))
            if not differences[name] <= LARGEST_DIFFERENCE * scale:
                raise RuntimeError(
                    f"the compact network {name} differs from the masked one by "
                    f"{differences[name]:.3g}: a bug of jaxprune, please report it"
                )
    folder.save_json("differences", differences)
    return differences


def _finetune(
    job: Job,
    variables: Any,
    networks: dict[str, CompactNetwork],
    folder: RunFolder,
    display: Display,
) -> dict[str, Any]:
    """The fine-tuned parameters of each network, all by the same recipe and from the same key."""
    recipe = job.recipe("finetune")
    display.begin("fine-tune", recipe.epochs * len(networks))
    trained: dict[str, Any] = {}
    for number, (name, small) in enumerate(networks.items()):
        if folder.has(f"finetuned_{name}"):
            trained[name] = folder.load(f"finetuned_{name}", like=small.params)
            continue
        twin = _same_masks(networks, name)
        if twin is None:
            trained[name] = _finetune_one(
                job,
                variables,
                small,
                recipe,
                _finetune_progress(name, number * recipe.epochs, recipe.epochs, folder, display),
            )
        else:
            trained[name] = trained[twin]
        folder.save(f"finetuned_{name}", trained[name])
    display.end(f"{len(networks)} networks, {recipe.epochs} epochs each")
    return trained


def _finetune_one(
    job: Job,
    variables: Any,
    small: CompactNetwork,
    recipe: training.Recipe,
    progress: training.Progress,
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


def _same_masks(networks: dict[str, CompactNetwork], name: str) -> str | None:
    """An earlier network with the masks of this one, which must end with the same numbers."""
    for other in networks:
        if other == name:
            return None
        pairs = zip(networks[other].masks.values(), networks[name].masks.values(), strict=True)
        if all(np.array_equal(left, right) for left, right in pairs):
            return other
    return None


def _evaluate(
    job: Job,
    variables: Any,
    networks: dict[str, CompactNetwork],
    trained: dict[str, Any],
    answer: dict[str, Any],
    differences: dict[str, float],
    folder: RunFolder,
    display: Display,
) -> dict[str, Any]:
    """All numbers of the result. Nothing before this looks at the test split."""
    display.begin("evaluate", 1 + len(networks))
    if folder.has("result"):
        display.end("done before")
        return folder.load_json("result")

    def accuracy(apply: Callable, params: Any, split: data.Split) -> float:
        return training.accuracy(apply, params, split, job.preprocess)

    x = job.preprocess(jnp.asarray(job.dataset.validation.images[: job.config.latency_batch]))
    rows: dict[str, dict[str, Any]] = {
        "dense": {
            "test_accuracy": accuracy(job.network.apply, variables, job.dataset.test),
            "val_accuracy": accuracy(job.network.apply, variables, job.dataset.validation),
            **_costs(job.structure, job.structure.full_masks()),
            "latency_ms": costs.latency(job.network.apply, variables, x),
        }
    }
    display.step(1, "dense")
    for name, small in networks.items():
        twin = _same_masks(networks, name)
        rows[name] = (
            rows[twin]
            if twin
            else {
                "test_accuracy": accuracy(small, trained[name], job.dataset.test),
                **_costs(job.structure, small.masks),
                "latency_ms": costs.latency(small, trained[name], x),
                "val_accuracy": accuracy(small, trained[name], job.dataset.validation),
                "val_accuracy_before_finetuning": accuracy(
                    small, small.params, job.dataset.validation
                ),
                "test_accuracy_before_finetuning": accuracy(small, small.params, job.dataset.test),
                "widths": dict(small.widths),
            }
        )
        display.step(len(rows), name)

    config = job.config
    result = {
        "method": config.method,
        "model": config.model,
        "dataset": config.dataset,
        "seed": config.seed,
        "examples": config.examples,
        "cost": config.cost,
        "budget": config.budget,
        "feasible": rows["pruned"][config.cost] <= config.budget * rows["dense"][config.cost],
        "dense": rows["dense"],
        "pruned": rows["pruned"],
        "baselines": {name: rows[name] for name in BASELINES},
        "search": {
            "seconds": float(answer["seconds"]),
            "candidates": len(answer["archive"]["cost"]),
            "episodes": int(answer["episodes"]),
            "finalists": job.config.finalists,
            "statistics": job.config.statistics,
            "device": _device(),
        },
        "compact_max_abs_difference": differences["pruned"],
    }
    folder.save_json("result", result)
    display.end(f"test accuracy {rows['pruned']['test_accuracy']:.2%}")
    return result


def _costs(structure: Structure, masks: Any) -> dict[str, int]:
    return {name: costs.exact(structure, masks, name) for name in ("params", "macs", "neurons")}


def _points(job: Job, problem: Problem, masks: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """(cost, validation accuracy) of dense network and candidates, on the images of the search."""
    flat = jnp.stack(
        [job.structure.flatten(job.structure.full_masks())]
        + [jnp.asarray(job.structure.flatten(mask), jnp.float32) for mask in masks.values()]
    )
    accuracies = np.asarray(problem.validate(flat).accuracy)
    shares = np.asarray(jax.vmap(problem.cost)(flat))
    return {
        name: (float(share), float(accuracy))
        for name, share, accuracy in zip(["dense", *masks], shares, accuracies, strict=True)
    }


def _export(job: Job, small: CompactNetwork, folder: RunFolder) -> None:
    x = job.preprocess(jnp.asarray(job.dataset.validation.images[:1]))
    metadata = {
        "model": job.network.name,
        "dataset": job.dataset.name,
        "classes": job.dataset.num_classes,
        "inputs": {
            "what": "uint8 images / 255, minus mean, divided by std"
            + (", flattened" if job.network.flat else ""),
            "mean": np.asarray(job.dataset.mean).tolist(),
            "std": np.asarray(job.dataset.std).tolist(),
        },
    }
    export.save(Path(folder.path) / "model", small, x, metadata)


def _device() -> str:
    device = jax.devices()[0]
    kind = device.device_kind
    return f"{kind}, {os.cpu_count()} cores" if device.platform == "cpu" else kind
