"""The report of one run as an HTML page."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxprune.commands.report import curves, drawing, figures, templates, weights, wording
from jaxprune.commands.report.contents import Contents
from jaxprune.commands.report.svg import Drawer

PHASES = {
    "pretrain": "training the dense network (short if it was kept from an earlier run)",
    "search": "search",
    "semifinal": "choice of the finalists",
    "finetune": "fine-tuning of all networks",
    "evaluate": "measuring and testing",
}
"""{phase of timings.json: what it is}."""

TIMES = "\N{MULTIPLICATION SIGN}"


def page(run: Contents) -> str:
    """The report of a run: one HTML document that needs no other file."""
    draw = Drawer()
    result = run.result
    return templates.render(
        "run.html",
        title=f"{result['model']} on {result['dataset']}, pruned by {result['method']}",
        run=run,
        quoted=json.dumps(run.name, ensure_ascii=False),
        result=result,
        asked=_asked(run),
        change=wording.points(
            100 * (result["pruned"]["test_accuracy"] - result["dense"]["test_accuracy"])
        ),
        limits=[_limit(row) for row in result["budgets"]],
        rows=networks(result),
        architecture=drawing.layers(run.network) if run.network else None,
        layers=_layers(run),
        group_map=drawing.groups(run.network, result["pruned"]["widths"]) if run.network else None,
        candidates=_candidates(run, draw),
        graphs=[
            (graph.curve, draw(figures.curve(graph), graph.curve.title)) for graph in _graphs(run)
        ],
        filters=_filters(run),
        heat_maps=_heat_maps(run),
        times=_times(run),
    )


def networks(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a result, the answer's second, with names and relative costs."""
    rows = {"dense": result["dense"], "pruned": result["pruned"], **result["baselines"]}
    dense = result["dense"]
    return [
        {
            "key": key,
            "name": wording.NETWORKS.get(key, result["method"]),
            "numbers": row,
            "parts": {cost: row[cost] / dense[cost] for cost in wording.COSTS},
        }
        for key, row in rows.items()
    ]


def _asked(run: Contents) -> str:
    result = run.result
    wanted = " and ".join(_wanted(row) for row in result["budgets"])
    method = wording.METHODS.get(result["method"], result["method"])
    return (
        f"Remove filters from {result['model']}, trained on {result['dataset']}, until at most "
        f"{wanted} remain, and lose as little accuracy as possible. Method: {method}; seed "
        f"{result['seed']}."
    )


def _wanted(row: Mapping[str, Any]) -> str:
    name = wording.cost_name(row["cost"])
    if row.get("amount") is None:
        return f"{100 * row['limit']:.4g}% of its {name}"
    return f"{wording.amount(row['amount'])} {row['unit'] or name}" + (
        f" of {name}" if (row["unit"] or name) != name else ""
    )


def _limit(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "name": wording.cost_name(row["cost"]), "text": wording.budget(row)}


def _layers(run: Contents) -> list[dict[str, Any]]:
    if run.network is None:
        return []
    return [
        {
            "path": layer.path,
            "kind": TIMES.join(map(str, layer.kernel)) if len(layer.kernel) > 1 else "dense",
            "map": TIMES.join(map(str, layer.spatial)) if max(layer.spatial) > 1 else "",
            "before": len(layer.kept_outputs),
            "after": int(layer.kept_outputs.sum()),
            "params": layer.params,
            "macs": layer.macs,
            "sparsity": 1 - layer.params[1] / layer.params[0],
            "frozen": layer.group is None,
        }
        for layer in run.network.layers
    ]


def _candidates(run: Contents, draw: Drawer) -> dict[str, Any] | None:
    if run.archive is None:
        return None
    seen = int(np.isfinite(run.archive.validation).sum())
    cost_name = wording.cost_axis(run.result["budgets"])
    scatter = figures.candidates(
        run.archive.cost,
        run.archive.validation,
        run.points,
        budget=run.budget,
        cost_name=cost_name,
    )
    progress = figures.progress(
        run.archive.validation,
        np.asarray(run.archive.cost) <= run.budget,
        run.points,
        rounds=[int(line["candidates"]) for line in run.metrics if "candidates" in line],
    )
    return {
        "seen": seen,
        "within": int((np.asarray(run.archive.cost) <= run.budget).sum()),
        "total": len(run.archive.cost),
        "scatter": draw(scatter, "Accuracy against cost of every candidate"),
        "progress": draw(progress, "The best candidate so far"),
    }


def _graphs(run: Contents) -> list[curves.Graph]:
    names = list(run.result["pruned"]["widths"])
    costs = [wording.cost_name(row["cost"]) for row in run.result["budgets"]]
    return curves.graphs(run.metrics, costs, names)


def _filters(run: Contents) -> weights.Filters | None:
    if run.network is None or run.dense is None:
        return None
    return weights.first_filters(run.network, run.dense)


def _heat_maps(run: Contents) -> list[weights.HeatMap]:
    if run.network is None or run.dense is None or run.pruned is None:
        return []
    return weights.heat_maps(run.network, run.dense, run.pruned)


def _times(run: Contents) -> list[tuple[str, str]]:
    # The search keeps its own time, which outlives a killed process.
    seconds = {**run.seconds, "search": run.result["search"]["seconds"]}
    return [
        (name, wording.duration(seconds[phase]))
        for phase, name in PHASES.items()
        if phase in seconds
    ]
