"""The search methods by name.

A method is a module with the names `Config`, `State`, `init`, `update`, `finished` and `search`. A
new one becomes an option of ``python -m jaxprune.run`` by one line here.
"""

from importlib import import_module
from types import ModuleType

from jaxprune.errors import UserError

METHODS: dict[str, str] = {
    "mcts": "jaxprune.search.agents.mcts",
    "crl": "jaxprune.search.agents.ppo_lagrangian",
    "acnn": "jaxprune.search.agents.acnn",
    "amc": "jaxprune.search.agents.amc",
    "cacp": "jaxprune.search.agents.cacp",
    "magnitude": "jaxprune.search.baselines.magnitude",
    "random": "jaxprune.search.baselines.random",
    "sensitivity": "jaxprune.search.baselines.sensitivity",
    "knapsack": "jaxprune.search.baselines.knapsack",
    "evolution": "jaxprune.search.baselines.evolution",
    "l0": "jaxprune.search.baselines.hard_concrete",
    "autoprune": "jaxprune.search.baselines.autoprune",
    "group_lasso": "jaxprune.search.baselines.group_lasso",
    "cges": "jaxprune.search.baselines.cges",
    "barrier": "jaxprune.search.baselines.barrier",
    "admm": "jaxprune.search.baselines.admm",
}
"""{name: module}. The modules are imported when they are asked for."""

NAMES: tuple[str, ...] = tuple(METHODS)

MEASURING: tuple[str, ...] = (
    *("crl", "magnitude", "random"),
    *("sensitivity", "knapsack", "evolution"),
)
"""Methods that can wait for a cost to be measured."""

TRACED_ONLY: tuple[str, ...] = tuple(name for name in METHODS if name not in MEASURING)
"""Methods that ask for a mask's cost inside a compiled search, and so cannot measure it."""


FROM_SCRATCH: tuple[str, ...] = ("l0", "autoprune", "group_lasso", "cges")
"""Methods that train the network anew, sparse from the start."""


def get(name: str) -> ModuleType:
    """The module of a search method.

    Raises:
        UserError: There is no method of that name.
    """
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}; the methods are: {', '.join(NAMES)}")
    return import_module(METHODS[name])
