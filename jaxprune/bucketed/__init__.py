"""Candidates evaluated one by one at their own widths: what a CPU is fastest at."""

from jaxprune.bucketed.evaluator import Evaluator, evaluator, pays

__all__ = ["Evaluator", "evaluator", "pays"]
