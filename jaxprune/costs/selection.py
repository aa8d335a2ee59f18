"""From scores to masks: the least pruning that meets a budget within the limits."""

from bisect import bisect_left
from collections.abc import Callable
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from jaxprune.costs import counting, removals, within_groups
from jaxprune.costs.budgets import round_up
from jaxprune.costs.limits import NO_LIMITS, Limits, allowed, check_leaves_room
from jaxprune.costs.scopes import SCOPES, comparable
from jaxprune.dependency import Masks, Structure
from jaxprune.dependency.groups import check_structure
from jaxprune.errors import UserError
from jaxprune.importance import checked

Cost = str | Callable[[Structure, Masks], Any]
"""One of `costs.NAMES`, or any function `cost(structure, masks)` that returns a number."""


def select(
    structure: Structure,
    scores: Any,
    cost: Cost = "macs",
    budget: float = 0.5,
    limits: Limits = NO_LIMITS,
    scope: str = "global",
) -> dict[str, np.ndarray]:
    """Removes the least important channels until a budget is just met.

    Within a group the channels with the lowest scores go first, ties by index. Channels are removed
    in units: from one allowed width of a group to the next, which is one channel or, with
    `round_to`, several; groups bound to equal widths lose theirs together. The units are ordered by
    the mean score of their channels, compared as `scope` says, and as few of them are removed as
    meet the budget, found by bisection. This assumes that removing channels never raises the cost;
    if it does, as a measured cost may, the budget is still met, perhaps by removing too much.

    Args:
      structure: what `trace` returned.
      scores: finite [num_channels], larger = keep, as `jaxprune.importance` returns them.
      cost: what is limited. A function gets the structure and float32 masks of 0 and 1; it may
        build and time the compact network.
      budget: the cost that may remain, as a fraction of the dense network's, in (0, 1].
      limits: which widths are allowed. Channels that they forbid are removed in any case.
      scope: how channels of different groups are compared. "global": by their scores divided by the
        mean score of their group. "uniform": by their rank within the group over its size, which
        takes the same fraction of each. "isomorphic": by their scores as they are, but only among
        groups that are alike, and the same fraction of each kind goes (see `costs.scopes`). "raw":
        by the scores as they are, for criteria made to be compared across layers (LAMP, SNIP,
        GraSP, Taylor, BatchNorm scales).

    Returns:
      {group: float32 [size]}, 1 = keep, 0 = remove.

    Raises:
      UserError: the limits are contradictory, the budget is out of reach (the message gives the
        smallest that is not) or met without any removal, or an argument is not of its kind.
      TypeError: the structure is none.
    """
    check_request(structure, cost, budget, limits, scope)
    plan = _plan(structure, checked(structure, scores), limits, scope)
    relative_cost = _relative_cost(structure, cost)
    name = cost if isinstance(cost, str) else "cost"

    def enough(count: int) -> bool:
        return relative_cost(_masks(structure, plan, count)) <= budget

    if not enough(plan.removals):
        least = relative_cost(_masks(structure, plan, plan.removals))
        raise UserError(
            f"budget {budget:g} cannot be reached: at the smallest allowed widths {least:.4g} of "
            f"the {name} remain; give a budget of at least {round_up(least):g} or loosen the "
            "limits"
        )
    count = bisect_left(range(plan.removals), True, key=enough)
    masks = _masks(structure, plan, count)
    if all(mask.all() for mask in masks.values()):
        raise UserError(
            f"budget {budget:g} removes nothing: the whole network meets it; give a smaller "
            "fraction, such as 0.5"
        )
    return masks


def check_request(
    structure: Structure, cost: Cost, budget: float, limits: Limits, scope: str
) -> None:
    """Checks every argument of `select` but the scores.

    Raises:
      UserError: one is invalid.
      TypeError: the structure is none.
    """
    check_structure(structure)
    if not isinstance(limits, Limits):
        raise UserError(f"limits is of type {type(limits).__name__}; write Limits(min_size=...)")
    if not structure.groups:
        reasons = dict.fromkeys(frozen.reason for frozen in structure.frozen)
        raise UserError(
            "the network has no channels that can be removed"
            + (f" ({'; '.join(reasons)})" if reasons else "")
            + ": print the structure to see what forbids it for each layer"
        )
    if not callable(cost):
        counting.get(cost)
    if not 0 < _number("budget", budget) <= 1:
        raise UserError(f"budget {budget:g} is outside (0, 1]; it is the fraction of cost to keep")
    if scope not in SCOPES:
        raise UserError(f"unknown scope {scope!r}; the scopes are: {', '.join(SCOPES)}")
    check_leaves_room(structure, limits)


class _Plan(NamedTuple):
    """When each channel goes, int [num_channels] as `removals.turns` gives it, of R removals."""

    turn: np.ndarray
    removals: int


def _plan(structure: Structure, scores: Any, limits: Limits, scope: str) -> _Plan:
    permitted = allowed(structure, limits)
    rank = np.asarray(within_groups.rank(permitted.sizes, scores))
    worth = comparable(structure, scores, scope)
    turn = removals.turns(permitted, rank, np.asarray(worth, np.float32))
    return _Plan(turn, removals.removals(permitted).total)


def _masks(structure: Structure, plan: _Plan, count: int) -> dict[str, np.ndarray]:
    """What is left after so many removals."""
    return structure.unflatten((plan.turn > count).astype(np.float32))


def _relative_cost(structure: Structure, cost: Cost) -> Callable[[Masks], float]:
    """The cost of masks as a fraction of the dense network's."""

    def of(masks: Masks) -> float:
        if isinstance(cost, str):
            return counting.exact(structure, masks, cost)
        value = _number("the value of the cost function", cost(structure, masks))
        if not isfinite(value):
            widths = {name: int(mask.sum()) for name, mask in masks.items()}
            raise UserError(f"the cost function returns {value} for the widths {widths}")
        return value

    dense = of(structure.full_masks())
    if dense <= 0:
        raise UserError(f"the cost of the whole network is {dense:g}; it must be above 0")
    return lambda masks: of(masks) / dense


def _number(name: str, value: Any) -> float:
    """A number as a float; raises UserError if it is none."""
    try:
        if not isinstance(value, str):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise UserError(f"{name} is {value!r:.80}, which is no number")
