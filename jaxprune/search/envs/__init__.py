"""Pruning as Markov decision processes: pure functions from state and action to the next state."""

from typing import TYPE_CHECKING

from jaxprune.lazy import submodules
from jaxprune.search.envs import filterwise, layerwise, observations

__all__ = ["filterwise", "layerwise", "observations"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
