"""AMC: an agent for one budget, which every network that it tries meets.

"AMC: AutoML for Model Compression and Acceleration on Mobile Devices" (He et al., ECCV 2018) and
its published code (mit-han-lab/amc): ten-entry state, budget-respecting action, minus the error of
the finished network as every step's reward, less a moving average, and a replay buffer of 100
episodes. `jaxprune.search.agents.ddpg.agent` lists the differences.
"""

from dataclasses import dataclass

from jaxprune.search.agents import ddpg
from jaxprune.search.agents.ddpg import State, finished, init, search, update

__all__ = ["Config", "State", "finished", "init", "search", "update"]


@dataclass(frozen=True)
class Config(ddpg.Config):
    """Settings of AMC: the agent's own defaults, 800 episodes as in the published code."""
