"""The archive of finished candidates: begun empty, extended by scored masks."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.scoring.evaluation import Scores
from jaxprune.search.problem import (
    Archive,
    Problem,
    best,
    relative_cost,
    scores,
    shares,
    traced_costs,
    validation_scores,
)


@functools.partial(jax.jit, static_argnums=0)
def _traced_costs(functions: tuple[Callable[[Array], Array], ...], masks: Array) -> Array:
    return jnp.stack([jax.vmap(cost)(masks) for cost in functions], axis=-1)


def costs(problem: Problem, masks: Any) -> np.ndarray:
    """The cost of candidates `[K, N]` under each budget, as fractions of the dense costs.

    Traced costs are computed in one compiled call, others measured: float32 `[K, m]`.
    """
    if problem.traceable:
        masks = np.asarray(masks, np.float32)
        return np.asarray(_traced_costs(traced_costs(problem), masks), np.float32)
    return shares(problem, masks)


def relative_costs(problem: Problem, masks: Any) -> np.ndarray:
    """`Problem.cost` of candidates `[K, N]`, measured where it must be: float32 `[K]`."""
    return np.asarray(relative_cost(problem, costs(problem, masks)), np.float32)


def empty(num_filters: int) -> Archive:
    """An archive without candidates."""
    none = np.zeros(0, np.float32)
    masks = np.zeros((0, num_filters), np.uint8)
    return Archive(masks=masks, cost=none, loss=none, accuracy=none, validation=none)


def extend(
    archive: Archive, problem: Problem, masks: Any, *, many: bool = False, probes: bool = False
) -> Archive:
    """Appends candidates that are scored on the batches of the training and validation splits.

    Args:
        archive: what was found before.
        problem: what scores them.
        masks: `[K, N]`, 1 = kept.
        many: the search scores hundreds of networks, so that preparing for them pays where it does
            not for a few.
        probes: they are scored to learn something, not to be chosen: their validation accuracy is
            not looked at, and their cost, where it had to be measured, neither; both are NaN.
    """
    masks = np.asarray(masks, np.float32)
    by = problem.host if many else None
    train = by.evaluate(masks) if by else scores(problem, masks)
    cost = validation = np.full(len(masks), np.nan, np.float32)
    if not probes:
        found = by.validate(masks) if by else validation_scores(problem, masks)
        validation = np.asarray(found.accuracy, np.float32)
    if problem.traceable or not probes:
        cost = relative_costs(problem, masks)
    new = Archive(
        masks=np.asarray(masks, np.uint8),
        cost=cost,
        loss=np.asarray(train.loss, np.float32),
        accuracy=np.asarray(train.accuracy, np.float32),
        validation=validation,
    )
    return Archive(*(np.concatenate(columns) for columns in zip(archive, new, strict=True)))


def append(
    archive: Archive,
    problem: Problem,
    masks: Any,
    costs: Any,
    train: Scores,
    validation: Any,
) -> Archive:
    """Appends candidates that a search has scored itself.

    Args:
        archive: what was found before.
        problem: the budgets.
        masks: `[K, N]`, 1 = kept.
        costs: float32 `[K, m]`, under each budget, as fractions of the dense costs.
        train: on the batch of the training split, `[K]` each.
        validation: float32 `[K]`, accuracy on the validation split, NaN where not looked at.
    """
    new = Archive(
        masks=np.asarray(masks, np.uint8),
        cost=np.asarray(relative_cost(problem, np.asarray(costs)), np.float32),
        loss=np.asarray(train.loss, np.float32),
        accuracy=np.asarray(train.accuracy, np.float32),
        validation=np.asarray(validation, np.float32),
    )
    return Archive(*(np.concatenate(columns) for columns in zip(archive, new, strict=True)))


def validate_best(
    validate: Callable[[Any], Scores], masks: Any, train: Scores, feasible: Any, count: int
) -> np.ndarray:
    """The validation accuracy of the best of a round's candidates, float32 `[K]`.

    Args:
        validate: masks -> scores on the validation split.
        masks: `[K, N]`, 1 = kept.
        train: their scores on the batch of the training split.
        feasible: bool `[K]`, which of them are within the budget.
        count: how many are validated, NaN standing for the others: feasible ones first, then by
            training accuracy, then by loss.
    """
    order = np.lexsort((train.loss, -np.asarray(train.accuracy), ~np.asarray(feasible)))
    chosen = order[: min(count, len(order))]
    validation = np.full(len(masks), np.nan, np.float32)
    validation[chosen] = validate(np.asarray(masks, np.float32)[chosen]).accuracy
    return validation


def best_validation(archive: Archive, budget: float) -> float:
    """The validation accuracy of the best feasible candidate."""
    return float(archive.validation[best(archive, budget)])


def least_loss(archive: Archive, budget: float) -> int:
    """The index of the candidate within the budget that has the least loss; the first of equals.

    Raises:
        ValueError: none is within the budget.
    """
    feasible = np.flatnonzero(archive.cost <= budget)
    if not len(feasible):
        raise ValueError(f"none of the {len(archive.cost)} candidates costs at most {budget:g}")
    return int(feasible[np.nan_to_num(archive.loss[feasible], nan=np.inf).argmin()])


def metrics(archive: Archive, budget: float, iteration: int) -> dict[str, float]:
    """What a search that is played in rounds reports after each of them."""
    return {
        "iteration": iteration,
        "episodes": len(archive.cost),
        "candidates": len(archive.cost),
        "best_accuracy": best_validation(archive, budget),
        "least_loss": float(archive.loss[least_loss(archive, budget)]),
    }
