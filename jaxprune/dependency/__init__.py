"""Finding which channels of a network must be removed together, from the jaxpr of a function."""

from typing import TYPE_CHECKING

from jaxprune.dependency.activity import activity, second_moments
from jaxprune.dependency.atoms import CouplingError
from jaxprune.dependency.compaction import CompactNetwork, compact
from jaxprune.dependency.groups import Frozen, Group, Layer, Masks, Structure
from jaxprune.dependency.masking import masked
from jaxprune.dependency.shrinking import shrink
from jaxprune.dependency.trace import trace
from jaxprune.lazy import submodules

__all__ = [
    "CompactNetwork",
    "CouplingError",
    "Frozen",
    "Group",
    "Layer",
    "Masks",
    "Structure",
    "activity",
    "compact",
    "masked",
    "second_moments",
    "shrink",
    "trace",
]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
