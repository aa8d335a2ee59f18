"""Which of a search's candidates are fine-tuned to the end.

What a network can do before fine-tuning says little about what it can do after it: among the best
candidates of a search the two may even run against each other. So the candidates that were ahead at
different times of the search are fine-tuned for a few steps, all from the same weights and on the
same examples, and those of the lowest validation loss go on: one round of successive halving
(Jamieson and Talwalkar, AISTATS 2016).
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune.problem import Archive, Problem, ranking
from jaxprune.run import measuring
from jaxprune.run.display import Display
from jaxprune.run.folder import RunFolder
from jaxprune.run.job import Job, make_trainer


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
        ranked = _after_short_finetuning(job, variables, archive, problem, folder, display)
        chosen = (
            ranked[: job.config.finalists]
            if problem.traceable
            else measuring.holding(job, problem, variables, archive, ranked)
        )
        folder.save_json("finalists", [int(index) for index in chosen])
    return {
        f"finalist_{rank}": job.structure.unflatten(archive.masks[index])
        for rank, index in enumerate(folder.load_json("finalists"), start=1)
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


def _after_short_finetuning(
    job: Job,
    variables: Any,
    archive: Archive,
    problem: Problem,
    folder: RunFolder,
    display: Display,
) -> np.ndarray:
    """The ranking with the semifinalists first, by their validation loss after a few steps."""
    ranked = ranking(archive, problem.budget)
    chosen = leaders(ranked, len(archive.masks), job.config.semifinalists)
    if len(chosen) <= job.config.finalists:
        return ranked
    steps = job.config.semifinal_steps
    display.begin("semifinal")
    trainer = make_trainer(job, variables)
    masks = jnp.asarray(archive.masks[chosen], jnp.float32)
    _, scores = trainer.finetune(masks, steps, job.key("semifinal"))
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
    return np.concatenate(
        [chosen[np.argsort(loss, kind="stable")], ranked[~np.isin(ranked, chosen)]]
    )
