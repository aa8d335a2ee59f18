"""Pruning filters, or blocks of them, until the cost meets its budget.

This is the game that the supplement of "Channel Pruning via Lookahead Search Guided Reinforcement
Learning" (WACV 2022) plays in its Algorithm 2: the state is the set of filters that are left, an
action removes one of them, and the game ends when `FLOPs(s) / FLOPs(s_0) <= gamma`.

The state is uint8 `[N]`, for each filter 1 = kept and 0 = removed. Every function is pure, works
under `jit` and `vmap`, and takes the `Rules` of the game as a static argument.

Departures from the supplement, which does not say what is legal: the last filter of a group is
never removed (a network with an empty layer computes nothing), and a game also ends when nothing
legal is left, even above the budget.

With `blocks`, which the supplement does not have, an action removes the next few filters of a group
in the order of their importance, and the state says how many removals each block has still to come.
Only the least important block of a group may go. The action that meets the budget leaves as many
filters of its block, the most important ones, as the budget and the limits on widths allow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.costs import within_groups
from jaxprune.search.envs.blocks import Blocks
from jaxprune.search.problem import Problem


@dataclass(frozen=True)
class Rules:
    """What defines a game. Hashable, so that it can be a static argument of a jitted function.

    Attributes:
        cost: mask of the filters -> relative cost `[]`, 1 for the dense network.
        budget: the game ends when the cost is at most this.
        sizes: number of filters of each group, or of its blocks; they are ordered group by group.
        blocks: what filters each block has; None: every filter is on its own, whatever the limits.
    """

    cost: Callable[[Array], Array]
    budget: float
    sizes: tuple[int, ...]
    blocks: Blocks | None = None

    @property
    def num_filters(self) -> int:
        """The number of filters, or of blocks, of all groups, N."""
        return sum(self.sizes)

    @property
    def group_index(self) -> np.ndarray:
        """The group of each filter or block, int32 `[N]`."""
        return within_groups.index(self.sizes)


class Step(NamedTuple):
    """What a step returns: the next state, its relative cost, and whether the game is over."""

    mask: Array
    cost: Array
    done: Array


def rules(problem: Problem, blocks: Blocks | None = None) -> Rules:
    """The rules of the game that a pruning problem poses."""
    if blocks is not None:
        return Rules(problem.cost, float(problem.budget), blocks.sizes, blocks)
    sizes = np.bincount(np.asarray(problem.structure.group_index))
    return Rules(problem.cost, float(problem.budget), tuple(int(size) for size in sizes))


def filters(rules: Rules, mask: Array) -> Array:
    """The mask of all filters that a state stands for: itself, unless there are blocks."""
    if rules.blocks is None:
        return mask
    left = mask[..., np.asarray(rules.blocks.block)]
    return (left > np.asarray(rules.blocks.place)).astype(mask.dtype)


def kept_per_group(rules: Rules, mask: Array) -> Array:
    """The number of filters, or of blocks, left in each group, int32 `[groups]`."""
    return within_groups.total(rules.sizes, (mask > 0).astype(jnp.int32))


def legal(rules: Rules, mask: Array) -> Array:
    """What may be removed, bool `[N]`: what is kept, but not the last of its group.

    Of blocks, that is the first of each group that is still there.
    """
    several = (mask > 0) & (kept_per_group(rules, mask) > 1)[rules.group_index]
    if rules.blocks is None:
        return several
    return several & (jnp.arange(rules.num_filters) == first_kept(rules, mask)[rules.group_index])


def first_kept(rules: Rules, mask: Array) -> Array:
    """The first filter or block that each group keeps, int32 `[groups]`; N if it keeps none."""
    indices = jnp.where(mask > 0, jnp.arange(rules.num_filters), rules.num_filters)
    return -within_groups.maximum(rules.sizes, -indices)


def cost(rules: Rules, mask: Array) -> Array:
    """The relative cost of a state of any dtype, float32 `[]`."""
    return rules.cost(filters(rules, mask).astype(jnp.float32))


def feasible(rules: Rules, mask: Array) -> Array:
    """Whether the state meets the budget, bool `[]`."""
    return cost(rules, mask) <= rules.budget


def finished(rules: Rules, mask: Array) -> Array:
    """Whether the game is over, bool `[]`: the budget is met or nothing may be removed."""
    return feasible(rules, mask) | ~legal(rules, mask).any()


def reset(rules: Rules) -> Array:
    """The first state: the dense network, uint8 `[N]`."""
    if rules.blocks is None:
        return jnp.ones(rules.num_filters, jnp.uint8)
    return jnp.asarray(rules.blocks.removals, jnp.uint8)


def step(rules: Rules, mask: Array, action: Array) -> Step:
    """Removes the filter or block `action`.

    A finished game stays as it is, and so does a game whose action is illegal: no action leads to
    a state that the rules forbid.

    Args:
        rules: the rules of the game.
        mask: the state, uint8 `[N]`.
        action: int32 `[]`, what to remove.

    Returns:
        The next state, its relative cost and whether the game is over now.
    """
    may_remove = legal(rules, mask)[action] & ~finished(rules, mask)
    smaller = mask.at[action].set(0)
    if rules.blocks is not None:
        smaller = smaller.at[action].set(_allowed(rules, smaller, action))
    mask = jnp.where(may_remove, smaller, mask)
    return Step(mask, cost(rules, mask), finished(rules, mask))


def _allowed(rules: Rules, mask: Array, action: Array) -> Array:
    """How many removals of a block the budget lets one undo, uint8 `[]`.

    None where the budget is not met without it. The cost must not fall when a filter returns.
    """
    assert rules.blocks is not None
    sizes = np.asarray(rules.blocks.removals)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds  # `low` are allowed, `high + 1` are too many
        middle = (low + high + 1) // 2
        fits = feasible(rules, mask.at[action].set(middle.astype(mask.dtype)))
        return jnp.where(fits, middle, low), jnp.where(fits, high, middle - 1)

    bounds = (jnp.int32(0), jnp.asarray(sizes, jnp.int32)[action] - 1)
    found, _ = jax.lax.fori_loop(0, int(sizes.max()).bit_length(), halve, bounds)
    return jnp.where(feasible(rules, mask), found, 0).astype(mask.dtype)
