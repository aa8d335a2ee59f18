"""Numbers and names of a result in words, for every form of the report."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

COSTS = {"macs": "multiply-adds", "params": "parameters", "neurons": "neurons"}
"""{cost that every row of a result has: its name in words}."""

NETWORKS = {
    "dense": "dense",
    "uniform_l1": "uniform L1",
    "global_l1": "global L1",
    "random": "random",
    "uniform": "uniform, same criterion",
}
"""{row of a result: its name in words}; the answer is named after its method."""

METHODS = {
    "mcts": "Monte Carlo tree search",
    "crl": "constrained reinforcement learning, PPO-Lagrangian",
    "acnn": "deep deterministic policy gradients, ACNN",
    "amc": "deep deterministic policy gradients, AMC",
    "cacp": "deep deterministic policy gradients, CACP",
    "magnitude": "magnitude pruning",
    "random": "random pruning",
    "sensitivity": "sensitivity curves",
    "knapsack": "knapsack of widths",
    "evolution": "regularized evolution",
    "l0": "L0 regularization",
    "autoprune": "AutoPrune",
    "group_lasso": "group lasso",
    "cges": "combined group and exclusive sparsity",
    "barrier": "budget-aware regularization",
    "admm": "alternating direction method of multipliers",
}
"""{method: its name in words}."""


class Network(NamedTuple):
    """A row of a result.

    Attributes:
        name: In words.
        numbers: The row.
        answer: Whether it is the network that the search found.
    """

    name: str
    numbers: Mapping[str, Any]
    answer: bool


def networks(result: Mapping[str, Any]) -> list[Network]:
    """The dense network, the answer and the baselines."""
    rows = {"dense": result["dense"], "pruned": result["pruned"], **result["baselines"]}
    return [
        Network(NETWORKS.get(key, result["method"]), row, key == "pruned")
        for key, row in rows.items()
    ]


def cost_name(cost: str) -> str:
    """A cost in words; one of the user's own by its name."""
    return COSTS.get(cost, cost)


def percent(value: float, digits: int = 2) -> str:
    """A part of one in percent."""
    return f"{value:.{digits}%}"


def amount(value: float) -> str:
    """A whole number with separators, any other with four digits."""
    return f"{value:,.0f}" if value == round(value) else f"{value:.4g}"


def points(change: float) -> str:
    """A difference in percentage points, as words before "the dense network's"."""
    if abs(change) < 0.005:
        return "the same as"
    return f"{abs(change):.2f} points {'above' if change > 0 else 'below'}"


def change(result: Mapping[str, Any]) -> float:
    """How much test accuracy the answer gains over the dense network, in percentage points."""
    return 100 * (result["pruned"]["test_accuracy"] - result["dense"]["test_accuracy"])


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def asked(row: Mapping[str, Any]) -> str:
    """How much of a cost may remain, from an entry of result["budgets"]."""
    name = cost_name(row["cost"])
    if row.get("amount") is None:
        return f"{100 * row['limit']:.4g}% of its {name}"
    unit = row["unit"] or name
    return f"{amount(row['amount'])} {unit}" + ("" if unit == name else f" of {name}")


def budget(row: Mapping[str, Any]) -> str:
    """What remains of a cost and how much was allowed, from an entry of result["budgets"]."""
    name = cost_name(row["cost"])
    if row["amount"] is None:
        return f"{row['share']:.1%} of the {name} remain ({row['limit']:.1%} were allowed)"
    unit = row["unit"] or name
    what = "" if unit == name else f" {name}"
    return (
        f"{amount(row['pruned'])} {unit}{what} remain ({amount(row['amount'])} {unit} "
        f"were allowed, the dense network has {amount(row['dense'])})"
    )


def cost_axis(budgets: Sequence[Mapping[str, Any]]) -> str:
    """What the relative cost of a search is, in words."""
    if len(budgets) > 1:
        return "cost as a fraction of its limit, of the tightest budget"
    return f"{cost_name(budgets[0]['cost'])} left, as a fraction of the dense network's"
