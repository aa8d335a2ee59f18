"""Candidates evaluated one by one at their own widths: what a CPU is fastest at."""

from typing import TYPE_CHECKING

from jaxprune.lazy import submodules
from jaxprune.scoring.own_widths.evaluator import Evaluator, evaluator, pays
from jaxprune.scoring.own_widths.remembering import Remembering

__all__ = ["Evaluator", "Remembering", "evaluator", "pays"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
