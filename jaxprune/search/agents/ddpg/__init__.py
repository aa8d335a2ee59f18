"""Layerwise pruning by deep deterministic policy gradients: the agent of ACNN, AMC and CACP.

`agent` is the search. `rollout` plays episodes, `rewards` pays them, `exploration` and `networks`
choose actions, `replay` and `learning` learn from them. Each says what is whose paper's and what is
this project's own. The published methods are settings: `agents.acnn`, `amc` and `cacp`.
"""

from jaxprune.search.agents.ddpg.agent import State, finished, init, search, update
from jaxprune.search.agents.ddpg.config import Config

__all__ = ["Config", "State", "finished", "init", "search", "update"]
