"""The search methods by name.

A method is a module with the names `Config`, `State`, `init`, `update`, `finished` and `search`. A
new one becomes an option of ``python -m jaxprune.run`` by one line here.
"""

from importlib import import_module
from types import ModuleType

from jaxprune.errors import UserError

METHODS: dict[str, str] = {
    "mcts": "jaxprune.agents.mcts",
    "crl": "jaxprune.agents.ppo_lagrangian",
    "acnn": "jaxprune.agents.acnn",
    "amc": "jaxprune.agents.amc",
    "cacp": "jaxprune.agents.cacp",
    "magnitude": "jaxprune.baselines.magnitude",
    "random": "jaxprune.baselines.random",
    "l0": "jaxprune.baselines.hard_concrete",
    "autoprune": "jaxprune.baselines.autoprune",
    "group_lasso": "jaxprune.baselines.group_lasso",
    "cges": "jaxprune.baselines.cges",
}
"""{name: module}. The modules are imported when they are asked for."""

NAMES: tuple[str, ...] = tuple(METHODS)

TRACED_ONLY: tuple[str, ...] = tuple(
    name for name in METHODS if name not in ("crl", "magnitude", "random")
)
"""Methods that ask for a mask's cost inside a compiled search, and so cannot measure it."""


def get(name: str) -> ModuleType:
    """The module of a search method.

    Raises:
        UserError: There is no method of that name.
    """
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}; the methods are: {', '.join(NAMES)}")
    return import_module(METHODS[name])
