"""PPO-Lagrangian: a policy that prunes layer by layer within budgets (CRL).

After "Neural Network Pruning through Constrained Reinforcement Learning" (Malik, Haider, Iqbal and
Taj) and the master's thesis behind it (Malik, LUMS 2021). `agent` is the search. Its learning core
knows nothing of networks to prune: `learning` is one round of it, from episodes to the next policy
and multipliers, and `advantages`, `normalization`, `surrogate`, `multipliers`, `networks` and
`fitting` are its parts. Each says what is the papers' and what is this project's own.
"""

from jaxprune.search.agents.ppo_lagrangian.agent import State, finished, init, search, update
from jaxprune.search.agents.ppo_lagrangian.config import Config, Learning

__all__ = ["Config", "Learning", "State", "finished", "init", "search", "update"]
