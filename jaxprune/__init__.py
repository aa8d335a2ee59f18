"""Structured pruning for JAX.

    structure = jaxprune.trace(apply, params, x)         # which channels go together
    masks = structure.full_masks()                       # {group: [size]}, 1 = keep, 0 = remove
    masked = jaxprune.masked(apply, structure)           # masked(params, masks, x)
    small = jaxprune.compact(apply, structure, params, masks)  # small(small.params, x)

or all of it in one call:

    small = jaxprune.prune(apply, params, x, cost="macs", budget=0.5, importance="l1")

The package has ten rooms, and each imports only from those above it:

    dependency   which channels must be removed together: trace, masked, compact
    optim        proximal operators and dual steps as optax transforms (needs jax and optax alone)
    importance   what a channel is worth, and how the others make up for it
    files        what lies on disk, whole or not at all
    scoring      how good many candidates are, quickly
    costs        what a network costs, what may remain, and which channels go then
    networks     how networks come in and go out, and the bundled ones
    training     how weights are fitted, and on which data
    search       who decides: environments, agents, baselines
    commands     what a person types and reads

Rooms, their modules and the names below are loaded when they are first used, so that
`jaxprune.optim` can be imported without the rest. Some modules have short names, too, such as
`jaxprune.export` for `jaxprune.networks.export`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from jaxprune.version import __version__

if TYPE_CHECKING:
    from jaxprune import (
        commands,
        costs,
        dependency,
        files,
        importance,
        networks,
        optim,
        scoring,
        search,
        training,
    )
    from jaxprune.costs.limits import Kept, Limits
    from jaxprune.costs.pruning import prune
    from jaxprune.costs.selection import select
    from jaxprune.dependency import (
        CompactNetwork,
        CouplingError,
        Frozen,
        Group,
        Layer,
        Structure,
        compact,
        masked,
        shrink,
        trace,
    )
    from jaxprune.errors import UserError
    from jaxprune.importance.compensation import compensate
    from jaxprune.networks.adapters import (
        from_equinox,
        from_haiku,
        from_keras,
        from_linen,
        from_nnx,
    )
    from jaxprune.networks.export import LoadedNetwork, load, save
    from jaxprune.networks.narrow import linen_module, nnx_module
    from jaxprune.networks.narrow_keras import keras_model
    from jaxprune.networks.network import Network
    from jaxprune.scoring.evaluation import Scores
    from jaxprune.search.problem import Archive, Problem, SearchResult, best, make_problem

ROOMS = (
    *("dependency", "optim", "importance", "files", "scoring"),
    *("costs", "networks", "training", "search", "commands"),
)
"""The rooms; each imports from those before it alone."""
_HOMES = {
    "costs.limits": "Kept Limits",
    "costs.pruning": "prune",
    "costs.selection": "select",
    "dependency": "CompactNetwork CouplingError Frozen Group Layer Structure compact masked shrink "
    "trace",
    "errors": "UserError",
    "importance.compensation": "compensate",
    "networks.adapters": "from_equinox from_haiku from_keras from_linen from_nnx",
    "networks.export": "LoadedNetwork load save",
    "networks.narrow": "linen_module nnx_module",
    "networks.narrow_keras": "keras_model",
    "networks.network": "Network",
    "scoring.evaluation": "Scores",
    "search.problem": "Archive Problem SearchResult best make_problem",
}
_SHORT = {
    "costs": "budgets",
    "commands": "bench docs report sweep",
    "networks": "adapters export",
    "scoring": "evaluation lowering own_widths",
    "search": "agents baselines problem",
    "training": "data",
}
_MODULE_OF = {name: f"{room}.{name}" for room, names in _SHORT.items() for name in names.split()}
_MODULE_OF |= {name: name for name in (*ROOMS, "errors", "run")} | {"models": "networks.bundled"}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "ROOMS",
    "Archive",
    "CompactNetwork",
    "CouplingError",
    "Frozen",
    "Group",
    "Kept",
    "Layer",
    "Limits",
    "LoadedNetwork",
    "Network",
    "Problem",
    "Scores",
    "SearchResult",
    "Structure",
    "UserError",
    "__version__",
    "best",
    "commands",
    "compact",
    "compensate",
    "costs",
    "dependency",
    "files",
    "from_equinox",
    "from_haiku",
    "from_keras",
    "from_linen",
    "from_nnx",
    "importance",
    "keras_model",
    "linen_module",
    "load",
    "make_problem",
    "masked",
    "networks",
    "nnx_module",
    "optim",
    "prune",
    "save",
    "scoring",
    "search",
    "select",
    "shrink",
    "trace",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return import_module(f"jaxprune.{_MODULE_OF[name]}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'jaxprune' has no attribute {name!r}")
    return getattr(import_module(f"jaxprune.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
