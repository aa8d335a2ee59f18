"""The report of a run: report.html for people, report.md with figures for repositories."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxprune.commands.report import curves, figures
from jaxprune.commands.report.comparison import comparison
from jaxprune.commands.report.contents import Contents, of_run
from jaxprune.commands.report.page import page
from jaxprune.commands.report.text import report_text
from jaxprune.commands.report.wording import cost_axis, cost_name
from jaxprune.files.run_folder import write_text

__all__ = ["Contents", "comparison", "of_run", "page", "report_text", "write_report"]


def html(runs: Sequence[Contents]) -> str:
    """One HTML document: the report of a run, or the comparison of several."""
    return page(runs[0]) if len(runs) == 1 else comparison(runs)


def write_report(folder: Path, run: Contents) -> None:
    """Writes report.html, report.md and figures/ into the folder of a run.

    Args:
        folder: The run's folder.
        run: What is known of it; the network and the candidates must be.
    """
    assert run.network is not None
    assert run.archive is not None
    (folder / "figures").mkdir(exist_ok=True)
    result, archive = run.result, run.archive
    drawn = {
        "widths": figures.widths(run.network.widths, result["pruned"]["widths"]),
        "candidates": figures.candidates(
            archive.cost,
            archive.validation,
            run.points,
            budget=run.budget,
            cost_name=cost_axis(result["budgets"]),
        ),
        "progress": figures.progress(
            archive.validation,
            np.asarray(archive.cost) <= run.budget,
            run.points,
            rounds=[int(line["candidates"]) for line in run.metrics],
        ),
    }
    learned = curves.graphs(
        run.metrics,
        [cost_name(row["cost"]) for row in result["budgets"]],
        list(run.network.widths),
    )
    if learned:
        drawn["learning"] = figures.learning(learned)
    for name, figure in drawn.items():
        figure.savefig(folder / "figures" / f"{name}.png", dpi=144)
    (folder / "report.md").write_text(report_text(result, run.network.widths, list(drawn)))
    write_text(folder / "report.html", page(run))
