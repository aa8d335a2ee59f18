"""Pruning one filter at a time until the cost meets its budget.

This is the game that the supplement of "Channel Pruning via Lookahead Search Guided Reinforcement
Learning" (WACV 2022) plays in its Algorithm 2: the state is the set of filters that are left, an
action removes one of them, and the game ends when `FLOPs(s) / FLOPs(s_0) <= gamma`.

The state is the flat mask itself, uint8 `[N]` with 1 = kept and 0 = removed. Every function is
pure, works under `jit` and `vmap`, and takes the `Rules` of the game as a static argument.

Departures from the supplement, which does not say what is legal: the last filter of a group is
never removed (a network with an empty layer computes nothing), and a game also ends when nothing
legal is left, even above the budget.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.costs import within_groups
from jaxprune.search.problem import Problem


@dataclass(frozen=True)
class Rules:
    """What defines a game. Hashable, so that it can be a static argument of a jitted function.

    Attributes:
        cost: flat mask `[N]` -> relative cost `[]`, 1 for the dense network.
        budget: the game ends when the cost is at most this.
        sizes: number of filters of each group; filters are ordered group by group.
    """

    cost: Callable[[Array], Array]
    budget: float
    sizes: tuple[int, ...]

    @property
    def num_filters(self) -> int:
        """The number of filters of all groups, N."""
        return sum(self.sizes)

    @property
    def group_index(self) -> np.ndarray:
        """The group of each filter, int32 `[N]`."""
        return within_groups.index(self.sizes)


class Step(NamedTuple):
    """What a step returns: the next state, its relative cost, and whether the game is over."""

    mask: Array
    cost: Array
    done: Array


def rules(problem: Problem) -> Rules:
    """The rules of the game that a pruning problem poses."""
    sizes = np.bincount(np.asarray(problem.structure.group_index))
    return Rules(problem.cost, float(problem.budget), tuple(int(size) for size in sizes))


def kept_per_group(rules: Rules, mask: Array) -> Array:
    """The number of filters left in each group, int32 `[groups]`."""
    return within_groups.total(rules.sizes, mask.astype(jnp.int32))


def legal(rules: Rules, mask: Array) -> Array:
    """The filters that may be removed, bool `[N]`: those kept and not the last of their group."""
    return (mask > 0) & (kept_per_group(rules, mask) > 1)[rules.group_index]


def cost(rules: Rules, mask: Array) -> Array:
    """The relative cost of a mask of any dtype, float32 `[]`."""
    return rules.cost(mask.astype(jnp.float32))


def feasible(rules: Rules, mask: Array) -> Array:
    """Whether the mask meets the budget, bool `[]`."""
    return cost(rules, mask) <= rules.budget


def finished(rules: Rules, mask: Array) -> Array:
    """Whether the game is over, bool `[]`: the budget is met or nothing may be removed."""
    return feasible(rules, mask) | ~legal(rules, mask).any()


def reset(rules: Rules) -> Array:
    """The first state: the mask of the dense network, uint8 `[N]`."""
    return jnp.ones(rules.num_filters, jnp.uint8)


def step(rules: Rules, mask: Array, action: Array) -> Step:
    """Removes filter `action`.

    A finished game stays as it is, and so does a game whose action is illegal: no action leads to
    a state that the rules forbid.

    Args:
        rules: the rules of the game.
        mask: uint8 `[N]`, 1 = kept.
        action: int32 `[]`, the filter to remove.

    Returns:
        The next mask, its relative cost and whether the game is over now.
    """
    may_remove = legal(rules, mask)[action] & ~finished(rules, mask)
    mask = mask.at[action].multiply(jnp.where(may_remove, 0, 1).astype(mask.dtype))
    return Step(mask, cost(rules, mask), finished(rules, mask))
