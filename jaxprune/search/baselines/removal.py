"""The least removal that meets a budget, given the order in which channels go."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.costs import within_groups
from jaxprune.costs.limits import Allowed
from jaxprune.costs.removals import removals, turns
from jaxprune.search.problem import Problem, relative_cost, shares


class Goal(NamedTuple):
    """What a removal has to meet. Hashable, so that it can be a static argument.

    Attributes:
        cost: flat mask `[N]` -> relative cost `[]`, traceable.
        budget: the cost that may remain.
        allowed: the widths that the groups may have.
    """

    cost: Callable[[Array], Array]
    budget: float
    allowed: Allowed


def goal(problem: Problem) -> Goal:
    """What a removal has to meet to solve a problem."""
    return Goal(problem.cost, float(problem.budget), problem.allowed)


@functools.partial(jax.jit, static_argnames="goal")
def least_removal_of(goal: Goal, score: Array) -> tuple[Array, Array, Array]:
    """`least_removal` inside jit, for costs that can be traced.

    Returns:
        The mask, its relative cost, and whether that is within the budget.
    """
    allowed = goal.allowed
    turn = turns(allowed, within_groups.rank(allowed.sizes, score), score.astype(jnp.float32))

    def without(count: Array) -> Array:
        return (turn > count).astype(jnp.uint8)

    def cost(mask: Array) -> Array:
        return goal.cost(mask.astype(jnp.float32))

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        enough = cost(without(middle)) <= goal.budget
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    most = removals(allowed).total
    bounds = (jnp.int32(0), jnp.int32(most))
    # Bisection over 0..most: one round more than the bits of `most` closes the interval.
    _, count = jax.lax.fori_loop(0, most.bit_length() + 1, halve, bounds)
    mask = without(count)
    return mask, cost(mask), cost(mask) <= goal.budget


def least_removal(problem: Problem, score: Array) -> Array:
    """Removes channels in increasing order of their score until the budget is just met.

    Channels that the limits let go only together go by their mean score, those of the lowest scores
    in each group first. The cost must not rise when a channel is removed, as that of no network
    does; then one removal fewer would break the budget. A cost that has to be measured may scatter:
    then the removal is one that was measured to be within the budget, and not surely the least.

    Args:
        problem: the costs, the budgets, the groups and their limits.
        score: finite `[N]`, the lowest goes first; ties by index.

    Returns:
        The mask, uint8 `[N]`.

    Raises:
        ValueError: the budget cannot be met even at the least allowed widths.
    """
    if problem.traceable:
        mask, cost, feasible = least_removal_of(goal(problem), score)
    else:
        mask, cost, feasible = _measured_removal(problem, np.asarray(score, np.float32))
    if not feasible:
        raise ValueError(
            f"budget {problem.budget:g} cannot be met: at the least allowed widths the relative "
            f"cost is {float(cost):.4g}; choose a budget of at least that"
        )
    return mask


def refill(problem: Problem, masks: Array) -> Array:
    """Gives candidates back what the budgets still allow.

    The channels that a candidate has lost return group by group in proportion, the most important
    of each group first, until one more removal undone would break a budget. Candidates that break
    one stay so.

    Args:
        problem: the budgets, which must be traceable, and the importance.
        masks: `[K, N]`, 1 = kept, of allowed widths.

    Returns:
        Masks, uint8 `[K, N]`, that keep at least what `masks` keep.
    """
    return _refill(goal(problem), jnp.asarray(masks), jnp.asarray(problem.importance))


@functools.partial(jax.jit, static_argnames="goal")
def _refill(goal: Goal, masks: Array, importance: Array) -> Array:
    sizes = goal.allowed.sizes
    group = within_groups.index(sizes)

    def one(mask: Array) -> Array:
        lost = mask == 0
        rank = within_groups.rank(sizes, jnp.where(lost, importance, jnp.inf))
        count = within_groups.total(sizes, lost.astype(jnp.int32))
        place = (rank + 0.5) / jnp.maximum(count, 1)[group]
        # What is kept goes last: the widths being allowed, no removal takes both kinds of channels.
        refilled, _, _ = least_removal_of(goal, jnp.where(lost, place, jnp.inf))
        feasible = goal.cost(mask.astype(jnp.float32)) <= goal.budget
        return jnp.where(feasible, refilled, mask).astype(jnp.uint8)

    return jax.vmap(one)(masks)


def _measured_removal(problem: Problem, score: Any) -> tuple[Array, float, bool]:
    """The same on the host, where each look at the cost may take a while."""
    allowed = problem.allowed
    turn = turns(allowed, np.asarray(within_groups.rank(allowed.sizes, score)), score)

    def cost_without(count: int) -> float:
        mask = (turn > count)[None].astype(np.uint8)
        return float(relative_cost(problem, shares(problem, mask))[0])

    low, high = 0, removals(allowed).total
    cost = cost_without(high)
    feasible = cost <= problem.budget
    while feasible and low < high:  # what `high` removes was measured to be enough
        middle = (low + high) // 2
        middle_cost = cost_without(middle)
        if middle_cost <= problem.budget:
            high, cost = middle, middle_cost
        else:
            low = middle + 1
    return jnp.asarray(turn > high, jnp.uint8), cost, feasible
