"""CACP: AMC with the budget in the state, an agent for several budgets.

"Conditional Automated Channel Pruning for Deep Neural Networks" (Liu et al., IEEE Signal Processing
Letters 2021, arXiv 2009.09724) and its published code: settings as in AMC, 100 episodes of warm-up
and 800 more. Each episode aims at the budget or at one of the targets, by default the published
ones; a target below what the network can reach is refused. The answer is for the budget.

Departures: the published state also has the sizes of the feature maps and the multiply-adds of the
layer, and the published code reconstructs features by least squares.
"""

from dataclasses import dataclass

from jaxprune.search.agents import ddpg
from jaxprune.search.agents.ddpg import State, finished, init, search, update
from jaxprune.search.envs.observations import Kind

__all__ = ["Config", "State", "finished", "init", "search", "update"]


@dataclass(frozen=True)
class Config(ddpg.Config):
    """Settings of CACP; those of AMC are inherited."""

    observation: Kind = "cacp"
    """The state: acnn, amc or cacp, see `jaxprune.search.envs.observations`."""

    targets: tuple[float, ...] = (0.3, 0.5, 0.7)
    """Further budgets to play episodes for, as fractions of the dense cost; each episode draws one
    of them or the budget (published: these three, of multiply-adds)."""

    iterations: int = 113
    """Rounds of episodes and learning (published: 900 episodes)."""
