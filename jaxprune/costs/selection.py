"""From scores to masks: the least pruning that meets a budget within the limits."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from jaxprune.costs import counting, within_groups
from jaxprune.costs.budgets import round_up
from jaxprune.costs.limits import NO_LIMITS, Choice, Limits, choices
from jaxprune.dependency import Masks, Structure
from jaxprune.dependency.groups import check_structure
from jaxprune.errors import UserError
from jaxprune.importance import checked

Cost = str | Callable[[Structure, Masks], Any]
"""One of `costs.NAMES`, or any function `cost(structure, masks)` that returns a number."""

SCOPES = ("global", "uniform", "raw")
"""How channels of different groups are compared, see `select`."""


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
        takes the same fraction of each. "raw": by the scores as they are, for criteria made to be
        compared across layers (LAMP, Taylor, BatchNorm scales).

    Returns:
      {group: float32 [size]}, 1 = keep, 0 = remove.

    Raises:
      UserError: the limits are contradictory, the budget is out of reach (the message gives the
        smallest that is not) or met without any removal, or an argument is not of its kind.
      TypeError: the structure is none.
    """
    allowed = check_request(structure, cost, budget, limits, scope)
    plan = _plan(structure, checked(structure, scores), allowed, scope)
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
) -> tuple[Choice, ...]:
    """Checks every argument of `select` but the scores, and returns what the limits allow.

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
    allowed = choices(structure, limits)
    whole = [structure.groups[choice.groups[0]].size for choice in allowed]
    if all(choice.widths.tolist() == [size] for choice, size in zip(allowed, whole, strict=True)):
        raise UserError(
            "the limits keep every group whole, so that nothing can be removed; lower min_size, "
            f"round_to {limits.round_to} or `least`"
        )
    return allowed


class _Plan(NamedTuple):
    """When each channel goes.

    Attributes:
      turn: int [num_channels]: 0 if the limits forbid the channel, n if the n-th removal takes it,
        `removals` + 1 if it always stays.
      removals: how many removals there are.
    """

    turn: np.ndarray
    removals: int


def _plan(structure: Structure, scores: Any, allowed: Sequence[Choice], scope: str) -> _Plan:
    sizes = tuple(group.size for group in structure.groups)
    rank = np.asarray(within_groups.rank(sizes, scores))
    worth = {
        "global": within_groups.relative(sizes, scores),
        "uniform": (rank + 0.5) / within_groups.size(sizes),
        "raw": scores,
    }[scope]

    stage = np.zeros(len(rank), np.int64)  # of each channel: how many allowed widths hold it
    stages = np.zeros(len(sizes), np.int64)  # of each group: how many widths are allowed
    first = np.zeros(len(sizes), np.int64)  # of each group: the number of its first unit
    ends = np.cumsum(sizes)
    num_units = 0
    for choice in allowed:
        for g in choice.groups:
            inside = slice(ends[g] - sizes[g], ends[g])
            stage[inside] = np.searchsorted(sizes[g] - choice.widths, rank[inside], side="right")
            stages[g], first[g] = len(choice.widths), num_units
        num_units += len(choice.widths) - 1

    group = structure.group_index
    goes = (stage > 0) & (stage < stages[group])
    unit = first[group] + stage - 1
    # In float64, means of float32 scores keep the order within a group.
    total = np.bincount(unit[goes], np.asarray(worth)[goes], num_units)
    mean = total / np.bincount(unit[goes], minlength=num_units)
    turn = np.where(stage == 0, 0, num_units + 1)
    position = np.argsort(np.argsort(mean, kind="stable"))  # ascending, ties by index
    turn[goes] = 1 + position[unit[goes]]
    return _Plan(turn, num_units)


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
