"""Layerwise pruning by deep deterministic policy gradients: the agent of ACNN, AMC and CACP.

`agent` is the search. `episodes` has its rollouts, exploration and rewards, `networks` the actor
and the critic, `replay` the replay buffer; `losses` and `learning` train on it. Each module tells
what comes from which paper and what is this project's own. The published methods are settings of
this agent: `agents.acnn`, `amc` and `cacp`.
"""

from typing import TYPE_CHECKING

from jaxprune.lazy import submodules
from jaxprune.search.agents.ddpg.agent import State, finished, init, search, update
from jaxprune.search.agents.ddpg.config import Config

__all__ = ["Config", "State", "finished", "init", "search", "update"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
