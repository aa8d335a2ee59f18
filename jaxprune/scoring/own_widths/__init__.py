"""Candidates evaluated one by one at their own widths: what a CPU is fastest at."""

from jaxprune.scoring.own_widths.evaluator import Evaluator, evaluator, pays
from jaxprune.scoring.own_widths.remembering import Remembering

__all__ = ["Evaluator", "Remembering", "evaluator", "pays"]
