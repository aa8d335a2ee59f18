"""What pruning can do to each cost, known before a search begins."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxprune.costs import counting, within_groups
from jaxprune.costs.budgets import UNITS, Budget, narrowest
from jaxprune.costs.limits import NO_LIMITS, Limits, allowed
from jaxprune.costs.removals import removals, turns
from jaxprune.dependency import Structure


class Outlook(NamedTuple):
    """One cost, in its own unit.

    Attributes:
      cost: its name.
      unit: its unit, "" if it is a function of the user's.
      dense: of the whole network.
      uniform: of the network that has lost the same part of each group, as little as meets the
        budgets; None if that was not asked for.
      least: at the least allowed widths.
      budget: what is allowed; None if this cost has no budget.
    """

    cost: str
    unit: str
    dense: float
    uniform: float | None
    least: float
    budget: float | None


def outlook(
    structure: Structure,
    budgets: Sequence[Budget],
    limits: Limits = NO_LIMITS,
    *,
    uniform: bool = True,
) -> list[Outlook]:
    """The costs that have a budget, then those that follow from the widths alone.

    Args:
      structure: the network's groups.
      budgets: what is allowed, which can be reached within the limits.
      limits: which widths the groups may have.
      uniform: whether to look for uniform widths, which where a cost has to be measured means some
        measurements.
    """
    least = narrowest(structure, limits)
    between = uniform_mask(structure, budgets, limits) if uniform else None
    rows = [
        Outlook(
            cost=budget.name,
            unit=budget.unit,
            dense=budget.dense,
            uniform=None if between is None else _cost(structure, budget, between),
            least=_cost(structure, budget, least),
            budget=budget.limit * budget.dense if budget.amount is None else budget.amount,
        )
        for budget in budgets
    ]
    limited = {budget.name for budget in budgets}
    for name in counting.NAMES:
        if name not in limited:
            uniform_cost = None if between is None else _count(structure, name, between)
            dense = counting.dense(structure, name)
            smallest = _count(structure, name, least)
            rows.append(Outlook(name, UNITS[name], dense, uniform_cost, smallest, None))
    return rows


def uniform_mask(structure: Structure, budgets: Sequence[Budget], limits: Limits) -> np.ndarray:
    """The same part of every group removed, as little as meets the budgets: uint8 [N]."""
    permitted = allowed(structure, limits)
    rank = np.concatenate([np.arange(size) for size in permitted.sizes])
    worth = ((rank + 0.5) / within_groups.size(permitted.sizes)).astype(np.float32)
    turn = turns(permitted, rank, worth)

    def enough(count: int) -> bool:
        mask = (turn > count).astype(np.uint8)
        return all(_cost(structure, b, mask) <= b.target * b.dense for b in budgets)

    low, high = 0, removals(permitted).total
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return (turn > high).astype(np.uint8)


def _cost(structure: Structure, budget: Budget, mask: np.ndarray) -> float:
    """A cost of a flat mask in its own unit, measured where it has to be."""
    return budget.meter(mask) if budget.meter else _count(structure, budget.name, mask)


def _count(structure: Structure, name: str, mask: np.ndarray) -> int:
    return counting.exact(structure, structure.unflatten(mask), name)
