"""Pruning without learning what to prune, for comparison.

`magnitude` and `random` are search methods like the agents: each has the names Config, State,
init, update and search. `uniform_l1`, `global_l1` and `random_mask` give their masks directly.
"""

from jaxprune.baselines import magnitude, random
from jaxprune.baselines.magnitude import global_l1, uniform_l1
from jaxprune.baselines.random import random_mask

__all__ = ["global_l1", "magnitude", "random", "random_mask", "uniform_l1"]
