"""What the agents are compared with.

`magnitude` and `random` prune without learning what to prune. `sensitivity`, `knapsack` and
`evolution` choose each group's width by what candidates score. `hard_concrete` (L0), `autoprune`,
`group_lasso`, `cges`, `barrier` and `admm` train a network to be sparse. All are search methods
like the agents, with Config, State, init, update, finished and search. `uniform_l1`, `global_l1`
and `random_mask` return single masks. A method that trains is imported when it is first used.
"""

from typing import TYPE_CHECKING

from jaxprune.lazy import submodules
from jaxprune.search.baselines import magnitude, random
from jaxprune.search.baselines.magnitude import global_l1, uniform_l1
from jaxprune.search.baselines.random import random_mask

if TYPE_CHECKING:
    from jaxprune.search.baselines import (
        admm,
        autoprune,
        barrier,
        cges,
        evolution,
        group_lasso,
        hard_concrete,
        knapsack,
        sensitivity,
    )

__all__ = [
    "admm",
    "autoprune",
    "barrier",
    "cges",
    "evolution",
    "global_l1",
    "group_lasso",
    "hard_concrete",
    "knapsack",
    "magnitude",
    "random",
    "random_mask",
    "sensitivity",
    "uniform_l1",
]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
