"""Which of a search's candidates are fine-tuned to the end.

What a network can do before fine-tuning says little about what it can do after it: among the best
candidates of a search the two may even run against each other. So the candidates that were ahead at
different times of the search are fine-tuned for a few steps, all from the same weights and on the
same examples, and those of the lowest validation loss go on: one round of successive halving
(Jamieson and Talwalkar, AISTATS 2016). Before this they get back what the budgets still allow.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune.commands.run import measuring
from jaxprune.commands.run.display import Display
from jaxprune.commands.run.job import Job, make_trainer
from jaxprune.files.run_folder import RunFolder
from jaxprune.search.baselines.removal import refill
from jaxprune.search.problem import Archive, Problem, ranking


def choose(
    job: Job,
    problem: Problem,
    variables: Any,
    archive: Archive,
    folder: RunFolder,
    display: Display,
) -> dict[str, dict[str, np.ndarray]]:
    """The masks of the finalists, {"finalist_1": {group: [size]}, ...}, the most promising first.

    Where a cost scatters, those are left out that break the budget when it is measured again.

    Args:
        job: What the run works on.
        problem: What the search worked on.
        variables: The weights that the search found its masks with.
        archive: All candidates.
        folder: Where the choice is kept.
        display: Where progress is shown.

    Raises:
        UserError: No candidate holds when its cost is measured again.
    """
    if not folder.has("finalists"):
        ranked = ranking(archive, problem.budget)
        masks = _semifinal(job, variables, archive, ranked, problem, folder, display)
        chosen = (
            masks[: job.config.finalists]
            if problem.traceable
            else measuring.holding(job, problem, variables, masks)
        )
        folder.save("finalists", {"masks": np.asarray(chosen, np.uint8)})
    return {
        f"finalist_{rank}": job.structure.unflatten(mask)
        for rank, mask in enumerate(folder.load("finalists")["masks"], start=1)
    }


def leaders(ranked: np.ndarray, total: int, count: int) -> np.ndarray:
    """The best candidate of each of `count` equal stretches of a search, the best of all first.

    Stretches without a candidate within the budget leave their places to the next best.

    Args:
        ranked: int `[m]`, indices of candidates in `[0, total)`, the best first.
        total: How many candidates were evaluated.
        count: How many are wanted.

    Returns:
        int `[min(count, m)]`.
    """
    _, first = np.unique(ranked * count // total, return_index=True)
    leading = np.zeros(len(ranked), bool)
    leading[first] = True
    return np.concatenate([ranked[leading], ranked[~leading]])[:count]


def _semifinal(
    job: Job,
    variables: Any,
    archive: Archive,
    ranked: np.ndarray,
    problem: Problem,
    folder: RunFolder,
    display: Display,
) -> np.ndarray:
    """Masks, the most promising first: of the semifinalists, then of the other candidates."""
    chosen = leaders(ranked, len(archive.masks), job.config.semifinalists)
    if len(chosen) <= job.config.finalists:
        return archive.masks[ranked]
    masks = archive.masks[chosen]
    if problem.traceable:
        masks = np.asarray(refill(problem, masks))
        chosen, masks = _different(chosen, masks)
    steps = job.config.semifinal_steps
    display.begin("semifinal")
    trainer = make_trainer(job, variables)
    key = job.key("semifinal")
    _, scores = trainer.finetune(jnp.asarray(masks, jnp.float32), steps, key, few=True)
    loss = np.nan_to_num(np.asarray(scores.loss), nan=np.inf)
    for number, index in enumerate(chosen):
        line = {
            "candidate": int(index),
            "accuracy_before": float(archive.validation[index]),
            "accuracy": float(scores.accuracy[number]),
            "loss": float(loss[number]),
        }
        folder.log("semifinal", number + 1, line)
    display.end(f"{len(chosen)} candidates, {steps} steps each")
    rest = archive.masks[ranked[~np.isin(ranked, chosen)]]
    return np.concatenate([masks[np.argsort(loss, kind="stable")], rest])


def _different(indices: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first of each set of equal masks."""
    _, first = np.unique(masks, axis=0, return_index=True)
    kept = np.sort(first)
    return indices[kept], masks[kept]
