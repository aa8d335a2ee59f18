"""Networks as widths: how many channels each group keeps, the most important ones.

A list of widths has one entry for each `Choice` of `jaxprune.costs.limits`: for each group, or for
several groups that must be of equal width.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprune.costs import within_groups
from jaxprune.costs.limits import Choice, choices
from jaxprune.search.baselines import candidates
from jaxprune.search.baselines.removal import least_removal
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


def space(problem: Problem) -> Space:
    """The widths that a problem's groups may have."""
    sizes = problem.allowed.sizes
    options = choices(problem.structure, problem.widths)
    of_group = {g: c for c, choice in enumerate(options) for g in choice.groups}
    return Space(
        sizes,
        options,
        np.asarray(within_groups.rank(sizes, problem.importance)),
        np.array([of_group[g] for g in range(len(sizes))])[within_groups.index(sizes)],
    )


def masks(space: Space, widths: Any) -> np.ndarray:
    """The masks of these widths: int `[K, C]` -> uint8 `[K, N]`."""
    kept = np.asarray(widths)[:, space.choice_of]
    return (space.rank >= within_groups.size(space.sizes) - kept).astype(np.uint8)


def of_masks(space: Space, masks: Any) -> np.ndarray:
    """How many channels masks keep: `[K, N]` -> int `[K, C]`."""
    starts = np.cumsum(np.array([0, *space.sizes[:-1]]))
    kept = np.add.reduceat(np.asarray(masks, np.int64), starts, axis=-1)
    return kept[:, [choice.groups[0] for choice in space.choices]]


def in_proportion(problem: Problem, space: Space, parts: np.ndarray) -> np.ndarray:
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
        ValueError: the budget cannot be met even at the least allowed widths.
    """
    size = within_groups.size(space.sizes)
    place = (size - 0.5 - space.rank) / size  # 0 = most important, 1 = least
    return in_order(problem, space, -place / parts[space.choice_of])


def in_order(problem: Problem, space: Space, score: np.ndarray) -> np.ndarray:
    """The mask that is left when channels go in the order of their score, until the budget is met.

    What the last removal saved too much is used up again: channels return, the last removed first,
    as long as one of them fits. (Not where the cost has to be measured.)

    Args:
        problem: the budgets.
        space: the groups.
        score: float64 `[N]`, finite or not, which rises with the importance within each group; the
            lowest goes first, ties by index.

    Returns:
        The mask, uint8 `[N]`.

    Raises:
        ValueError: the budget cannot be met even at the least allowed widths.
    """
    turn = np.empty(len(score), np.float32)
    turn[np.argsort(score, kind="stable")] = np.arange(len(score))
    mask = np.asarray(least_removal(problem, jnp.asarray(turn)))
    return _filled(problem, space, mask, turn) if problem.traceable else mask


def _filled(problem: Problem, space: Space, mask: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """The mask with the channels that still fit, one allowed width at a time."""
    own = np.eye(len(space.choices), dtype=bool)
    while True:
        present = of_masks(space, [mask])[0]
        wider = np.array(
            [
                choice.widths[max(0, np.searchsorted(-choice.widths, -width) - 1)]
                for choice, width in zip(space.choices, present, strict=True)
            ]
        )
        tries = masks(space, np.where(own, np.maximum(wider, present), present))
        fits = (tries != mask).any(-1) & (
            candidates.relative_costs(problem, tries) <= problem.budget
        )
        if not fits.any():
            return mask
        returning = np.where(tries > mask, turn, -1).max(-1)
        mask = tries[np.where(fits, returning, -1).argmax()]
