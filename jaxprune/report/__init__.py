"""The report of a run: report.md and its figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxprune.problem import Archive
from jaxprune.report import figures
from jaxprune.report.text import cost_axis, report_text

__all__ = ["figures", "report_text", "write_report"]

Point = tuple[float, float]
"""(relative cost as `Problem.cost` has it, accuracy in [0, 1])."""


def write_report(
    folder: Path,
    result: Mapping[str, Any],
    *,
    archive: Archive,
    metrics: Sequence[Mapping[str, Any]],
    dense_widths: Mapping[str, int],
    points: Mapping[str, Point],
    budget: float,
) -> None:
    """Writes report.md and figures/ into the folder of a run.

    Args:
        folder: The run's folder.
        result: The content of result.json.
        archive: All candidates that the search evaluated.
        metrics: What the search said after each iteration: dicts with "candidates".
        dense_widths: {group: channels of the dense network}.
        points: {"dense", "pruned" and each baseline: cost and validation accuracy before
            fine-tuning}.
        budget: The relative cost that the search allowed, as `Problem.budget`.
    """
    (folder / "figures").mkdir(exist_ok=True)
    drawn = {
        "widths": figures.widths(dense_widths, result["pruned"]["widths"]),
        "candidates": figures.candidates(
            archive.cost,
            archive.validation,
            points,
            budget=budget,
            cost_name=cost_axis(result["budgets"]),
        ),
        "progress": figures.progress(
            archive.validation,
            np.asarray(archive.cost) <= budget,
            points,
            rounds=[int(line["candidates"]) for line in metrics],
        ),
    }
    if metrics and "multiplier" in metrics[0]:
        drawn["learning"] = figures.constrained_learning(
            metrics, [budget["cost"] for budget in result["budgets"]], list(dense_widths)
        )
    for name, figure in drawn.items():
        figure.savefig(folder / "figures" / f"{name}.png", dpi=144)
    (folder / "report.md").write_text(report_text(result, dense_widths, list(drawn)))
