"""Agents that learn what to prune; each has Config, State, init, update, finished and search."""

from jaxprune.search.agents import acnn, amc, cacp, ddpg, mcts, ppo_lagrangian

__all__ = ["acnn", "amc", "cacp", "ddpg", "mcts", "ppo_lagrangian"]
