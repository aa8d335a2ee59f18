"""CGES: combined group and exclusive sparsity (Yoon and Hwang, ICML 2017).

The regulariser is, over layers l and groups g of weights that leave one input,

    mu_l * sum of the norms |w_g|_2  +  (1 - mu_l) / 2 * sum of the squares |w_g|_1^2

The first removes whole channels, the second makes the weights of a group compete. As in the paper's
code, each step of the optimizer is followed by the proximal step of the first term, which reduces
the norm by rate * strength * mu_l, and by a soft threshold of rate * strength * (1 - mu_l) *
|w_g|_1 for the second. mu starts at 0.8 and falls by 0.2 from layer to layer: early layers share
features, late ones compete.

Departures: the normalising constants per layer in the code, which belong to its own network, are 1;
the strength holds the budget unless a number is given; the weights' optimizer is the recipe's.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.search.baselines import consumers, group_sparsity, sparse_training
from jaxprune.search.baselines.sparse_training import Plan, State
from jaxprune.search.ranges import UNIT, require

__all__ = ["Config", "State", "finished", "init", "search", "update"]


@dataclass(frozen=True)
class Config(group_sparsity.Config):
    """Settings of CGES."""

    initial_strength: float = 1e-2
    """The multiplier of the sparsity before training."""

    first_mu: float = 0.8
    """The weight of group sparsity in the first group of channels (the paper's code)."""

    mu_fall: float = 0.2
    """By how much it falls from group to group, down to 0 (the paper's code)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, UNIT, "first_mu", "mu_fall")


def group_parts(plan: Plan) -> np.ndarray:
    """The mu of each channel, float32 `[N]`."""
    parts = plan.config.first_mu - plan.config.mu_fall * np.arange(len(plan.structure.groups))
    return np.maximum(parts, 0.0).astype(np.float32)[plan.structure.group_index]


def _shrink(plan: Plan, variables: Any, amount: Array) -> Any:
    mu = group_parts(plan)
    variables = group_sparsity.shrink_groups(plan, variables, amount * mu)
    sums = consumers.totals(plan.structure, jax.tree.map(jnp.abs, variables))
    return group_sparsity.shrink_weights(plan, variables, amount * (1 - mu) * sums)


METHOD = group_sparsity.method(_shrink)

init = functools.partial(sparse_training.init, METHOD)
update = functools.partial(sparse_training.update, METHOD)
finished = sparse_training.finished
search = functools.partial(sparse_training.search, METHOD)
