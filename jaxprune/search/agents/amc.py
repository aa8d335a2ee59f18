"""AMC: one agent for a budget that every network it tries is held to.

"AMC: AutoML for Model Compression and Acceleration on Mobile Devices" (He et al., ECCV 2018) and
its published code (mit-han-lab/amc): ten-entry state, budget-respecting action, minus the error of
the finished network paid for every step less a moving average, replay of 100 episodes. What is
different here is listed in `jaxprune.search.agents.ddpg.agent`.
"""

from dataclasses import dataclass

from jaxprune.search.agents import ddpg
from jaxprune.search.agents.ddpg import State, finished, init, search, update

__all__ = ["Config", "State", "finished", "init", "search", "update"]


@dataclass(frozen=True)
class Config(ddpg.Config):
    """Settings of AMC: the agent's own defaults, 800 episodes as in the published code."""
