"""Which numbers of a search are drawn as curves, and what they are called.

A curve is drawn for every search whose lines in metrics.jsonl have its numbers: a new method gets
its curves by giving its numbers these names, or by a line here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np


class Curve(NamedTuple):
    """A graph of one or more numbers over the iterations of a search.

    Attributes:
        title: What is drawn.
        text: What it means, in plain words.
        metrics: {name in metrics.jsonl: label}; those that a search does not have are left out.
        entries: What the entries of a list stand for; "" for single numbers.
        level: The name of the number that is a limit, drawn dashed.
        mean: Whether the mean of a list's entries is drawn too.
        parts: Whether the entries of a list are drawn as parts of their sum.
        percent: Whether the numbers are parts of one.
    """

    title: str
    text: str
    metrics: Mapping[str, str]
    entries: Literal["", "budget", "group"] = ""
    level: str = ""
    mean: bool = False
    parts: bool = False
    percent: bool = False


CURVES: tuple[Curve, ...] = (
    Curve(
        "Reward",
        "What an attempt of the round earned on average: the search tries to raise it.",
        {"reward": "reward"},
    ),
    Curve(
        "Cost",
        "What the round's networks cost on average, as a part of the dense network; dashed: the "
        "limit that the search aims at.",
        {"cost": "cost"},
        entries="budget",
        level="limit",
        percent=True,
    ),
    Curve(
        "Lagrange multiplier",
        "The price of breaking a budget: it rises while the cost is above its limit, and falls "
        "below.",
        {"multiplier": "multiplier"},
        entries="budget",
    ),
    Curve(
        "Action for each group",
        "Mean over the round. An action is the part of the group that is removed (in CRL's fine "
        "strategy, the number that a channel is multiplied by).",
        {"action": "action"},
        entries="group",
        mean=True,
    ),
    Curve(
        "Visits of each group",
        "Where the tree search looked: the part of its simulations that began by removing a filter "
        "of the group.",
        {"visits": "visits"},
        entries="group",
        parts=True,
        percent=True,
    ),
    Curve(
        "Accuracy to beat",
        "On the training images. A game is won if its network beats the bar; the policy without "
        "search raises the bar when it does.",
        {"greedy_accuracy": "policy without search", "baseline": "bar"},
        percent=True,
    ),
    Curve(
        "Games won",
        "The part of the round's games whose network beat the bar.",
        {"wins": "won"},
        percent=True,
    ),
    Curve(
        "Within the budget",
        "The part of the round's networks that met every budget.",
        {"feasible": "within the budget"},
        percent=True,
    ),
    Curve(
        "Cost in use",
        "What the channels cost that training still uses; dashed: the limit.",
        {"in_use": "in use"},
        level="limit",
        percent=True,
    ),
    Curve(
        "Strength of the sparsity",
        "How strongly training is pushed towards fewer channels.",
        {"strength": "strength"},
    ),
    Curve(
        "Losses",
        "What the search's own networks are trained to lower.",
        {
            "policy_loss": "policy",
            "value_loss": "value",
            "cost_value_loss": "value of costs",
            "actor_loss": "actor",
            "critic_loss": "critic",
            "loss": "loss",
        },
    ),
    Curve(
        "Exploration",
        "Standard deviation of the noise that is added to actions.",
        {"sigma": "deviation"},
    ),
    Curve(
        "Undecidedness",
        "Entropy of the policy in nats: it falls as the policy becomes certain of what to do.",
        {"entropy": "entropy"},
    ),
    Curve(
        "Replay buffer",
        "How full the memory of past steps is that the agent learns from.",
        {"replay": "filled"},
        percent=True,
    ),
    Curve(
        "Zeros in the agent's networks",
        "The part of the agent's own weights that its proximal step has set to zero.",
        {"sparsity": "zeros"},
        percent=True,
    ),
)
"""All curves, in the order in which they are drawn."""


class Line(NamedTuple):
    """One line of a graph: its label, and its values `[n]`, of which NaN are not drawn."""

    label: str
    values: np.ndarray


class Graph(NamedTuple):
    """A curve with its numbers.

    Attributes:
        curve: What it is.
        steps: `[n]`, the iterations, or timesteps where the search counts them.
        axis: What the steps are.
        lines: What is drawn.
        levels: Limits, dashed, in the colours of the first lines.
        changes: The steps after which fine-tuning before the reward changed.
    """

    curve: Curve
    steps: np.ndarray
    axis: str
    lines: tuple[Line, ...]
    levels: tuple[Line, ...]
    changes: np.ndarray


def graphs(
    lines: Sequence[Mapping[str, Any]], budgets: Sequence[str], groups: Sequence[str]
) -> list[Graph]:
    """The graphs that the lines of a search allow; none of a search with a single line.

    Args:
        lines: What the search said after each iteration, as metrics.jsonl has it.
        budgets: The name of each cost.
        groups: The name of each group.
    """
    if len(lines) < 2:
        return []
    axis = "timesteps" if "timesteps" in lines[0] else "iteration"
    steps = np.array([line.get(axis, number) for number, line in enumerate(lines, 1)])
    tuned = [line.get("finetune_steps", 0) for line in lines]
    changes = steps[np.flatnonzero([a != b for a, b in zip(tuned[1:], tuned, strict=False)])]
    names = {"budget": budgets, "group": groups, "": ()}
    found = []
    for curve in CURVES:
        drawn: list[Line] = []
        for metric, label in curve.metrics.items():
            drawn += _lines(curve, lines, metric, label, names[curve.entries])
        levels = _lines(curve, lines, curve.level, "limit", names[curve.entries])
        if drawn:
            found.append(Graph(curve, steps, axis, tuple(drawn), tuple(levels), changes))
    return found


def _lines(
    curve: Curve,
    lines: Sequence[Mapping[str, Any]],
    metric: str,
    label: str,
    names: Sequence[str],
) -> list[Line]:
    """The lines of one metric; none where the search has no numbers of that kind under its name."""
    if not all(metric in line for line in lines):
        return []
    values = np.array([np.ravel(line[metric]) for line in lines], float)
    if values.shape[1] != (len(names) or 1):
        return []
    if curve.parts:
        values = values / np.maximum(values.sum(1, keepdims=True), 1)
    found = [Line(name, row) for name, row in zip(names or [label], values.T, strict=True)]
    return [*found, *([Line("mean", values.mean(1))] if curve.mean else [])]
