"""Networks as widths: how many channels each group keeps, the most important ones.

A list of widths has one entry for each `Choice` of `jaxprune.costs.limits`: for each group, or for
several groups that must be of equal width.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprune.costs import within_groups
from jaxprune.costs.limits import NO_LIMITS, Choice, Limits, choices
from jaxprune.search.baselines.removal import least_removal
from jaxprune.search.envs import filterwise
from jaxprune.search.problem import Problem


class Space(NamedTuple):
    """The networks that can be described by widths. There are N channels in G groups.

    Attributes:
        sizes: number of channels of each group.
        choices: the widths that are allowed, C entries.
        rank: int `[N]`, of each channel in its group by importance, 0 = least important.
        choice_of: int `[N]`, the entry of `choices` that decides on each channel.
    """

    sizes: tuple[int, ...]
    choices: tuple[Choice, ...]
    rank: np.ndarray
    choice_of: np.ndarray

    @property
    def greatest(self) -> np.ndarray:
        """The greatest allowed widths, int `[C]`."""
        return np.array([choice.widths[0] for choice in self.choices])

    @property
    def least(self) -> np.ndarray:
        """The least allowed widths, int `[C]`."""
        return np.array([choice.widths[-1] for choice in self.choices])


def space(problem: Problem, limits: Limits = NO_LIMITS) -> Space:
    """The widths that a problem's groups may have."""
    rules = filterwise.rules(problem)
    allowed = choices(problem.structure, limits)
    of_group = {g: c for c, choice in enumerate(allowed) for g in choice.groups}
    return Space(
        rules.sizes,
        allowed,
        np.asarray(within_groups.rank(rules.sizes, problem.importance)),
        np.array([of_group[g] for g in range(len(rules.sizes))])[rules.group_index],
    )


def masks(space: Space, widths: Any) -> np.ndarray:
    """The masks of these widths: int `[K, C]` -> uint8 `[K, N]`."""
    kept = np.asarray(widths)[:, space.choice_of]
    return (space.rank >= within_groups.size(space.sizes) - kept).astype(np.uint8)


def of_masks(space: Space, masks: Any) -> np.ndarray:
    """How many channels masks keep: `[K, N]` -> int `[K, C]`."""
    starts = np.cumsum(space.sizes) - space.sizes
    kept = np.add.reduceat(np.asarray(masks, np.int64), starts, axis=-1)
    return kept[:, [choice.groups[0] for choice in space.choices]]


def within_budget(problem: Problem, space: Space, parts: np.ndarray) -> np.ndarray:
    """The widest network whose widths are about in proportion to `parts`.

    Widths grow together, group by group in this proportion, until one more channel would break a
    budget; a group that is whole waits for the others.

    Args:
        problem: the budgets.
        space: the groups.
        parts: positive `[C]`, what part of each group stays compared with the others'.

    Returns:
        The mask, uint8 `[N]`.

    Raises:
        ValueError: the budget cannot be met even with one channel in each group.
    """
    size = within_groups.size(space.sizes)
    place = (size - 0.5 - space.rank) / size  # 0 = most important, 1 = least
    return by_turns(problem, -place / parts[space.choice_of])


def by_turns(problem: Problem, score: np.ndarray) -> np.ndarray:
    """`least_removal` of scores as precise as float64, `[N]`; ties by index."""
    turn = np.empty(len(score), np.float32)
    turn[np.argsort(score, kind="stable")] = np.arange(len(score))
    return np.asarray(least_removal(problem, jnp.asarray(turn)))
