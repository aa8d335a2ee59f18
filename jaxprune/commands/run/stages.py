"""Pruning in rounds: a part of the way to the budget, fine-tuning, and the next part from there.

Each round works on a network that is really smaller. Between rounds, masks and weights are kept as
the dense network has them, with zeros in the place of weights that are gone, so that a run in
several rounds ends in the same form as one in a single round.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune import costs
from jaxprune.commands.run.job import Job, make_job_budgets
from jaxprune.dependency import Masks, compact, trace
from jaxprune.dependency.nesting import nested, widened
from jaxprune.search.baselines import candidates
from jaxprune.search.problem import Archive, Problem


class Stage(NamedTuple):
    """A network before one of its rounds.

    Attributes:
        whole: The job of the run, about the dense network.
        masks: What is left of the dense network: {group: [size]}.
        job: The job of this round, about the network that is left.
        variables: The weights of that network.
    """

    whole: Job
    masks: Masks
    job: Job
    variables: Any

    def of_dense(self, masks: Masks) -> dict[str, np.ndarray]:
        """What this round keeps, {group: [..., size]}, as masks of the dense network."""
        return nested(self.whole.structure, self.masks, self.job.structure, masks)

    def in_dense(self, variables: Any) -> Any:
        """Weights of the network of this round as the dense network has them."""
        return widened(self.whole.structure, self.masks, variables)


def budgets(job: Job) -> list[tuple[str, ...]]:
    """What each round of a run may leave of its costs, as `--budget` is typed."""
    count, schedule = job.config.rounds, job.config.schedule
    ways = [
        [share * of.dense for share in costs.shares(min(of.limit, 1.0), count, schedule)]
        for of in job.budgets
    ]
    return [tuple(f"={amount!r}" for amount in amounts) for amounts in zip(*ways, strict=True)]


def stage(whole: Job, masks: Masks, variables: Any, budget: tuple[str, ...]) -> Stage:
    """What the next round works on.

    Args:
        whole: The job of the run.
        masks: What is left of the dense network.
        variables: Its weights, at the shapes of the dense network.
        budget: What the round may leave, one of `budgets`.
    """
    dense = whole.network
    small = compact(dense.apply, whole.structure, variables, masks)
    train = compact(dense.apply_train, whole.structure, variables, masks)

    def init(key: jax.Array) -> Any:
        return compact(dense.apply, whole.structure, dense.init(key), masks).params

    x = jax.eval_shape(whole.preprocess, whole.dataset.train.images[:1])
    structure = trace(small, small.params, x)
    config = dataclasses.replace(whole.config, budget=budget)
    network = dense._replace(init=init, apply=small, apply_train=train)
    job = whole._replace(config=config, network=network, structure=structure)
    job = job._replace(budgets=make_job_budgets(job, small.params))
    return Stage(whole, masks, job, small.params)


def answer_of_dense(last: Stage, problem: Problem, answer: dict[str, Any]) -> dict[str, Any]:
    """The answer of the last round's search as one about the dense network.

    Args:
        last: The stage before the last round.
        problem: The problem of the dense network.
        answer: What the search kept, see `searching.search`.
    """
    structure, inner = last.whole.structure, last.job.structure

    def wide(masks: Any) -> np.ndarray:
        parts = last.of_dense(inner.unflatten(np.asarray(masks, np.float32)))
        return np.asarray(structure.flatten(parts), np.uint8)

    archive = Archive(**answer["archive"])
    masks = wide(archive.masks)
    cost = candidates.relative_costs(problem, masks.astype(np.float32))
    found = {**answer, "mask": wide(answer["mask"])}
    found["archive"] = archive._replace(masks=masks, cost=cost)._asdict()
    if "variables" in answer:
        found["variables"] = last.in_dense(answer["variables"])
    return found
