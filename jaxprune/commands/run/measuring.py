"""Costs that have to be measured: which candidates hold when they are measured again."""

import dataclasses
from typing import Any

import numpy as np

from jaxprune import costs
from jaxprune.commands.run.display import Display
from jaxprune.commands.run.job import Job
from jaxprune.costs.budgets import Budget
from jaxprune.dependency import CompactNetwork, compact
from jaxprune.errors import UserError
from jaxprune.files.run_folder import RunFolder
from jaxprune.search.problem import Problem

Measured = dict[str, tuple[float, float]]
"""{cost: what a network has of it and what the dense one has, measured side by side}, of the costs
that have to be measured."""

TRIES = 8
"""Candidates that are measured again for each finalist that is wanted, where a cost scatters."""


def known_costs(problem: Problem) -> dict[str, dict[str, float]]:
    """What was measured so far, for a run that is resumed: {cost: {key: value}}."""
    return {budget.name: budget.meter.values for budget in problem.budgets if budget.meter}


def holding(job: Job, problem: Problem, variables: Any, masks: np.ndarray) -> list[np.ndarray]:
    """The first `finalists` of the masks `[m, N]` whose costs, measured anew, are within budget.

    Raises:
        UserError: There is none among the first.
    """

    def network(mask: np.ndarray) -> CompactNetwork:
        return compact(job.network.apply, job.structure, variables, job.structure.unflatten(mask))

    chosen: list[np.ndarray] = []
    for mask in masks[: TRIES * job.config.finalists]:
        if within(problem, _measured_now(problem, network(mask))):
            chosen.append(mask)
        if len(chosen) == job.config.finalists:
            break
    if not chosen:
        raise nothing_holds(problem)
    return chosen


def _measured_now(problem: Problem, network: CompactNetwork) -> Measured:
    return {
        budget.name: budget.meter.beside_dense(network)
        for budget in problem.budgets
        if budget.meter
    }


def within(problem: Problem, measured: Measured) -> bool:
    """Whether measured costs are within all budgets."""
    return all(budget.allows(*measured[budget.name]) for budget in problem.budgets if budget.meter)


def nothing_holds(problem: Problem) -> UserError:
    """The error for a search whose every candidate breaks its budget when it is measured again."""
    names = ", ".join(budget.name for budget in problem.budgets if budget.meter)
    return UserError(
        f"no network that the search found is within its budget when its {names} is measured "
        "again: the measurement scatters too much. Start a run with a larger --latency-margin or "
        "--budget, on a quieter machine"
    )


def measure(
    problem: Problem,
    networks: dict[str, CompactNetwork],
    trained: dict[str, Any],
    folder: RunFolder,
    display: Display,
) -> dict[str, Measured]:
    """What has to be measured of each network, anew with the fine-tuned weights.

    Empty where no budget asks for one.
    """
    if problem.traceable:
        return {}
    if not folder.has("measured"):
        display.begin("measure", len(networks))
        measured: dict[str, Measured] = {}
        for name, small in networks.items():
            tuned = dataclasses.replace(small, params=trained[name])
            measured[name] = _measured_now(problem, tuned)
            display.step(len(measured), name)
        folder.save_json("measured", measured)
        display.end(f"{len(measured)} networks")
    return folder.load_json("measured")


def budget_row(
    job: Job, budget: Budget, measured: dict[str, Measured], masks: Any, winner: str
) -> dict[str, Any]:
    """A budget as result.json has it, and what the answer takes of it."""
    if budget.meter:
        pruned, dense = measured[winner][budget.name]
    else:
        dense, pruned = budget.dense, costs.exact(job.structure, masks, budget.name)
    return {
        "cost": budget.name,
        "unit": budget.unit,
        "limit": budget.limit if budget.amount is None else budget.amount / dense,
        "amount": budget.amount,
        "dense": dense,
        "pruned": pruned,
        "share": pruned / dense,
        "met": bool(budget.allows(pruned, dense)),
    }
