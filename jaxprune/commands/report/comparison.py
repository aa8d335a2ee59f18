"""Several runs side by side as an HTML page."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from jaxprune.commands.report import figures, pareto, templates, wording
from jaxprune.commands.report.contents import Contents
from jaxprune.commands.report.svg import Drawer

Runs = Mapping[str, Contents]
"""Runs by the names that they have on the page."""


def comparison(runs: Sequence[Contents]) -> str:
    """The comparison of runs: one HTML document that needs no other file.

    All runs are in one table. Figures and widths compare runs that prune the same model for the
    same dataset.

    Args:
        runs: At least two.
    """
    draw = Drawer()
    named = dict(zip(_names(runs), runs, strict=True))
    kinds: dict[str, dict[str, Contents]] = {}
    for name, run in named.items():
        kinds.setdefault(f"{run.result['model']} on {run.result['dataset']}", {})[name] = run
    sections: list[dict[str, Any]] = []
    for title, some in kinds.items():
        sections.append({"title": title, "runs": list(some)})
        if len(some) > 1:
            sections[-1] |= {
                "answers": _answers(some, draw),
                "fronts": _fronts(some, draw),
                "widths": _widths(some),
            }
    return templates.render(
        "comparison.html", title=f"{len(runs)} runs compared", runs=named, sections=sections
    )


def _names(runs: Sequence[Contents]) -> list[str]:
    """The names of the folders, numbered where they are the same."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} ({1 + names[:number].count(name)})"
        for number, name in enumerate(names)
    ]


def _widths(runs: Runs) -> list[dict[str, Any]]:
    """A row for each group; a run that may prune inputs has one that others lack."""
    network = next(iter(runs.values())).network
    left = {name: run.result["pruned"]["widths"] for name, run in runs.items()}
    groups = dict.fromkeys(group for widths in left.values() for group in widths)
    return [
        {
            "group": group,
            "size": network.widths.get(group) if network else None,
            "left": [widths.get(group) for widths in left.values()],
        }
        for group in groups
    ]


def _answers(runs: Runs, draw: Drawer) -> Markup:
    # The cost that every run limits, if it is one that every network has; else multiply-adds.
    limited = {run.result["budgets"][0]["cost"] for run in runs.values()}
    cost = limited.pop() if len(limited) == 1 and limited <= set(wording.COSTS) else "macs"
    answers: dict[str, tuple[float, float]] = {}
    baselines: dict[str, list[tuple[float, float]]] = {}
    for name, run in runs.items():
        result = run.result
        points = {
            key: (row[cost] / result["dense"][cost], row["test_accuracy"])
            for key, row in {"": result["pruned"], **result["baselines"]}.items()
        }
        answers[name] = points.pop("")
        for key, point in points.items():
            baselines.setdefault(key, []).append(point)
    dense = [run.result["dense"]["test_accuracy"] for run in runs.values()]
    figure = figures.comparison(answers, baselines, dense, f"{wording.COSTS[cost]} left")
    return draw(figure, "Test accuracy against cost of all answers")


def _fronts(runs: Runs, draw: Drawer) -> Markup | None:
    """The candidates' Pareto fronts, if all runs count their cost alike."""
    first = next(iter(runs.values())).result["budgets"]
    costs = {tuple(row["cost"] for row in run.result["budgets"]) for run in runs.values()}
    fronts = {}
    for name, run in runs.items():
        if run.archive is not None:
            cost, accuracy = run.archive.cost, run.archive.validation
            best = pareto.front(cost, accuracy)
            fronts[name] = cost[best], accuracy[best]
    if len(costs) > 1 or len(first) > 1 or len(fronts) < 2:
        return None
    budgets = [run.budget for run in runs.values()]
    figure = figures.fronts(fronts, budgets=budgets, cost_name=wording.cost_axis(first))
    return draw(figure, "Pareto fronts of the candidates of all runs")
