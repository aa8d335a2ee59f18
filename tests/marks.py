"""Marks for the values of parametrised tests."""

from collections.abc import Container, Iterable
from typing import Any

import pytest


def slow_if_in(slow: Container[Any], values: Iterable[Any]) -> list[Any]:
    """The values, those among `slow` for the slow run alone."""
    return [pytest.param(v, marks=pytest.mark.slow) if v in slow else v for v in values]
