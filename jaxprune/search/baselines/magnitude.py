"""Magnitude pruning: the filters with the smallest weights go first.

"Pruning Filters for Efficient ConvNets" (Li et al., ICLR 2017) removes the filters with the
smallest L1 norms. Two orders of removal are compared here: the same fraction of every group
(`uniform_l1`), and one ranking of all groups (`global_l1`). The names say L1 because it is a
`Problem`'s default importance; both use whatever importance it has. Other orders can be asked for.
"""

import functools
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from jaxprune.costs import within_groups
from jaxprune.costs.scopes import SCOPES, comparable
from jaxprune.search.baselines import proposals
from jaxprune.search.baselines.proposals import State
from jaxprune.search.baselines.removal import least_removal
from jaxprune.search.envs import filterwise
from jaxprune.search.problem import Problem

__all__ = [
    *("Config", "State", "finished", "init", "search", "update"),
    *("global_l1", "relative_importance", "uniform_l1"),
]


def uniform_l1(problem: Problem) -> Array:
    """Removes the same fraction of every group, the least important filters first.

    Each group's part is rounded to the nearest filter, or to an allowed width; at least one stays.
    The least removal that meets the budget is taken: of the groups whose part would be rounded up
    at the same fraction, only as many lose a filter as are needed.

    Args:
        problem: the pruning problem.

    Returns:
        The mask, uint8 `[N]`, 1 = kept.

    Raises:
        ValueError: the budget cannot be met even at the least allowed widths.
    """
    return _in_scope(problem, "uniform")


def global_l1(problem: Problem) -> Array:
    """Removes the least important filters of the whole network, at least one of each group stays.

    The importance is divided by the mean of its group first: the norms of different layers are not
    comparable as they are.

    Args:
        problem: the pruning problem.

    Returns:
        The mask, uint8 `[N]`, 1 = kept.

    Raises:
        ValueError: the budget cannot be met even at the least allowed widths.
    """
    return _in_scope(problem, "global")


def _in_scope(problem: Problem, scope: str) -> Array:
    """The least removal with channels compared across groups as `costs.scopes` says."""
    scores = comparable(problem.structure, problem.importance, scope)
    return least_removal(problem, jnp.asarray(scores))


def relative_importance(rules: filterwise.Rules, importance: Array) -> Array:
    """The importance of each filter divided by the mean of its group, float32 `[N]`.

    A group whose filters are all of no importance stays at zero.
    """
    return within_groups.relative(rules.sizes, importance)


@dataclass(frozen=True)
class Config:
    """Settings of magnitude pruning."""

    scopes: tuple[str, ...] = ("uniform", "global")
    """How channels of different groups are compared, one candidate for each way: uniform (by rank
    within the group), global (by the score over the group's mean), isomorphic (by the score, among
    groups that are alike) or raw (by the score)."""

    def __post_init__(self) -> None:
        unknown = [scope for scope in self.scopes if scope not in SCOPES]
        if unknown or not self.scopes:
            got = repr(unknown[0]) if unknown else "nothing"
            raise ValueError(f"scopes must be some of {', '.join(SCOPES)}, not {got}")


def finished(config: Config, state: State) -> bool:
    """Whether all candidates were evaluated."""
    del config
    return int(state.iteration) > 0


def propose(config: Config, problem: Problem, state: State) -> tuple[Array, Array]:
    """A mask for each scope, uint8 `[scopes, N]`, and the key as it was."""
    return jnp.stack([_in_scope(problem, scope) for scope in config.scopes]), state.key


init = proposals.init
update = functools.partial(proposals.update, propose)
search = functools.partial(proposals.search, update, finished)
