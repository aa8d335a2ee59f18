"""Several runs side by side as an HTML page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from jaxprune.commands.report import figures, pareto, templates, wording
from jaxprune.commands.report.contents import Contents
from jaxprune.commands.report.svg import Drawer


def comparison(runs: Sequence[Contents]) -> str:
    """The comparison of runs: one HTML document that needs no other file.

    All runs stand in one table. Figures and widths are only of runs that prune the same model for
    the same dataset.

    Args:
        runs: At least two.
    """
    draw = Drawer()
    named = dict(zip(_names(runs), runs, strict=True))
    kinds: dict[tuple[str, str], dict[str, Contents]] = {}
    for name, run in named.items():
        kind = run.result["model"], run.result["dataset"]
        kinds.setdefault(kind, {})[name] = run
    return templates.render(
        "comparison.html",
        title=f"{len(runs)} runs compared",
        rows=[_row(name, run) for name, run in named.items()],
        sections=[
            {"title": f"{model} on {dataset}", **_section(of_kind, draw)}
            for (model, dataset), of_kind in kinds.items()
        ],
    )


def _names(runs: Sequence[Contents]) -> list[str]:
    """The names of the folders, numbered where they meet."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} ({1 + names[:number].count(name)})"
        for number, name in enumerate(names)
    ]


def _row(name: str, run: Contents) -> dict[str, Any]:
    result = run.result
    dense, pruned = result["dense"], result["pruned"]
    best = max((row["test_accuracy"] for row in result["baselines"].values()), default=None)
    return {
        "name": name,
        "result": result,
        "budgets": [
            {**row, "name": wording.cost_name(row["cost"]), "text": wording.budget(row)}
            for row in result["budgets"]
        ],
        "change": 100 * (pruned["test_accuracy"] - dense["test_accuracy"]),
        "best_baseline": best,
        "parts": {cost: pruned[cost] / dense[cost] for cost in ("macs", "params")},
        "command": run.command,
    }


def _section(runs: Mapping[str, Contents], draw: Drawer) -> dict[str, Any]:
    """What is drawn of runs of one model and dataset."""
    if len(runs) < 2:
        return {"alone": next(iter(runs)), "answers": None, "fronts": None, "widths": []}
    first = next(iter(runs.values()))
    sizes = first.network.widths if first.network else {}
    groups = dict.fromkeys(
        group for run in runs.values() for group in run.result["pruned"]["widths"]
    )
    return {
        "alone": None,
        "runs": list(runs),
        "answers": _answers(runs, draw),
        "fronts": _fronts(runs, draw),
        "widths": [
            {
                "group": group,
                "size": sizes.get(group),
                # A run that may prune inputs has a group that others have not.
                "left": [run.result["pruned"]["widths"].get(group) for run in runs.values()],
            }
            for group in groups
        ],
    }


def _answers(runs: Mapping[str, Contents], draw: Drawer) -> Markup:
    cost = _common_cost(runs)

    def point(run: Contents, row: Mapping[str, Any]) -> tuple[float, float]:
        return row[cost] / run.result["dense"][cost], row["test_accuracy"]

    figure = figures.comparison(
        {name: point(run, run.result["pruned"]) for name, run in runs.items()},
        {
            baseline: [
                point(run, run.result["baselines"][baseline])
                for run in runs.values()
                if baseline in run.result["baselines"]
            ]
            for baseline in dict.fromkeys(
                n for run in runs.values() for n in run.result["baselines"]
            )
        },
        [run.result["dense"]["test_accuracy"] for run in runs.values()],
        f"{wording.COSTS[cost]} left",
    )
    return draw(figure, "Test accuracy against cost of all answers")


def _common_cost(runs: Mapping[str, Contents]) -> str:
    """The cost that every run limits, if it is one that every network has; else multiply-adds."""
    limited = {run.result["budgets"][0]["cost"] for run in runs.values()}
    return limited.pop() if len(limited) == 1 and limited <= set(wording.COSTS) else "macs"


def _fronts(runs: Mapping[str, Contents], draw: Drawer) -> Markup | None:
    """The candidates' Pareto fronts, where all runs count their cost alike."""
    costs = {tuple(row["cost"] for row in run.result["budgets"]) for run in runs.values()}
    if len(costs) > 1 or len(next(iter(costs))) > 1:
        return None
    drawn = {}
    for name, run in runs.items():
        if run.archive is not None:
            best = pareto.front(run.archive.cost, run.archive.validation)
            drawn[name] = (
                np.asarray(run.archive.cost)[best],
                np.asarray(run.archive.validation)[best],
            )
    if len(drawn) < 2:
        return None
    figure = figures.fronts(
        drawn,
        budgets=[run.budget for run in runs.values()],
        cost_name=wording.cost_axis(next(iter(runs.values())).result["budgets"]),
    )
    return draw(figure, "Pareto fronts of the candidates of all runs")
