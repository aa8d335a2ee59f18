"""The archive of finished candidates: begun empty, extended by scored masks."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.scoring.evaluation import Scores
from jaxprune.search.envs import filterwise
from jaxprune.search.envs.filterwise import Rules
from jaxprune.search.problem import (
    Archive,
    Problem,
    best,
    relative_cost,
    scores,
    shares,
    validation_scores,
)


@functools.partial(jax.jit, static_argnames="rules")
def _traced_costs(rules: Rules, masks: Array) -> Array:
    return jax.vmap(lambda mask: filterwise.cost(rules, mask))(masks)


def relative_costs(problem: Problem, masks: Array) -> np.ndarray:
    """`Problem.cost` of candidates `[K, N]`, measured where it must be: float32 `[K]`."""
    if problem.traceable:
        return np.asarray(_traced_costs(filterwise.rules(problem), masks), np.float32)
    return relative_cost(problem, shares(problem, masks))


def empty(num_filters: int) -> Archive:
    """An archive without candidates."""
    none = np.zeros(0, np.float32)
    masks = np.zeros((0, num_filters), np.uint8)
    return Archive(masks=masks, cost=none, loss=none, accuracy=none, validation=none)


def extend(archive: Archive, problem: Problem, masks: Array) -> Archive:
    """Appends candidates, `[K, N]` with 1 = kept, scored on the training and validation splits."""
    masks = np.asarray(masks)
    train, validation = scores(problem, masks), validation_scores(problem, masks)
    new = Archive(
        masks=np.asarray(masks, np.uint8),
        cost=relative_costs(problem, masks),
        loss=np.asarray(train.loss, np.float32),
        accuracy=np.asarray(train.accuracy, np.float32),
        validation=np.asarray(validation.accuracy, np.float32),
    )
    return Archive(*(np.concatenate(columns) for columns in zip(archive, new, strict=True)))


def append(
    archive: Archive,
    problem: Problem,
    masks: Array,
    costs: Array,
    train: Scores,
    validation: Array,
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


def by_training(train: Scores, feasible: Any) -> Any:
    """The candidates' indices, feasible ones first, then by training accuracy, then by loss."""
    xp = np if isinstance(feasible, np.ndarray) else jnp
    return xp.lexsort((train.loss, -train.accuracy, ~feasible))


def best_validation(archive: Archive, budget: float) -> float:
    """The validation accuracy of the best feasible candidate."""
    return float(archive.validation[best(archive, budget)])
