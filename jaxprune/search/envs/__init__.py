"""Pruning as Markov decision processes: pure functions from state and action to the next state."""

from jaxprune.search.envs import filterwise, layerwise, observations

__all__ = ["filterwise", "layerwise", "observations"]
