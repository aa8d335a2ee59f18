"""The figures of a report. Each function draws plain numbers and returns a matplotlib figure."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK = "#1f2933"
QUIET = "#9aa5b1"
FAINT = "#e4e7eb"
ACCENT = "#0b7285"
STAR = "#d9480f"

DASHES = (0, (4, 3))

MARKERS: dict[str, tuple[str, str, str]] = {
    "dense": ("dense network", "", INK),
    "uniform_l1": ("uniform L1", "^", "#5c7cfa"),
    "global_l1": ("global L1", "v", "#9c36b5"),
    "random": ("random", "X", "#868e96"),
    "uniform": ("uniform, same criterion", "P", "#2f9e44"),
    "pruned": ("answer", "*", STAR),
}
"""{point: (label, marker, colour)}. The dense network is a level; the answer is last, on top."""


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
        axes.annotate(
            f"{left} of {was}  ({left / was:.0%})",
            (was, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=INK,
        )
    axes.set_yticks(rows, names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, before.max() * 1.22)
    axes.set_xlabel("channels", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper right", frameon=False, ncols=2, fontsize=8)
    _plain(axes, grid="x")
    return figure


def candidates(
    cost: Any,
    accuracy: Any,
    points: Mapping[str, tuple[float, float]],
    *,
    budget: float,
    cost_name: str,
) -> Figure:
    """Accuracy against cost of every candidate, with baselines and the answer marked.

    The axis of the cost spans the candidates; the dense network, far to the right, is a level.

    Args:
        cost: `[n]`, relative cost.
        accuracy: `[n]`, validation accuracy as the search measured it, in [0, 1]; NaN for the
            candidates that it was not measured for, which are left out.
        points: {name in `MARKERS`: (cost, accuracy)}.
        budget: The cost that was allowed.
        cost_name: What the relative cost is, for the axis.
    """
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.axvline(budget, color=ACCENT, lw=1.2, label=f"budget {budget:g}")
    count, seen = len(np.asarray(cost)), int(np.isfinite(np.asarray(accuracy)).sum())
    label = f"{count} candidates" if seen == count else f"{seen} of {count} candidates"
    axes.scatter(cost, accuracy, s=14, color=QUIET, alpha=0.7, lw=0, label=label)
    for name, (label, marker, colour) in MARKERS.items():
        if name == "dense" and name in points:
            axes.axhline(points[name][1], color=colour, lw=1, ls=DASHES, label=label)
        elif name in points:
            size = 190 if marker == "*" else 60
            axes.scatter(
                *points[name],
                s=size,
                marker=marker,
                color=colour,
                edgecolor="white",
                lw=0.8,
                zorder=3,
                label=label,
            )
    axes.margins(x=0.06)
    axes.set_xlabel(cost_name, fontsize=9)
    _accuracy_axis(axes)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    _plain(axes)
    return figure


def progress(
    accuracy: Any,
    feasible: Any,
    points: Mapping[str, tuple[float, float]],
    *,
    rounds: Sequence[int] = (),
) -> Figure:
    """How the search went: every candidate in order, and the best feasible one so far.

    Args:
        accuracy: `[n]`, validation accuracy as the search measured it, in [0, 1]; NaN for the
            candidates that it was not measured for, which are left out.
        feasible: bool `[n]`, whether a candidate meets the budget.
        points: {name in `MARKERS`: (cost, accuracy)}; the baselines become levels.
        rounds: Candidates after each iteration.
    """
    accuracy, feasible = np.asarray(accuracy), np.asarray(feasible, bool)
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.subplots()
    number = np.arange(1, len(accuracy) + 1)
    if len(rounds) <= 60:  # more lines than that would be a grey area
        for count in rounds:
            axes.axvline(count + 0.5, color=FAINT, lw=0.8, zorder=0)
    for name, (label, _, colour) in MARKERS.items():
        if name in points and name != "pruned":
            axes.axhline(points[name][1], color=colour, lw=1, ls=DASHES, label=label)
    axes.scatter(number, accuracy, s=14, color=QUIET, alpha=0.7, lw=0, label="candidate")
    counts = feasible & np.isfinite(accuracy)
    best = np.maximum.accumulate(np.where(counts, accuracy, -np.inf))
    known = np.isfinite(best)
    axes.step(number[known], best[known], where="post", color=STAR, lw=2, label="best so far")
    axes.set_xlim(0.5, max(len(accuracy), 1) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("candidates evaluated", fontsize=9)
    _accuracy_axis(axes)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    _plain(axes)
    return figure


def constrained_learning(
    lines: Sequence[Mapping[str, Any]], budgets: Sequence[str], layers: Sequence[str]
) -> Figure:
    """How a constrained policy learned: reward, cost, multiplier and mean action.

    The four graphs of Figures 5-1 to 5-12 of the thesis (Malik, LUMS 2021), over the timesteps. A
    step where the fine-tuning before the reward changes is marked.

    Args:
        lines: What the search said after each iteration: "timesteps", "reward", "cost", "limit",
            "multiplier" and "action" as `ppo_lagrangian.update` gives them, and "finetune_steps".
        budgets: The name of each cost.
        layers: The name of each layer that an action is for.
    """
    figure = Figure(figsize=(7.2, 6.4), layout="constrained")
    (reward, cost), (multiplier, action) = figure.subplots(2, 2, sharex=True)
    steps = np.array([line["timesteps"] for line in lines])
    colours = [ACCENT, STAR, "#9c36b5", "#5c7cfa"]

    reward.plot(steps, [line["reward"] for line in lines], color=ACCENT, lw=1.4)
    reward.set_title("reward", fontsize=9, color=INK)
    for number, name in enumerate(budgets):
        colour = colours[number % len(colours)]
        values = [line["cost"][number] for line in lines]
        cost.plot(steps, values, color=colour, lw=1.4, label=name)
        limit = lines[-1]["limit"][number]
        cost.axhline(limit, color=colour, lw=1, ls=DASHES, label=f"limit {limit:.3g}")
        values = [line["multiplier"][number] for line in lines]
        multiplier.plot(steps, values, color=colour, lw=1.4, label=name)
    cost.set_title("cost, as a fraction of the dense network's", fontsize=9, color=INK)
    cost.legend(frameon=False, fontsize=7)
    multiplier.set_title("Lagrange multiplier", fontsize=9, color=INK)

    actions = np.array([line["action"] for line in lines])
    for number, name in enumerate(layers):
        shade = 0.15 + 0.75 * number / max(len(layers) - 1, 1)
        label = name if len(layers) <= 8 or number in (0, len(layers) - 1) else None
        action.plot(steps, actions[:, number], color=_shade(shade), lw=0.9, label=label)
    action.plot(steps, actions.mean(1), color=STAR, lw=1.8, label="mean")
    action.set_title("mean action of each layer", fontsize=9, color=INK)
    action.legend(frameon=False, fontsize=6, ncols=2)

    tuned = np.array([line["finetune_steps"] for line in lines])
    for axes in (reward, cost, multiplier, action):
        for change in np.flatnonzero(np.diff(tuned)):
            axes.axvline(steps[change], color=QUIET, lw=0.8, zorder=0)
        _plain(axes)
    for axes in (multiplier, action):
        axes.set_xlabel("timesteps", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    return figure


def _shade(position: float) -> tuple[float, float, float]:
    """A colour between light grey and ink, for the layers of a network."""
    light, dark = np.array([0.80, 0.84, 0.88]), np.array([0.12, 0.16, 0.20])
    red, green, blue = light + position * (dark - light)
    return float(red), float(green), float(blue)


def _accuracy_axis(axes: Axes) -> None:
    axes.set_ylabel("validation accuracy during the search", fontsize=9)
    axes.yaxis.set_major_formatter(lambda value, _: f"{round(100 * value, 6):g} %")
    axes.margins(y=0.08)


def _plain(axes: Axes, grid: Literal["x", "y"] = "y") -> None:
    """Nothing but the data: no box, a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors=INK, length=0, labelsize=8)
    axes.grid(axis=grid, color=FAINT, lw=0.8)
    axes.set_axisbelow(True)
