"""The command ``python -m jaxprune.run``: from a dataset to a small network and its report."""

from typing import TYPE_CHECKING

from jaxprune.commands.run.command import main
from jaxprune.lazy import submodules

__all__ = ["main"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
