"""What the search and the baselines keep of a network: at once, or in several rounds."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune import importance
from jaxprune.commands.config import BASELINES
from jaxprune.commands.run import finalists, searching, stages, tuning
from jaxprune.commands.run.display import Display
from jaxprune.commands.run.job import Job, compensated, pose
from jaxprune.dependency import Masks, compact
from jaxprune.dependency.nesting import widened
from jaxprune.files.run_folder import RunFolder
from jaxprune.search.baselines import global_l1, random_mask, uniform_l1
from jaxprune.search.problem import Archive, Problem


class Found(NamedTuple):
    """What the search came to, as the dense network has it.

    Attributes:
        answer: See `searching.search`.
        masks: {network: masks} of the finalists and the baselines.
        weights: {network: the dense network's variables, from which it is fine-tuned}.
    """

    answer: dict[str, Any]
    masks: dict[str, dict[str, np.ndarray]]
    weights: dict[str, Any]


def at_once(
    job: Job, problem: Problem, variables: Any, folder: RunFolder, display: Display
) -> Found:
    """All filters are removed in one round."""
    answer, tuned, found = _round(job, problem, variables, folder, display)
    baselines = {name: _baseline(name, job, problem, variables) for name in _wanted_baselines(job)}
    weights = {**dict.fromkeys(tuned, found), **dict.fromkeys(baselines, variables)}
    return Found(answer, {**tuned, **baselines}, weights)


def in_rounds(
    job: Job, problem: Problem, variables: Any, folder: RunFolder, display: Display
) -> Found:
    """A part of the filters is removed in each round; the search and each baseline go their way."""
    plan = stages.budgets(job)
    masks, weights = {}, {}
    last = _before_last(job, variables, plan, "pruned", folder, display)
    part = folder.part(f"round_{len(plan)}")
    display.say(f"round {len(plan)} of {len(plan)}")
    its_problem = pose(last.job, last.variables, {})
    answer, tuned, found = _round(last.job, its_problem, last.variables, part, display)
    for name, mask in tuned.items():
        masks[name], weights[name] = last.of_dense(mask), last.in_dense(found)
    if not folder.has("answer"):
        folder.save("answer", stages.answer_of_dense(last, problem, answer))
    for name in _wanted_baselines(job):
        last = _before_last(job, variables, plan, name, folder, display)
        its_problem = pose(last.job, last.variables, {})
        masks[name] = last.of_dense(_baseline(name, last.job, its_problem, last.variables))
        weights[name] = last.in_dense(last.variables)
    return Found(folder.load("answer"), masks, weights)


def _before_last(
    job: Job,
    variables: Any,
    plan: Sequence[tuple[str, ...]],
    name: str,
    folder: RunFolder,
    display: Display,
) -> stages.Stage:
    """The rounds before the last of the search ("pruned") or of a baseline; what the last gets."""
    dense, masks = variables, job.structure.full_masks()
    for number, budget in enumerate(plan[:-1], start=1):
        part = folder.part(f"round_{number}")
        display.say(f"round {number} of {len(plan)}, {name}")
        now = stages.stage(job, masks, variables, budget)
        inner, found = _first_choice(name, now, part, display)
        masks = now.of_dense(inner)
        variables = _after_round(name, job, masks, now.in_dense(found), dense, part, display)
    return stages.stage(job, masks, variables, plan[-1])


def _first_choice(
    name: str, now: stages.Stage, part: RunFolder, display: Display
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
        tuned = tuning.finetune(job, {name: variables}, {name: small}, dense, part, display)
    return widened(job.structure, masks, tuned[name])


def _round(
    job: Job, problem: Problem, variables: Any, folder: RunFolder, display: Display
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]], Any]:
    """One search: its answer, the finalists' masks, and the weights that it found them with."""
    with folder.timed("search"):
        answer = searching.search(job, problem, folder, display)
    found = answer.get("variables", variables)
    with folder.timed("semifinal"):
        archive = Archive(**answer["archive"])
        tuned = finalists.choose(job, problem, found, archive, folder, display)
    return answer, tuned, found


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
