"""The report of one run as an HTML page."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxprune.commands.report import curves, drawing, figures, templates, weights, wording
from jaxprune.commands.report.architecture import LayerChange
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


def page(run: Contents) -> str:
    """The report of a run: one HTML document that needs no other file."""
    draw = Drawer()
    result, network, archive = run.result, run.network, run.archive
    filters, heat_maps = None, []
    if network is not None and run.dense is not None:
        filters = weights.first_filters(network, run.dense)
        if run.pruned is not None:
            heat_maps = weights.heat_maps(network, run.dense, run.pruned)
    candidates = None
    if archive is not None:
        drawn = search_figures(run)
        candidates = {
            "within": int((archive.cost <= run.budget).sum()),
            "seen": int(np.isfinite(archive.validation).sum()),
            "total": len(archive.cost),
            "scatter": draw(drawn["candidates"], "Accuracy against cost of every candidate"),
            "progress": draw(drawn["progress"], "The best candidate so far"),
        }
    # The search keeps its own time, which outlives a killed process.
    seconds = {**run.seconds, "search": result["search"]["seconds"]}
    return templates.render(
        "run.html",
        title=f"{result['model']} on {result['dataset']}, pruned by {result['method']}",
        run=run,
        quoted=json.dumps(run.name, ensure_ascii=False),
        result=result,
        method=wording.METHODS.get(result["method"], result["method"]),
        networks=wording.networks(result),
        architecture=drawing.layers(network) if network else None,
        layers=[_layer(layer) for layer in network.layers] if network else [],
        group_map=drawing.groups(network, result["pruned"]["widths"]) if network else None,
        candidates=candidates,
        graphs=[
            (graph.curve, draw(figures.curve(graph), graph.curve.title)) for graph in graphs(run)
        ],
        filters=filters,
        heat_maps=heat_maps,
        times=[(name, seconds[phase]) for phase, name in PHASES.items() if phase in seconds],
    )


def search_figures(run: Contents) -> dict[str, Figure]:
    """The figures of what a search found, by name; the run's archive must be known."""
    assert run.archive is not None
    cost, accuracy = run.archive.cost, run.archive.validation
    axis = wording.cost_axis(run.result["budgets"])
    rounds = [int(line["candidates"]) for line in run.metrics if "candidates" in line]
    return {
        "candidates": figures.candidates(
            cost, accuracy, run.points, budget=run.budget, cost_name=axis
        ),
        "progress": figures.progress(accuracy, cost <= run.budget, run.points, rounds=rounds),
    }


def graphs(run: Contents) -> list[curves.Graph]:
    """The curves of how a search learned."""
    costs = [wording.cost_name(row["cost"]) for row in run.result["budgets"]]
    return curves.graphs(run.metrics, costs, list(run.result["pruned"]["widths"]))


def _layer(layer: LayerChange) -> dict[str, Any]:
    def by(sizes: Sequence[int]) -> str:
        return "\N{MULTIPLICATION SIGN}".join(map(str, sizes))

    return {
        "path": layer.path,
        "kind": by(layer.kernel) if len(layer.kernel) > 1 else "dense",
        "map": by(layer.spatial) if max(layer.spatial) > 1 else "",
        "before": len(layer.kept_outputs),
        "after": int(layer.kept_outputs.sum()),
        "params": layer.params,
        "macs": layer.macs,
        "sparsity": 1 - layer.params[1] / layer.params[0],
        "frozen": layer.group is None,
    }
