"""The report of a run: report.html for people, report.md with figures for repositories."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxprune.commands.report import figures
from jaxprune.commands.report.comparison import comparison
from jaxprune.commands.report.contents import Contents, of_run
from jaxprune.commands.report.page import graphs, page, search_figures
from jaxprune.commands.report.text import report_text
from jaxprune.files.run_folder import write_text
from jaxprune.lazy import submodules

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
    widths = run.network.widths
    drawn = {
        "widths": figures.widths(widths, run.result["pruned"]["widths"]),
        **search_figures(run),
    }
    learned = graphs(run)
    if learned:
        drawn["learning"] = figures.learning(learned)
    (folder / "figures").mkdir(exist_ok=True)
    for name, figure in drawn.items():
        figure.savefig(folder / "figures" / f"{name}.png", dpi=144)
    (folder / "report.md").write_text(report_text(run.result, widths, list(drawn)))
    write_text(folder / "report.html", page(run))


if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
