"""Group lasso: the sum of the norms of the weights that leave each channel.

Yuan and Lin, "Model selection and estimation in regression with grouped variables" (2006); for
channels of networks, Wen et al., "Learning structured sparsity in deep neural networks" (NeurIPS
2016). Each norm is weighted by the root of the group's number of weights. Proximal steps reach zero
exactly; at the end the channels with the smallest norms, divided by the same root, are removed.

Departure: the strength holds the budget unless a number is given.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxprune.search.baselines import consumers, group_sparsity, sparse_training
from jaxprune.search.baselines.sparse_training import Learner, Plan, State

__all__ = ["Config", "State", "finished", "init", "search", "update"]


@dataclass(frozen=True)
class Config(group_sparsity.Config):
    """Settings of group lasso."""

    initial_strength: float = 1e-3
    """The multiplier of the sparsity before training."""


def _roots(plan: Plan, variables: Any) -> Array:
    """The root of the number of weights that leave each channel, `[N]`."""
    return jnp.sqrt(consumers.totals(plan.structure, jax.tree.map(jnp.ones_like, variables)))


def _shrink(plan: Plan, variables: Any, amount: Array) -> Any:
    return group_sparsity.shrink_groups(plan, variables, amount * _roots(plan, variables))


def _scores(plan: Plan, learner: Learner) -> Array:
    variables = learner.variables
    return group_sparsity.norms(plan, variables) / jnp.maximum(_roots(plan, variables), 1.0)


METHOD = group_sparsity.method(_shrink)._replace(scores=_scores)

init = functools.partial(sparse_training.init, METHOD)
update = functools.partial(sparse_training.update, METHOD)
finished = sparse_training.finished
search = functools.partial(sparse_training.search, METHOD)
