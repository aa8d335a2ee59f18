"""The command ``python -m jaxprune.sweep``: many runs, one after the other, and their table."""

from jaxprune.sweep.command import main

__all__ = ["main"]
