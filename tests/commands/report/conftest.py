"""Runs of these tests compile the same few programs: they are compiled once."""

from commands.run.conftest import compiled_once

__all__ = ["compiled_once"]
