"""The command ``python -m jaxprune.run``: from a dataset to a small network and its report."""

from jaxprune.commands.run.command import main

__all__ = ["main"]
