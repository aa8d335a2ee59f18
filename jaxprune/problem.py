"""What a search is given and what it returns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune import costs, importance
from jaxprune.dependency import Structure, masked
from jaxprune.errors import UserError
from jaxprune.evaluate import Scores, evaluate


class Problem(NamedTuple):
    """A pruning problem over flat masks of N channels, 1 = keep, 0 = remove.

    No search ever sees the test split.

    Attributes:
      structure: the network's channels.
      evaluate: [K, N] -> scores on a fixed batch of the training split; may be called inside jit.
      validate: [K, N] -> scores on the validation split; may be called inside jit.
      cost: [N] -> cost as a fraction of the dense network's; may be called inside jit and vmap.
      budget: a mask is feasible if its cost is at most this.
      importance: float32 [N], non-negative, larger means keep.
    """

    structure: Structure
    evaluate: Callable[[Array], Scores]
    validate: Callable[[Array], Scores]
    cost: Callable[[Array], Array]
    budget: float
    importance: Array


def make_problem(
    apply: Callable[..., Array],
    structure: Structure,
    params: Any,
    train: tuple[Array, Array],
    validation: tuple[Array, Array],
    *,
    cost: str = "macs",
    budget: float = 0.5,
    chunk: int | None = None,
) -> Problem:
    """The problem of pruning a trained classifier to a budget.

    Args:
      apply: `apply(params, x) -> logits [B, classes]`.
      structure: the structure of `apply`.
      params: the trained parameters.
      train: (x, y), the batch of the training split that rewards are computed on.
      validation: (x, y), held out of the training split; decides between candidates.
      cost: one of `costs.NAMES`.
      budget: the fraction of the dense cost that is allowed.
      chunk: how many candidates are evaluated at once, see `evaluate`.

    Raises:
      UserError: the budget is outside (0, 1] or below what can be reached, the cost is unknown, or
        the network has nothing to prune.
    """
    check_budget(structure, cost, budget)
    masked_apply = masked(apply, structure)
    cost_of, whole = costs.get(cost), costs.dense(structure, cost)

    def on(x: Array, y: Array) -> Callable[[Array], Scores]:
        return lambda masks: evaluate(
            masked_apply, params, structure.unflatten(masks.astype(jnp.float32)), x, y, chunk=chunk
        )

    return Problem(
        structure=structure,
        evaluate=on(*train),
        validate=on(*validation),
        cost=lambda mask: (
            cost_of(structure, structure.unflatten(jnp.asarray(mask, jnp.float32))) / whole
        ),
        budget=budget,
        importance=importance.l1(structure, params),
    )


def check_budget(structure: Structure, cost: str, budget: float) -> None:
    """Raises UserError unless some mask meets the budget."""
    if not structure.groups:
        raise UserError(
            "the network has no channels that can be removed; print the structure to see why"
        )
    costs.get(cost)
    if not 0 < budget <= 1:
        raise UserError(
            f"budget {budget:g} is outside (0, 1]; it is the fraction of {cost} to keep"
        )
    least = costs.smallest(structure, cost) / costs.dense(structure, cost)
    if budget < least:
        raise UserError(
            f"budget {budget:g} cannot be reached: with one channel left in every group "
            f"{least:.4g} of the {cost} remain; give a budget of at least {_round_up(least)}"
        )


def _round_up(value: float) -> str:
    return f"{np.ceil(value * 1e4) / 1e4:g}"


class Archive(NamedTuple):
    """Every finished candidate that a search has evaluated, in order.

    Attributes:
      masks: uint8 [n, N].
      cost: float32 [n], fraction of the dense cost.
      loss: float32 [n], on the batch of the training split.
      accuracy: float32 [n], on the batch of the training split.
      validation: float32 [n], accuracy on the validation split.
    """

    masks: np.ndarray
    cost: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    validation: np.ndarray


def ranking(archive: Archive, budget: float) -> np.ndarray:
    """The indices of the feasible candidates, the best first.

    Higher validation accuracy is better; among equals higher training accuracy, then lower loss,
    then the earlier candidate. Masks that occur again are left out.

    Returns:
      int [m], m >= 1.

    Raises:
      ValueError: no candidate is feasible.
    """
    feasible = np.flatnonzero(archive.cost <= budget)
    if not len(feasible):
        raise ValueError(
            f"none of the {len(archive.cost)} candidates has a cost of at most {budget:g}"
        )
    order = feasible[
        np.lexsort(
            (archive.loss[feasible], -archive.accuracy[feasible], -archive.validation[feasible])
        )
    ]
    _, first = np.unique(archive.masks[order], axis=0, return_index=True)
    return order[np.sort(first)]


def best(archive: Archive, budget: float) -> int:
    """The index of the best feasible candidate: the first of `ranking`."""
    return int(ranking(archive, budget)[0])


class SearchResult(NamedTuple):
    """What a search returns.

    Attributes:
      mask: uint8 [N], the best feasible candidate that was ever evaluated.
      archive: all candidates.
      episodes: how many episodes were played (for methods that have none: candidates tried).
      state: the search's last state.
    """

    mask: np.ndarray
    archive: Archive
    episodes: int
    state: Any
