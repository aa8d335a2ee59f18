"""A run from the data to the report, in phases whose results are kept.

Each phase keeps its result in the run's folder, the search between its iterations. A run that is
stopped at any moment, and resumed, computes again only what was not kept, from the same random
keys, and comes to the same end.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np

from jaxprune import costs, importance, training
from jaxprune.commands.config import BASELINES, limits
from jaxprune.commands.report import architecture, contents, write_report
from jaxprune.commands.run import finalists, forecast, measuring, rounds
from jaxprune.commands.run.display import Display
from jaxprune.commands.run.job import Job, compensated, latency_input, pose
from jaxprune.commands.run.metadata import describe
from jaxprune.costs.budgets import Budget
from jaxprune.costs.outlook import Outlook, outlook
from jaxprune.dependency import CompactNetwork, Masks, Structure, compact, masked
from jaxprune.dependency.nesting import widened
from jaxprune.files.run_folder import REPORT, RESULT, RunFolder, write_json
from jaxprune.networks import export
from jaxprune.search.baselines import candidates, global_l1, random_mask, uniform_l1
from jaxprune.search.problem import Archive, Problem, validation_scores
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
    found = (_at_once if one else _in_rounds)(job, problem, variables, folder, display)
    answer, masks, weights = found
    if job.config.compensate:
        weights = {name: compensated(job, weights[name], mask) for name, mask in masks.items()}
    networks = {
        name: compact(job.network.apply, job.structure, weights[name], mask)
        for name, mask in masks.items()
    }
    differences = _verify(job, weights, networks, folder)
    with folder.timed("finetune"):
        trained = _finetune(job, weights, networks, variables, folder, display)
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


class _Found(NamedTuple):
    """What the search came to, as the dense network has it.

    Attributes:
        answer: See `_search`.
        masks: {network: masks} of the finalists and the baselines.
        weights: {network: the dense network's variables, from which it is fine-tuned}.
    """

    answer: dict[str, Any]
    masks: dict[str, dict[str, np.ndarray]]
    weights: dict[str, Any]


def _at_once(
    job: Job, problem: Problem, variables: Any, folder: RunFolder, display: Display
) -> _Found:
    """All filters are removed in one round."""
    answer, tuned, found = _round(job, problem, variables, folder, display)
    baselines = {name: _baseline(name, job, problem, variables) for name in _wanted_baselines(job)}
    weights = {**dict.fromkeys(tuned, found), **dict.fromkeys(baselines, variables)}
    return _Found(answer, {**tuned, **baselines}, weights)


def _in_rounds(
    job: Job, problem: Problem, variables: Any, folder: RunFolder, display: Display
) -> _Found:
    """A part of the filters is removed in each round; the search and each baseline go their way."""
    plan = rounds.budgets(job)
    masks, weights = {}, {}
    last = _before_last(job, variables, plan, "pruned", folder, display)
    part = folder.part(f"round_{len(plan)}")
    display.say(f"round {len(plan)} of {len(plan)}")
    its_problem = pose(last.job, last.variables, {})
    answer, tuned, found = _round(last.job, its_problem, last.variables, part, display)
    for name, mask in tuned.items():
        masks[name], weights[name] = last.of_dense(mask), last.in_dense(found)
    if not folder.has("answer"):
        folder.save("answer", rounds.answer_of_dense(last, problem, answer))
    for name in _wanted_baselines(job):
        last = _before_last(job, variables, plan, name, folder, display)
        its_problem = pose(last.job, last.variables, {})
        masks[name] = last.of_dense(_baseline(name, last.job, its_problem, last.variables))
        weights[name] = last.in_dense(last.variables)
    return _Found(folder.load("answer"), masks, weights)


def _before_last(
    job: Job,
    variables: Any,
    plan: Sequence[tuple[str, ...]],
    name: str,
    folder: RunFolder,
    display: Display,
) -> rounds.Stage:
    """The rounds before the last of the search ("pruned") or of a baseline; what the last gets."""
    dense, masks = variables, job.structure.full_masks()
    for number, budget in enumerate(plan[:-1], start=1):
        part = folder.part(f"round_{number}")
        display.say(f"round {number} of {len(plan)}, {name}")
        now = rounds.stage(job, masks, variables, budget)
        inner, found = _first_choice(name, now, part, display)
        masks = now.of_dense(inner)
        variables = _after_round(name, job, masks, now.in_dense(found), dense, part, display)
    return rounds.stage(job, masks, variables, plan[-1])


def _first_choice(
    name: str, now: rounds.Stage, part: RunFolder, display: Display
) -> tuple[dict[str, np.ndarray], Any]:
    """The masks that the search or a baseline leaves a round with, and the weights they are for."""
    problem = pose(now.job, now.variables, {})
    if name != "pruned":
        return _baseline(name, now.job, problem, now.variables), now.variables
    _, tuned, found = _round(now.job, problem, now.variables, part, display)
    return tuned["finalist_1"], found


def _after_round(
    name: str,
    job: Job,
    masks: Masks,
    variables: Any,
    dense: Any,
    part: RunFolder,
    display: Display,
) -> Any:
    """The fine-tuned weights of what a round has left, as the dense network has them."""
    if job.config.compensate:
        variables = compensated(job, variables, masks)
    small = compact(job.network.apply, job.structure, variables, masks)
    with part.timed("finetune"):
        tuned = _finetune(job, {name: variables}, {name: small}, dense, part, display)
    return widened(job.structure, masks, tuned[name])


def _round(
    job: Job, problem: Problem, variables: Any, folder: RunFolder, display: Display
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]], Any]:
    """One search: its answer, the finalists' masks, and the weights that it found them with."""
    with folder.timed("search"):
        answer = _search(job, problem, folder, display)
    found = answer.get("variables", variables)
    with folder.timed("semifinal"):
        archive = Archive(**answer["archive"])
        tuned = finalists.choose(job, problem, found, archive, folder, display)
    return answer, tuned, found


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


def _search(job: Job, problem: Problem, folder: RunFolder, display: Display) -> dict[str, Any]:
    """The answer: {"mask", "archive", "episodes", "seconds"}, of numpy arrays.

    Where the search trained the network itself, its weights are the entry "variables".
    """
    display.begin("search", _planned(job.search))
    if folder.has("answer"):
        answer: dict[str, Any] = folder.load("answer")
        display.end(_found(problem, Archive(**answer["archive"]), float(answer["seconds"])))
        return answer

    state, seconds = None, 0.0
    if folder.has("search"):
        first = job.method.init(job.search, problem, job.key("search"))
        kept = folder.load("search", like={"state": first, "seconds": 0.0})
        state, seconds = kept["state"], float(kept["seconds"])
    clock, seldom = _Clock(seconds), _Seldom()
    longest = getattr(job.search, "seconds", None)
    pace = forecast.Pace(_planned(job.search), longest, clock.seconds, display.say)
    since: list[float] = []  # seconds after which there were results; most compiles come first

    def keep(state: Any) -> None:
        folder.save("search", {"state": state, "seconds": clock.seconds()})

    def progress(state: Any, metrics: dict[str, Any]) -> None:
        folder.log("search", int(metrics["iteration"]), metrics)
        if not since:
            since.append(clock.seconds())
        if problem.traceable:
            seldom(functools.partial(keep, state))
        else:  # what was measured would not be measured alike again
            keep(state)
            folder.save_json("known_costs", measuring.known_costs(problem))
        done = metrics["candidates"] if hasattr(job.search, "candidates") else metrics["iteration"]
        pace.round(done, metrics["iteration"])
        display.step(
            done,
            f"{_so_far(metrics['best_accuracy'])}, "
            f"{metrics['candidates'] / clock.seconds():.2g} candidates/s, "
            f"iteration {metrics['iteration']}, episode {metrics['episodes']}",
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
    if pace.estimate is not None:
        answer["forecast"] = np.float64(pace.estimate)
    if found.variables is not None:
        answer["variables"] = found.variables
    folder.save("answer", answer)
    begun = f", the first after {since[0] - seconds:.1f} s" if since else ""
    display.end(_found(problem, found.archive, clock.seconds()) + begun)
    return answer


def _so_far(best_accuracy: float) -> str:
    """The best validation accuracy of a network that meets the budget; 0 where there is none."""
    return f"best {best_accuracy:.2%} in budget" if best_accuracy else "none in budget yet"


class _Clock:
    """Seconds of work on a phase, those before an interruption included."""

    def __init__(self, before: float):
        self._before = before
        self._start = time.monotonic()

    def seconds(self) -> float:
        return self._before + time.monotonic() - self._start


class _Seldom:
    """Does something so seldom that it takes no more than about a tenth of the time."""

    def __init__(self) -> None:
        self._next = time.monotonic()

    def __call__(self, action: Callable[[], None]) -> None:
        start = time.monotonic()
        if start >= self._next:
            action()
            end = time.monotonic()
            self._next = end + 9 * (end - start)


def _planned(search: Any) -> int | None:
    """How many iterations or candidates a method plans, where its settings say so."""
    names = ("candidates", "iterations", "epochs")
    return next((getattr(search, name) for name in names if hasattr(search, name)), None)


def _found(problem: Problem, archive: Archive, seconds: float) -> str:
    best = candidates.best_validation(archive, problem.budget)
    return f"{_so_far(best)}, {len(archive.cost)} candidates in {seconds:.1f} s"


def _wanted_baselines(job: Job) -> list[str]:
    """The baselines that the run is compared with, in the order of the tables."""
    same = "uniform" if job.config.importance == "l1" else None  # it would be uniform_l1
    return [name for name in BASELINES if name in job.config.baselines and name != same]


def _baseline(name: str, job: Job, problem: Problem, variables: Any) -> dict[str, np.ndarray]:
    """The masks of a baseline."""
    if name == "random":
        mask = random_mask(problem, job.key("random"))
    elif name == "uniform":
        mask = uniform_l1(problem)
    else:
        by_norm = problem._replace(importance=importance.l1(job.structure, variables))
        mask = {"uniform_l1": uniform_l1, "global_l1": global_l1}[name](by_norm)
    return job.structure.unflatten(np.asarray(mask, np.uint8))


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


def _finetune(
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
        twin = _same_network(networks, weights, name)
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


def _same_network(
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
        twin = _same_network(networks, weights, name)
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
    export.save(Path(folder.path) / "model", small, x, metadata)
