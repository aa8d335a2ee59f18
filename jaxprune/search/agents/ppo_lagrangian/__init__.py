"""PPO-Lagrangian: a policy that prunes layer by layer within budgets (CRL).

After "Neural Network Pruning through Constrained Reinforcement Learning" (Malik, Haider, Iqbal and
Taj) and the master's thesis behind it (Malik, LUMS 2021). `agent` is the search and `episodes` its
rollouts. The learning core knows nothing of networks to prune: `learning` is one round of it, from
episodes to the next policy and multipliers, with `networks`, `losses`, `fitting`, `multipliers` and
`normalization` as its parts. Each module tells what comes from the papers and what is this
project's own.
"""

from typing import TYPE_CHECKING

from jaxprune.lazy import submodules
from jaxprune.search.agents.ppo_lagrangian.agent import State, finished, init, search, update
from jaxprune.search.agents.ppo_lagrangian.config import Config, Learning

__all__ = ["Config", "Learning", "State", "finished", "init", "search", "update"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
