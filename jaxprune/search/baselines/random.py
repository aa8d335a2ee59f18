"""Random pruning: filters go in random order until the budget is met.

One random mask is the weakest baseline there is. As a search method it samples many and keeps the
best, which any cleverer search has to beat with the same number of candidates.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from jaxprune.search.baselines import proposals
from jaxprune.search.baselines.proposals import State
from jaxprune.search.baselines.removal import least_removal
from jaxprune.search.problem import Problem
from jaxprune.search.ranges import AT_LEAST_ONE, require

__all__ = ["Config", "State", "finished", "init", "random_mask", "search", "update"]


def random_mask(problem: Problem, key: Array) -> Array:
    """Removes filters of the whole network in random order, until the budget is just met.

    All orders are equally likely, but for the one filter of each group that always stays, which is
    the last of its group in the order. Filters that the limits let go only together go by the mean
    of their places in the order.

    Args:
        problem: the pruning problem.
        key: PRNG key, consumed.

    Returns:
        The mask, uint8 `[N]`, 1 = kept; one filter fewer removed in this order breaks the budget.

    Raises:
        ValueError: the budget cannot be met even at the least allowed widths.
    """
    order = jax.random.permutation(key, problem.structure.num_channels)
    return least_removal(problem, order.astype(jnp.float32))


@dataclass(frozen=True)
class Config:
    """Settings of the random search."""

    candidates: int = 64
    """Random masks in all."""

    batch: int = 8
    """Masks evaluated together."""

    def __post_init__(self) -> None:
        require(self, AT_LEAST_ONE, "candidates", "batch")


def finished(config: Config, state: State) -> bool:
    """Whether all candidates were evaluated."""
    return len(state.archive.cost) >= config.candidates


def propose(config: Config, problem: Problem, state: State) -> tuple[Array, Array]:
    """A batch of random masks, uint8 `[K, N]`, fewer if fewer are missing; and the next key."""
    key, *mask_keys = jax.random.split(state.key, config.batch + 1)
    missing = config.candidates - len(state.archive.cost)
    return jnp.stack([random_mask(problem, mask_key) for mask_key in mask_keys[:missing]]), key


init = proposals.init
update = functools.partial(proposals.update, propose)
search = functools.partial(proposals.search, update, finished)
