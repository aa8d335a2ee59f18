"""The command ``jaxprune sweep``: many runs, one after the other, and their table."""

from typing import TYPE_CHECKING

from jaxprune.commands.sweep.command import main
from jaxprune.lazy import submodules

__all__ = ["main"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
