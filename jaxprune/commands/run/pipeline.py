"""A run from the data to the report, in phases whose results are kept.

Each phase keeps its result in the run's folder, the search between its iterations. A run that is
stopped at any moment, and resumed, computes again only what was not kept, from the same random
keys, and comes to the same end.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import numpy as np

from jaxprune import costs, training
from jaxprune.commands.config import BASELINES, limits
from jaxprune.commands.report import architecture, contents, write_report
from jaxprune.commands.run import forecast, measuring, rounds, tuning
from jaxprune.commands.run.display import Display
from jaxprune.commands.run.job import Job, compensated, latency_input, pose
from jaxprune.commands.run.metadata import describe
from jaxprune.costs.budgets import Budget
from jaxprune.costs.outlook import Outlook, outlook
from jaxprune.dependency import CompactNetwork, Structure, compact, masked
from jaxprune.files.run_folder import REPORT, RESULT, RunFolder, write_json
from jaxprune.networks import export
from jaxprune.search.baselines import candidates
from jaxprune.search.problem import Problem, validation_scores
from jaxprune.training import data

T = TypeVar("T")

PHASES: tuple[Literal["pretrain", "finetune"], ...] = ("pretrain", "finetune")
"""When networks are trained."""

LARGEST_DIFFERENCE = 1e-3
"""Of masked and compact outputs, as a fraction of the largest output: far above what another order
of float32 sums can do, far below what one wrong channel does."""


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
    measured_only = any(budget.meter for budget in job.budgets)
    possible = [] if measured_only else _outlook(job, job.budgets, folder, display)
    with folder.timed("pretrain"):
        variables = _pretrain(job, folder, display)
    known = folder.load_json("known_costs") if folder.has("known_costs") else {}
    problem = pose(job, variables, known)
    if measured_only:
        possible = _outlook(job, problem.budgets, folder, display)
    one = job.config.rounds == 1
    found = (rounds.at_once if one else rounds.in_rounds)(job, problem, variables, folder, display)
    answer, masks, weights = found
    if job.config.compensate:
        weights = {name: compensated(job, weights[name], mask) for name, mask in masks.items()}
    networks = {
        name: compact(job.network.apply, job.structure, weights[name], mask)
        for name, mask in masks.items()
    }
    differences = _verify(job, weights, networks, folder)
    with folder.timed("finetune"):
        trained = tuning.finetune(job, weights, networks, variables, folder, display)
    with folder.timed("evaluate"):
        measured = measuring.measure(problem, networks, trained, folder, display)
        winner = _winner(job, problem, networks, trained, measured)
        masks, networks = _with_winner(masks, winner), _with_winner(networks, winner)
        weights = _with_winner(weights, winner)
        trained, differences = _with_winner(trained, winner), _with_winner(differences, winner)
        budgets = [
            measuring.budget_row(job, budget, measured, masks["pruned"], winner)
            for budget in problem.budgets
        ]
        result = _evaluate(
            job,
            variables,
            weights,
            networks,
            trained,
            answer,
            budgets,
            possible,
            differences,
            folder,
            display,
        )

    display.begin("report")
    _export(job, dataclasses.replace(networks["pruned"], params=trained["pruned"]), folder)
    shape = job.dataset.train.images.shape[1:]
    images = (*(1,) * (3 - len(shape)), *shape)  # the report draws them as images
    write_json(
        folder.path / REPORT,
        {
            "budget": problem.budget,
            "points": _points(job, problem, masks, answer),
            **architecture.to_json(architecture.describe(job.structure, masks["pruned"], images)),
        },
    )
    write_report(folder.path, contents.of_result(folder.path, result))
    write_json(folder.path / RESULT, result)
    display.end(f"{folder.path / 'report.html'}")
    return result


def _outlook(
    job: Job, budgets: Sequence[Budget], folder: RunFolder, display: Display
) -> list[dict[str, Any]]:
    """What each cost can come to, shown before the search, as result.json has it."""
    if not folder.has("outlook"):
        rows = outlook(job.structure, budgets, limits(job.config))
        folder.save_json("outlook", [row._asdict() for row in rows])
    kept = folder.load_json("outlook")
    display.show(forecast.table([Outlook(**row) for row in kept]))
    return kept


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
        mesh=job.mesh,
    )
    folder.save("pretrained", variables)
    accuracy = training.accuracy(
        job.network.apply, variables, job.dataset.validation, job.preprocess
    )
    display.end(f"validation accuracy {accuracy:.2%}")
    return variables


def _shapes(job: Job) -> Any:
    return jax.eval_shape(job.network.init, jax.random.PRNGKey(0))


def _winner(
    job: Job,
    problem: Problem,
    networks: dict[str, CompactNetwork],
    trained: dict[str, Any],
    measured: dict[str, measuring.Measured],
) -> str:
    """The fine-tuned finalist of highest validation accuracy; among equals, of lowest loss.

    One that was measured to break a budget is never the answer.
    """
    names = [name for name in networks if name not in BASELINES]
    if measured:
        names = [name for name in names if measuring.within(problem, measured[name])]
    if not names:
        raise measuring.nothing_holds(problem)

    def order(name: str) -> tuple[float, float]:
        loss, accuracy = training.scores(
            networks[name], trained[name], job.dataset.validation, job.preprocess
        )
        return -accuracy, loss

    return min(names, key=order)


def _with_winner(of_all: dict[str, T], winner: str) -> dict[str, T]:
    """The winner under the name "pruned" and the baselines, without the other finalists."""
    return {
        "pruned": of_all[winner],
        **{name: of_all[name] for name in BASELINES if name in of_all},
    }


def _verify(
    job: Job, weights: dict[str, Any], networks: dict[str, CompactNetwork], folder: RunFolder
) -> dict[str, float]:
    """The largest absolute difference of masked and compact logits, on validation images."""
    if folder.has("differences"):
        return folder.load_json("differences")
    x = job.preprocess(job.dataset.validation.images[:256])
    masked_apply = jax.jit(masked(job.network.apply, job.structure))
    differences = {}
    with jax.default_matmul_precision("highest"):  # TF32 and bfloat16 would hide a difference
        for name, small in networks.items():
            expected = np.asarray(masked_apply(weights[name], small.masks, x))
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


def _evaluate(
    job: Job,
    variables: Any,
    weights: dict[str, Any],
    networks: dict[str, CompactNetwork],
    trained: dict[str, Any],
    answer: dict[str, Any],
    budgets: list[dict[str, Any]],
    possible: list[dict[str, Any]],
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

    x = latency_input(job.config, job.dataset, job.preprocess)
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
        twin = tuning.same_network(networks, weights, name)
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
        "cost": budgets[0]["cost"],
        "budget": budgets[0]["limit"],
        "budgets": budgets,
        "feasible": all(budget["met"] for budget in budgets),
        "outlook": possible,
        "dense": rows["dense"],
        "pruned": rows["pruned"],
        "baselines": {name: rows[name] for name in BASELINES if name in rows},
        "search": {
            "seconds": float(answer["seconds"]),
            "forecast": {"seconds": float(answer["forecast"])} if "forecast" in answer else None,
            "candidates": len(answer["archive"]["cost"]),
            "episodes": int(answer["episodes"]),
            "rounds": config.rounds,
            "schedule": config.schedule,
            "semifinalists": config.semifinalists,
            "semifinal_steps": config.semifinal_steps,
            "finalists": config.finalists,
            "statistics": config.statistics,
            "importance": config.importance,
            "device": job.device,
        },
        "training": {
            "recipe": config.recipe,
            **{f"{phase}_epochs": job.recipe(phase).epochs for phase in PHASES},
            "distill": config.distill,
        },
        "compact_max_abs_difference": differences["pruned"],
    }
    folder.save_json("result", result)
    display.end(f"test accuracy {rows['pruned']['test_accuracy']:.2%}")
    return result


def _costs(structure: Structure, masks: Any) -> dict[str, int]:
    return {name: costs.exact(structure, masks, name) for name in ("params", "macs", "neurons")}


def _points(
    job: Job, problem: Problem, masks: dict[str, Any], answer: dict[str, Any]
) -> dict[str, tuple[float, float]]:
    """(cost, validation accuracy) of dense network and candidates, on the images of the search."""
    flat = {
        "dense": job.structure.flatten(job.structure.full_masks()),
        **{name: np.asarray(job.structure.flatten(mask)) for name, mask in masks.items()},
    }
    stacked = jax.device_put(np.stack(list(flat.values())).astype(np.float32))
    accuracies = np.asarray(validation_scores(problem, stacked).accuracy)
    relative = candidates.relative_costs(problem, stacked)
    if "variables" in answer and problem.trainer is not None:
        # The answer's mask was found with weights of the search's own.
        own = problem.trainer.validate(answer["variables"], stacked)
        accuracies = np.where(np.array(list(flat)) == "pruned", own.accuracy, accuracies)
    return {
        name: (float(cost), float(accuracy))
        for name, cost, accuracy in zip(flat, relative, accuracies, strict=True)
    }


def _export(job: Job, small: CompactNetwork, folder: RunFolder) -> None:
    x = job.preprocess(job.dataset.validation.images[:1])
    metadata = describe(job.network, job.dataset, job.config.prune_inputs)
    export.save(Path(folder.path) / "model", small, x, metadata=metadata)
