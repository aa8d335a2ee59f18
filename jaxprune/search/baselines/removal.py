"""The least removal that meets a budget, given the order in which filters go."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.costs import within_groups
from jaxprune.search.envs import filterwise
from jaxprune.search.envs.filterwise import Rules
from jaxprune.search.problem import Problem, relative_cost, shares


def _positions(rules: Rules, score: Array) -> Array:
    """When each filter goes, int32 `[N]`; the highest of each group after all others."""
    stays = within_groups.rank(rules.sizes, score) == within_groups.size(rules.sizes) - 1
    order = jnp.argsort(jnp.where(stays, jnp.inf, score), stable=True)
    return jnp.zeros_like(order).at[order].set(jnp.arange(rules.num_filters))


@functools.partial(jax.jit, static_argnames="rules")
def least_removal_of(rules: Rules, score: Array) -> tuple[Array, Array, Array]:
    """`least_removal` inside jit, for costs that can be traced.

    Returns:
        The mask, its relative cost, and whether that is within the budget.
    """
    position = _positions(rules, score)

    def without(count: Array) -> Array:
        return (position >= count).astype(jnp.uint8)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        enough = filterwise.feasible(rules, without(middle))
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    most = rules.num_filters - len(rules.sizes)
    bounds = (jnp.int32(0), jnp.int32(most))
    # Bisection over 0..most: one round more than the bits of `most` closes the interval.
    _, count = jax.lax.fori_loop(0, most.bit_length() + 1, halve, bounds)
    mask = without(count)
    return mask, filterwise.cost(rules, mask), filterwise.feasible(rules, mask)


def least_removal(problem: Problem, score: Array) -> Array:
    """Removes filters in increasing order of their score until the budget is just met.

    The filter with the highest score of each group always stays. The cost must not rise when a
    filter is removed, as that of no network does; then one filter fewer would break the budget. A
    cost that has to be measured may scatter: then the removal is one that was measured to be within
    the budget, and not surely the least.

    Args:
        problem: the costs, the budgets and the groups.
        score: finite `[N]`, the lowest goes first; ties by index.

    Returns:
        The mask, uint8 `[N]`.

    Raises:
        ValueError: the budget cannot be met even with one filter in each group.
    """
    rules = filterwise.rules(problem)
    if problem.traceable:
        mask, cost, feasible = least_removal_of(rules, score)
    else:
        mask, cost, feasible = _measured_removal(problem, rules, score)
    if not feasible:
        raise ValueError(
            f"budget {rules.budget:g} cannot be met: with one filter left in each group the "
            f"relative cost is {float(cost):.4g}; choose a budget of at least that"
        )
    return mask


def refill(problem: Problem, masks: Array) -> Array:
    """Gives candidates back what the budgets still allow.

    The channels that a candidate has lost return group by group in proportion, the most important
    of each group first, until one more would break a budget. Candidates that break one stay so.

    Args:
        problem: the budgets, which must be traceable, and the importance.
        masks: `[K, N]`, 1 = kept.

    Returns:
        Masks, uint8 `[K, N]`, that keep at least what `masks` keep.
    """
    return _refill(filterwise.rules(problem), jnp.asarray(masks), jnp.asarray(problem.importance))


@functools.partial(jax.jit, static_argnames="rules")
def _refill(rules: Rules, masks: Array, importance: Array) -> Array:
    group = within_groups.index(rules.sizes)

    def one(mask: Array) -> Array:
        lost = mask == 0
        rank = within_groups.rank(rules.sizes, jnp.where(lost, importance, jnp.inf))
        count = within_groups.total(rules.sizes, lost.astype(jnp.int32))
        place = (rank + 0.5) / jnp.maximum(count, 1)[group]
        refilled, _, _ = least_removal_of(rules, jnp.where(lost, place, jnp.inf))
        return jnp.where(filterwise.feasible(rules, mask), refilled, mask).astype(jnp.uint8)

    return jax.vmap(one)(masks)


def _measured_removal(problem: Problem, rules: Rules, score: Array) -> tuple[Array, float, bool]:
    """The same on the host, where each look at the cost may take a while."""
    position = np.asarray(_positions(rules, score))

    def cost_without(count: int) -> float:
        mask = (position >= count)[None].astype(np.uint8)
        return float(relative_cost(problem, shares(problem, mask))[0])

    low, high = 0, rules.num_filters - len(rules.sizes)
    cost = cost_without(high)
    feasible = cost <= rules.budget
    while feasible and low < high:  # what `high` removes was measured to be enough
        middle = (low + high) // 2
        middle_cost = cost_without(middle)
        if middle_cost <= rules.budget:
            high, cost = middle, middle_cost
        else:
            low = middle + 1
    return jnp.asarray(position >= high, jnp.uint8), cost, feasible
