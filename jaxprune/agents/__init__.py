"""Agents that learn what to prune; each has the names Config, State, init, update and search."""

from jaxprune.agents import mcts, ppo_lagrangian

__all__ = ["mcts", "ppo_lagrangian"]
