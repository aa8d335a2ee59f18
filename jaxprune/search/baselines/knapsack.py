"""Widths as a knapsack: the exact choice of least loss within the budget.

Each group keeps one of its widths. What a width costs in loss is read off the group's sensitivity
curve (`baselines.curves`), losses of several groups are added up, and the cheapest choice that
meets every budget is a multiple-choice knapsack, which `scipy.optimize.milp` (HiGHS) solves. The
same was done for filters by Aflalo et al. ("Knapsack Pruning with Inner Distillation", arXiv
2002.08258) and for layers under a latency by Shen et al. (HALP, NeurIPS 2021).

Parameters and multiply-adds are products of neighbouring widths, not sums over groups. So the cost
is linearised: of each group's width the cost is taken while the others have those of the present
network, the changes are added up, and the solution becomes the next present network, as long as
the sum of the losses falls (successive linear programming). The real cost is always checked: a
solution that breaks a budget is narrowed, all groups in proportion, until it does not. For a cost
that is a sum over groups the first solution is exact. Losses are no sum either, so that solutions
are sought within several distances of where the curves were measured, and the best as scored is
where they are measured next.

A cost that has to be measured is measured at three widths of each group, and interpolated.
"""

import functools
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import scipy.sparse

from jaxprune.search.baselines import candidates, curves, proposals, widths
from jaxprune.search.baselines.curves import Curves
from jaxprune.search.baselines.sensitivity import REACHES
from jaxprune.search.baselines.widths import Space
from jaxprune.search.problem import Problem, shares
from jaxprune.search.ranges import AT_LEAST_ONE, require

ROUNDING = 5e-7
"""What costs may be above a limit, as a part of it, for the solver: they are known to float32."""

AT_ONCE = 256
"""Masks whose costs are computed together."""


State = curves.State


@dataclass(frozen=True)
class Config:
    """Settings of the knapsack."""

    iterations: int = 4
    """How often the curves are measured: with all other groups whole, with the others as narrow as
    uniform pruning makes them, then as in the best network so far."""

    points: int = 8
    """Widths of each group that its curve is scored at, besides the whole group; they lie closer
    together where few channels are left."""

    solutions: int = 8
    """How often at most the knapsack is solved for one candidate, each time with the cost
    linearised around the solution before."""

    widths: int = 128
    """At most about so many widths of a group to choose from, equally spaced."""

    def __post_init__(self) -> None:
        require(self, AT_LEAST_ONE, "iterations", "points", "solutions")
        if not self.widths >= 2:
            raise ValueError(f"widths must be at least 2, not {self.widths}")


def solutions(
    config: Config, problem: Problem, space: Space, measured: Curves, base: np.ndarray
) -> np.ndarray:
    """What the knapsack gives within each reach of `base`, uint8 `[len(REACHES), N]`."""
    found = [choose(config, problem, space, measured.losses, base, reach) for reach in REACHES]
    return np.stack(found)


def choose(
    config: Config,
    problem: Problem,
    space: Space,
    losses: tuple[np.ndarray, ...],
    base: np.ndarray,
    reach: float,
) -> np.ndarray:
    """The network that solving the knapsack again and again leads to.

    Args:
        config: the settings.
        problem: the costs and budgets.
        space: the groups.
        losses: of each choice, `[W]`, at its allowed widths.
        base: int `[C]`, widths to begin at.
        reach: how far from there widths may lie, as a part of their groups' sizes.

    Returns:
        The mask, uint8 `[N]`, within the budget.
    """

    def total(present: np.ndarray) -> float:
        return sum(
            float(np.interp(-width, -choice.widths, loss))
            for width, choice, loss in zip(present, space.choices, losses, strict=True)
        )

    best_mask = widths.in_proportion(problem, space, base / space.greatest)
    base = present = widths.of_masks(space, [best_mask])[0]
    for _ in range(config.solutions):
        options = [
            _options(choice.widths, start, width, config.widths, reach)
            for choice, start, width in zip(space.choices, base, present, strict=True)
        ]
        values = [
            np.interp(-option, -choice.widths, loss)
            for option, choice, loss in zip(options, space.choices, losses, strict=True)
        ]
        costs, limits = linearised(problem, space, present, options)
        solution = solve(values, costs, limits)
        wanted = np.array([option[k] for option, k in zip(options, solution, strict=True)])
        mask = widths.masks(space, [wanted])[0]
        if candidates.relative_costs(problem, mask[None])[0] > problem.budget:
            mask = widths.in_proportion(problem, space, wanted / space.greatest)
            wanted = widths.of_masks(space, [mask])[0]
        if total(wanted) >= total(present):
            break
        best_mask, present = mask, wanted
    return best_mask


