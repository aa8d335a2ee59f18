"""Agents that learn what to prune; each has Config, State, init, update, finished and search.

An agent is imported when it is first used.
"""

from typing import TYPE_CHECKING

from jaxprune.lazy import submodules

if TYPE_CHECKING:
    from jaxprune.search.agents import acnn, amc, cacp, ddpg, mcts, ppo_lagrangian

__all__ = ["acnn", "amc", "cacp", "ddpg", "mcts", "ppo_lagrangian"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
