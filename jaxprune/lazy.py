"""Modules that are imported when they are first named, as in `jaxprune.search.problem.shares`."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


def submodules(package: str) -> Callable[[str], ModuleType]:
    """The `__getattr__` of a package whose modules are imported when they are first used."""

    def import_submodule(name: str) -> ModuleType:
        full = f"{package}.{name}"
        if name.startswith("_") or find_spec(full) is None:
            raise AttributeError(f"module '{package}' has no attribute {name!r}")
        return import_module(full)

    return import_submodule