def _options(allowed: np.ndarray, base: int, present: int, count: int, reach: float) -> np.ndarray:
    """The widths to choose from, descending: the present one and some within reach of `base`."""
    near = allowed[np.abs(allowed - base) <= max(1.0, reach * allowed.max())]
    spaced = near[
        np.unique(np.linspace(0, len(near) - 1, min(count, len(near))).round().astype(int))
    ]
    return np.unique([*spaced, present])[::-1]


def linearised(
    problem: Problem, space: Space, present: np.ndarray, options: list[np.ndarray]
) -> tuple[list[np.ndarray], np.ndarray]:
    """What each width would cost more than the present one, and what may be added in all.

    Args:
        problem: the costs and m budgets.
        space: the groups.
        present: int `[C]`, widths.
        options: of each group the widths to choose from, `[O]`.

    Returns:
        For each group float64 `[O, m]`, and float64 `[m]`; both as parts of the limits.
    """
    at = [
        option
        if problem.traceable
        else np.unique([option[0], width, option[-1]])[::-1]  # each takes a while
        for option, width in zip(options, present, strict=True)
    ]
    own = np.eye(len(present), dtype=bool)
    one_changed = [np.where(own[c], several[:, None], present) for c, several in enumerate(at)]
    tries = np.concatenate([present[None], *one_changed])
    parts = _shares(problem, widths.masks(space, tries)) / problem.limits
    now, *each = np.split(parts, np.cumsum([1, *map(len, at)])[:-1])
    costs = [
        np.stack([np.interp(-option, -several, part) for part in (found - now).T], axis=-1)
        for option, several, found in zip(options, at, each, strict=True)
    ]
    return costs, 1 - now[0] + ROUNDING


def _shares(problem: Problem, masks: np.ndarray) -> np.ndarray:
    """`shares` in float64, computed in parts of one size: little memory, and compiled once."""
    if not problem.traceable:
        return shares(problem, masks).astype(np.float64)
    found = []
    for start in range(0, len(masks), AT_ONCE):
        part = masks[start : start + AT_ONCE]
        missing = AT_ONCE - len(part)
        found.append(shares(problem, np.pad(part, ((0, missing), (0, 0)), "edge"))[: len(part)])
    return np.concatenate(found).astype(np.float64)


def solve(values: list[np.ndarray], costs: list[np.ndarray], limits: np.ndarray) -> list[int]:
    """The multiple-choice knapsack: one option of each group, of least value within the limits.

    Args:
        values: of each group `[O]`, what is to become small in sum.
        costs: of each group `[O, m]`.
        limits: `[m]`, what the costs may sum up to.

    Returns:
        The index of each group's option.

    Raises:
        ValueError: no choice is within the limits.
    """
    group = np.repeat(np.arange(len(values)), [len(value) for value in values])
    one_each = scipy.sparse.csr_array((np.ones(len(group)), (group, np.arange(len(group)))))
    found = scipy.optimize.milp(
        np.concatenate(values),
        integrality=np.ones(len(group)),
        bounds=scipy.optimize.Bounds(0, 1),
        constraints=[
            scipy.optimize.LinearConstraint(one_each, 1, 1),
            scipy.optimize.LinearConstraint(np.concatenate(costs).T, -np.inf, limits),
        ],
        options={"mip_rel_gap": 0},
    )
    if found.x is None:
        raise ValueError(f"no choice of widths is within the limits: {found.message}")
    return [int(found.x[group == g].argmax()) for g in range(len(values))]


init = curves.init
finished = curves.finished
update = functools.partial(curves.update, solutions)
search = functools.partial(proposals.search, update, finished, init=init)
