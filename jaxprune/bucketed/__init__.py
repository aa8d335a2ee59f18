"""Candidates evaluated one by one at their own widths: what a CPU is fastest at."""

from jaxprune.bucketed.evaluator import Evaluator, evaluator, pays
from jaxprune.bucketed.remembering import Remembering

__all__ = ["Evaluator", "Remembering", "evaluator", "pays"]
