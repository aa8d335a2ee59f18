"""What the agents are compared with.

`magnitude` and `random` prune without learning what to prune. `hard_concrete` (L0), `autoprune`,
`group_lasso` and `cges` train a network to be sparse. All are search methods like the agents, with
Config, State, init, update, finished and search. `uniform_l1`, `global_l1` and `random_mask` return
single masks.
"""

from jaxprune.search.baselines import autoprune, cges, group_lasso, hard_concrete, magnitude, random
from jaxprune.search.baselines.magnitude import global_l1, uniform_l1
from jaxprune.search.baselines.random import random_mask

__all__ = [
    "autoprune",
    "cges",
    "global_l1",
    "group_lasso",
    "hard_concrete",
    "magnitude",
    "random",
    "random_mask",
    "uniform_l1",
]
