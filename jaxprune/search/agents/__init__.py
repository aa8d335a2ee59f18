"""Agents that learn what to prune; each has the names Config, State, init, update and search.

An agent is imported when it is first used.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxprune.search.agents import acnn, amc, cacp, ddpg, mcts, ppo_lagrangian

__all__ = ["acnn", "amc", "cacp", "ddpg", "mcts", "ppo_lagrangian"]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module '{__name__}' has no attribute {name!r}")
