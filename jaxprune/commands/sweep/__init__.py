"""The command ``jaxprune sweep``: many runs, one after the other, and their table."""

from jaxprune.commands.sweep.command import main

__all__ = ["main"]
