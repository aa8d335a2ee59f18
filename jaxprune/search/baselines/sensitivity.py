"""Sensitivity pruning: each group loses as much as the loss can bear.

The curve of each group says what the loss is when the group alone becomes narrower
(`baselines.curves`). One threshold for all groups then decides: a channel goes if what its loss
costs is below it, and the threshold is the lowest that meets the budget, found by bisection over
the channels in this order, so that the budget is used up to one channel. What is held against the
threshold is one of two things:

- "loss": the height of the curve, as Li et al. (ICLR 2017, sec. 3.2) read it by eye.
- "slope": how much the loss rises for what is saved of the cost. At the best point of a sum of
  convex curves under a linear budget all slopes are equal (Everett, Operations Research 1963), so
  the curves are made convex. What a channel saves depends on the other widths: it is taken at the
  widths that the curves were measured around, and then at those of the answer.

All are tried. The curves of a further iteration are measured around the best network so far.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxprune.costs import within_groups
from jaxprune.search.baselines import curves, proposals, widths
from jaxprune.search.baselines.curves import Curves
from jaxprune.search.baselines.widths import Space
from jaxprune.search.problem import Problem, shares
from jaxprune.search.ranges import AT_LEAST_ONE, require

State = curves.State


@dataclass(frozen=True)
class Config:
    """Settings of sensitivity pruning."""

    iterations: int = 4
    """How often the curves are measured: with all other groups whole, with the others as narrow as
    uniform pruning makes them, then as in the best network so far."""

    points: int = 8
    """Widths of each group that its curve is scored at, besides the whole group; they lie closer
    together where few channels are left."""

    def __post_init__(self) -> None:
        require(self, AT_LEAST_ONE, "iterations", "points")


REACHES = (1.0, 0.5, 0.25, 0.125)
"""How far the answers go from the widths that the curves were measured around, as parts of the
groups' sizes: far away curves of single groups tell little about networks."""


def answers(
    config: Any, problem: Problem, space: Space, measured: Curves, base: np.ndarray
) -> np.ndarray:
    """The networks that the curves suggest, by height and by slope.

    Args:
        config: not used.
        problem: the costs and budgets.
        space: the groups.
        measured: their curves.
        base: int `[C]`, the widths that the curves were measured around.

    Returns:
        Masks, uint8 `[1 + 2 len(REACHES), N]`, within the budget. Some may be equal.

    Raises:
        ValueError: the budget cannot be met even at the least allowed widths.
    """
    del config
    heights = [np.maximum.accumulate(loss)[1:] for loss in measured.losses]
    slopes = [
        np.diff(curves.convex(-choice.widths, loss)) / -np.diff(choice.widths)
        for choice, loss in zip(space.choices, measured.losses, strict=True)
    ]
    found = [_removed_below(problem, space, heights, base, 1.0)]
    for reach in REACHES:
        at = base
        for _ in range(2):
            saved = savings(problem, space, at)
            priced = [slope / price for slope, price in zip(slopes, saved, strict=True)]
            found.append(_removed_below(problem, space, priced, base, reach))
            at = widths.of_masks(space, found[-1:])[0]
    return np.stack(found)


def savings(problem: Problem, space: Space, at: np.ndarray) -> np.ndarray:
    """What a channel of each group costs, as a part of what the budgets allow, float64 `[C]`.

    The mean over the channels that a group can lose, while the others have the widths `at`: the
    difference between the group at its greatest and at its least width. Several budgets are added
    up. A group whose channels save nothing, as measured, still has a small price: its channels
    are the last to go.
    """
    own = np.eye(len(at), dtype=bool)
    most, least = np.where(own, space.greatest, at), np.where(own, space.least, at)
    parts = shares(problem, widths.masks(space, np.concatenate([most, least])))
    total = (parts.astype(np.float64) / problem.limits).sum(-1)
    per_channel = (total[: len(at)] - total[len(at) :]) / np.maximum(
        space.greatest - space.least, 1
    )
    return np.maximum(per_channel, 1e-3 * max(per_channel.mean(), 1e-9))


def _removed_below(
    problem: Problem, space: Space, values: list[np.ndarray], base: np.ndarray, reach: float
) -> np.ndarray:
    """The mask that is left when channels go in the order of what their loss is held against.

    `values` has for each choice `[W - 1]`, of each step from one allowed width to the next. Among
    equal values the least important channels of all groups go first. Channels that are more than
    `reach` of their group above `base` go before all others, those as far below it after them.
    """
    size = within_groups.size(space.sizes)
    width = size - space.rank  # the least width that a channel belongs to
    score = np.empty(len(size))
    for c, (choice, value) in enumerate(zip(space.choices, values, strict=True)):
        channels = space.choice_of == c
        step = np.searchsorted(-choice.widths, -width[channels], side="right") - 1
        padded = np.concatenate([[-np.inf], value, [np.inf]])
        score[channels] = padded[step + 1]
    far = np.maximum(1, reach * size)
    score[width > base[space.choice_of] + far] = -np.inf
    score[width <= base[space.choice_of] - far] = np.inf
    order = np.lexsort(((space.rank + 0.5) / size, score))
    turn = np.empty(len(order))
    turn[order] = np.arange(len(order))
    return widths.in_order(problem, space, turn)


init = curves.init
finished = curves.finished
update = functools.partial(curves.update, answers)
search = functools.partial(proposals.search, update, finished, init=init)
