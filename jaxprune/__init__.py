"""Structured pruning for JAX.

    structure = jaxprune.trace(apply, params, x)         # which channels go together
    masks = structure.full_masks()                       # {group: [size]}, 1 = keep, 0 = remove
    masked = jaxprune.masked(apply, structure)           # masked(params, masks, x)
    small = jaxprune.compact(apply, structure, params, masks)  # small(small.params, x)

or all of it in one call:

    small = jaxprune.prune(apply, params, x, cost="macs", budget=0.5, importance="l1")

The names below load their modules when they are first used, so that `jaxprune.optim` can be
imported without the rest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxprune.adapters import from_equinox, from_haiku, from_linen, from_nnx
    from jaxprune.compensation import compensate
    from jaxprune.dependency import (
        CompactNetwork,
        CouplingError,
        Frozen,
        Group,
        Layer,
        Structure,
        compact,
        masked,
        trace,
    )
    from jaxprune.errors import UserError
    from jaxprune.evaluate import Scores
    from jaxprune.export import LoadedNetwork, load, save
    from jaxprune.limits import Kept, Limits
    from jaxprune.narrow import linen_module, nnx_module
    from jaxprune.problem import Archive, Problem, SearchResult, best, make_problem
    from jaxprune.pruning import prune
    from jaxprune.selection import select

__version__ = "0.1.0"

__all__ = [
    "Archive",
    "CompactNetwork",
    "CouplingError",
    "Frozen",
    "Group",
    "Kept",
    "Layer",
    "Limits",
    "LoadedNetwork",
    "Problem",
    "Scores",
    "SearchResult",
    "Structure",
    "UserError",
    "best",
    "compact",
    "compensate",
    "from_equinox",
    "from_haiku",
    "from_linen",
    "from_nnx",
    "linen_module",
    "load",
    "make_problem",
    "masked",
    "nnx_module",
    "prune",
    "save",
    "select",
    "trace",
]

_HOMES = {
    "jaxprune.adapters": "from_equinox from_haiku from_linen from_nnx",
    "jaxprune.compensation": "compensate",
    "jaxprune.dependency": (
        "CompactNetwork CouplingError Frozen Group Layer Structure compact masked trace"
    ),
    "jaxprune.errors": "UserError",
    "jaxprune.evaluate": "Scores",
    "jaxprune.export": "LoadedNetwork load save",
    "jaxprune.limits": "Kept Limits",
    "jaxprune.narrow": "linen_module nnx_module",
    "jaxprune.problem": "Archive Problem SearchResult best make_problem",
    "jaxprune.pruning": "prune",
    "jaxprune.selection": "select",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'jaxprune' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
