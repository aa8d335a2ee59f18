"""The figures of a report. Each function draws plain numbers and returns a matplotlib figure."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxprune.commands.report import pareto
from jaxprune.commands.report.curves import Graph

INK = "#1f2933"
QUIET = "#9aa5b1"
FAINT = "#e4e7eb"
PAPER = "#ffffff"
ACCENT = "#0b7285"
STAR = "#d9480f"
BLUE = "#5c7cfa"
PURPLE = "#9c36b5"
GREY = "#868e96"
GREEN = "#2f9e44"

COLOURS = (ACCENT, PURPLE, BLUE, STAR, QUIET)
"""Of the lines of a graph."""

SIZE = (3.7, 2.8)
WIDE = (5.0, 4.2)
"""Inches, such that letters of `SMALL` points can be read on a phone."""

TEXT = 10
SMALL = 9

DASHES = (0, (4, 3))

MANY = 1500
"""Points that are drawn one by one; more become an image, which stays small."""

Points = Mapping[str, tuple[float, float]]
"""{name in `MARKERS`: (cost, accuracy)}."""

MARKERS: dict[str, tuple[str, str, str]] = {
    "dense": ("dense network", "", INK),
    "uniform_l1": ("uniform L1", "^", BLUE),
    "global_l1": ("global L1", "v", PURPLE),
    "random": ("random", "X", GREY),
    "uniform": ("uniform, same criterion", "P", GREEN),
    "pruned": ("answer", "*", STAR),
}
"""{point: (label, marker, colour)}. The dense network is a level; the answer is last, on top."""

_SEARCHED = "validation accuracy during the search"


def widths(dense: Mapping[str, int], pruned: Mapping[str, int]) -> Figure:
    """Channels of each group before and after.

    Args:
        dense: {group: channels of the dense network}, from the input to the output.
        pruned: {group: channels that are left}.
    """
    names = list(dense)
    figure = Figure(figsize=(7.2, 1.1 + 0.27 * len(names)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(names))
    before = np.array([dense[name] for name in names])
    after = np.array([pruned[name] for name in names])
    axes.barh(rows, before, height=0.72, color=FAINT, label="before")
    axes.barh(rows, after, height=0.72, color=ACCENT, label="after")
    for row, was, left in zip(rows, before, after, strict=True):
        _note(axes, f"{left} of {was}  ({left / was:.0%})", (was, row), (5, 0), 8, va="center")
    axes.set_yticks(rows, names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, before.max() * 1.22)
    axes.set_xlabel("channels", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper right", frameon=False, ncols=2, fontsize=8)
    _plain(axes, grid="x")
    return figure


def candidates(
    cost: Any, accuracy: Any, points: Points, *, budget: float, cost_name: str
) -> Figure:
    """Accuracy against cost of every candidate, their Pareto front, the baselines and the answer.

    The axis of the cost spans the candidates; the dense network, far to the right, is a level.

    Args:
        cost: `[n]`, relative cost.
        accuracy: `[n]`, validation accuracy as the search measured it, in [0, 1]; NaN where it was
            not measured: such candidates are left out.
        points: The dense network, the baselines and the answer.
        budget: The cost that was allowed.
        cost_name: What the relative cost is, for the axis.
    """
    figure, axes = _wide(cost_name, _SEARCHED)
    axes.axvline(budget, color=ACCENT, lw=1.2, label=f"budget {budget:g}")
    cost, accuracy = np.asarray(cost), np.asarray(accuracy)
    count, seen = len(cost), int(np.isfinite(accuracy).sum())
    label = f"{count} candidates" if seen == count else f"{seen} of {count} candidates"
    _cloud(axes, cost, accuracy, label, many=seen > MANY)
    best = pareto.front(cost, accuracy)
    front: Any = {"where": "post", "lw": 1.4, "marker": ".", "label": "Pareto front"}
    axes.step(cost[best], accuracy[best], color=PURPLE, **front)
    _levels(axes, points, ["dense"])
    for name, (label, marker, colour) in MARKERS.items():
        if name in points and name != "dense":
            size = 190 if marker == "*" else 60
            _mark(axes, points[name], size, marker, colour, label)
    axes.margins(x=0.06)
    return _with_legend(figure)


def progress(accuracy: Any, feasible: Any, points: Points, *, rounds: Sequence[int] = ()) -> Figure:
    """How the search went: every candidate in order, and the best feasible one so far.

    Args:
        accuracy: `[n]`, as in `candidates`.
        feasible: bool `[n]`, whether a candidate meets the budget.
        points: The dense network and the baselines, which are drawn as levels.
        rounds: Candidates after each iteration.
    """
    accuracy, feasible = np.asarray(accuracy), np.asarray(feasible, bool)
    figure, axes = _wide("candidates evaluated", _SEARCHED)
    number = np.arange(1, len(accuracy) + 1)
    if len(rounds) <= 60:  # more lines than that would be a grey area
        for count in rounds:
            axes.axvline(count + 0.5, color=FAINT, lw=0.8, zorder=0)
    _levels(axes, points, [name for name in MARKERS if name != "pruned"])
    _cloud(axes, number, accuracy, "candidate", many=len(accuracy) > MANY)
    counts = feasible & np.isfinite(accuracy)
    best = np.maximum.accumulate(np.where(counts, accuracy, -np.inf))
    known = np.isfinite(best)
    axes.step(number[known], best[known], where="post", color=STAR, lw=2, label="best so far")
    axes.set_xlim(0.5, max(len(accuracy), 1) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _with_legend(figure)


def comparison(
    runs: Points,
    baselines: Mapping[str, Sequence[tuple[float, float]]],
    dense: Sequence[float],
    cost_name: str,
) -> Figure:
    """Test accuracy against cost of the answers of several runs; equal ones are one star.

    Args:
        runs: {label: (part of the dense cost, test accuracy after fine-tuning)}.
        baselines: {name in `MARKERS`: the same for each run's baselines}.
        dense: The test accuracies of the dense networks.
        cost_name: What the cost is, for the axis.
    """
    figure, axes = _wide(cost_name, "test accuracy after fine-tuning")
    for number, level in enumerate(sorted(set(dense))):
        label = None if number else "dense network"
        axes.axhline(level, color=INK, lw=1, ls=DASHES, label=label)
    for name, pairs in baselines.items():
        label, marker, colour = MARKERS[name]
        costs, accuracies = np.array(pairs).T
        axes.scatter(costs, accuracies, s=40, marker=marker, color=colour, alpha=0.7, label=label)
    names: dict[tuple[float, float], list[str]] = {}
    for name, point in runs.items():
        names.setdefault(point, []).append(name)
    for number, (point, here) in enumerate(names.items()):
        _mark(axes, point, 150, "*", STAR, None if number else "answer")
        text = ", ".join(here) if len(here) < 4 else f"{here[0]} and {len(here) - 1} more"
        _note(axes, plain(text), point, (6, 5), SMALL)
    axes.xaxis.set_major_formatter(_percent)
    axes.margins(x=0.12, y=0.12)
    return _with_legend(figure)


def fronts(
    of_runs: Mapping[str, tuple[Any, Any]], *, budgets: Sequence[float], cost_name: str
) -> Figure:
    """The Pareto fronts of the candidates of several runs.

    Args:
        of_runs: {label: (costs, accuracies) of the run's front, by rising cost}.
        budgets: The relative costs that were allowed.
        cost_name: What the relative cost is, for the axis.
    """
    figure, axes = _wide(cost_name, _SEARCHED)
    for limit in sorted(set(budgets)):
        axes.axvline(limit, color=QUIET, lw=1, label=f"budget {limit:g}")
    for number, (name, front) in enumerate(of_runs.items()):
        colour, dashes = COLOURS[number % len(COLOURS)], "-" if number < len(COLOURS) else DASHES
        line: Any = {"where": "post", "marker": "o", "ms": 4, "label": plain(name)}
        axes.step(*front, color=colour, ls=dashes, **line)
    return _with_legend(figure)


def learning(found: Sequence[Graph]) -> Figure:
    """The curves of a search, two beside each other.

    Those of a constrained policy begin with the four of Figures 5-1 to 5-12 of the thesis (Malik,
    LUMS 2021): reward, cost, multiplier and mean action over the timesteps.

    Args:
        found: At least one graph.
    """
    columns = min(2, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(SIZE[0] * columns, SIZE[1] * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, graph in zip(panels, found, strict=False):
        _graph(axes, graph)
        axes.set_title(graph.curve.title, fontsize=TEXT, color=INK)
    for axes in panels[len(found) :]:
        axes.remove()
    return figure


def curve(graph: Graph) -> Figure:
    """One curve of a search, without its title."""
    figure = Figure(figsize=SIZE, layout="constrained")
    _graph(figure.subplots(), graph)
    return figure


def _graph(axes: Axes, graph: Graph) -> None:
    count = len(graph.lines)
    few = count <= len(COLOURS)
    axes.margins(y=0.08)
    for number, line in enumerate(graph.lines):
        mean = line.label == "mean" and graph.curve.mean
        colour = STAR if mean else COLOURS[number % len(COLOURS)] if few else INK
        axes.plot(
            graph.steps,
            line.values,
            color=colour,
            # Many lines, in the order of the network: from faint to strong.
            alpha=1 if few or mean else 0.15 + 0.6 * number / count,
            lw=2 if mean else 1.4,
            marker="." if len(graph.steps) < 20 else None,
            label=plain(line.label) if few or mean or number in (0, count - 1) else None,
        )
    for number, level in enumerate(graph.levels):
        limit, colour = level.values[-1], COLOURS[number % len(COLOURS)]
        axes.axhline(limit, color=colour, lw=1, ls=DASHES, label=f"limit {limit:.3g}")
    for change in graph.changes:
        axes.axvline(change, color=QUIET, lw=0.8, zorder=0)
    if count + len(graph.levels) > 1:
        place: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.22)}
        axes.legend(**place, **_LEGEND)
    if graph.curve.percent:
        axes.yaxis.set_major_formatter(_percent)
        bottom, top = axes.get_ylim()
        most = max(line.values.max() for line in graph.lines)
        axes.set_ylim(max(bottom, -0.03), min(top, 1.03) if most <= 1 else top)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_xlabel(graph.axis, fontsize=TEXT)
    _plain(axes)


def plain(name: str) -> str:
    """A name as matplotlib shows it letter by letter: no formula, and not hidden in a legend."""
    text = name.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": SMALL, "labelcolor": INK, "ncols": 3}


def _wide(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """A figure with an accuracy as its vertical axis."""
    figure = Figure(figsize=WIDE, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(plain(xlabel), fontsize=TEXT)
    axes.set_ylabel(ylabel, fontsize=TEXT)
    axes.yaxis.set_major_formatter(_percent)
    axes.margins(y=0.08)
    _plain(axes)
    return figure, axes


def _with_legend(figure: Figure) -> Figure:
    """The legend stands below the axes, where it leaves a narrow page its width."""
    figure.legend(loc="outside lower center", **_LEGEND)
    return figure


def _cloud(axes: Axes, x: np.ndarray, y: np.ndarray, label: str, *, many: bool) -> None:
    axes.scatter(x, y, s=14, color=QUIET, alpha=0.7, lw=0, label=label, rasterized=many)


def _levels(axes: Axes, points: Points, names: Sequence[str]) -> None:
    """Dashed lines at the accuracies of points."""
    for name in names:
        if name in points:
            label, _, colour = MARKERS[name]
            axes.axhline(points[name][1], color=colour, lw=1, ls=DASHES, label=label)


def _mark(
    axes: Axes, point: tuple[float, float], size: int, marker: str, colour: str, label: str | None
) -> None:
    look: Any = {"edgecolor": PAPER, "lw": 0.8, "zorder": 3}
    axes.scatter(*point, s=size, marker=marker, color=colour, label=label, **look)


def _note(
    axes: Axes, text: str, point: Any, offset: tuple[int, int], size: int, **more: Any
) -> None:
    """Text beside a point, the offset in points."""
    more |= {"xytext": offset, "textcoords": "offset points", "fontsize": size, "color": INK}
    axes.annotate(text, point, **more)


def _percent(value: float, _: Any) -> str:
    return f"{round(100 * value, 6):g} %"


def _plain(axes: Axes, grid: Literal["x", "y"] = "y") -> None:
    """Nothing but the data: no box, a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors=INK, length=0, labelsize=SMALL)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(axis=grid, color=FAINT, lw=0.8)
    axes.set_axisbelow(True)
