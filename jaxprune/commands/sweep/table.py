"""The table of a sweep: means and sample deviations over the seeds."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

NOT_RUN = "not run"

Spread = dict[str, Any]
"""{"mean": ..., "deviation": sample deviation, or None of one value}."""


def spread(values: Iterable[float]) -> Spread:
    """Mean and sample deviation of at least one value."""
    known = list(values)
    return {"mean": mean(known), "deviation": stdev(known) if len(known) > 1 else None}


def rows(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for the runs that differ in their seed alone, in the order of the runs.

    Args:
        runs: {"method", "model", "dataset", "cost", "budget", "seed": settings, "result": content
            of result.json or None}.

    Returns:
        The settings without the seed; "seeds", those with a result; "planned", how many there
        should be; and where there are results: "met", in how many all budgets are; "left" {cost:
        spread of the share that is left}; "accuracy" {network: spread of the test accuracy after
        fine-tuning}; "before" {network: the same before it}; and "seconds", spread of the search.
    """
    grouped: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        key = tuple(str(run[name]) for name in _KEYS)
        grouped.setdefault(key, []).append(run)
    return [_row(group) for group in grouped.values()]


_KEYS = ("method", "model", "dataset", "cost", "budget")


def _row(group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    results = [run["result"] for run in group if run["result"] is not None]
    row = {
        **{name: group[0][name] for name in _KEYS},
        "seeds": [run["seed"] for run in group if run["result"] is not None],
        "planned": len(group),
    }
    if not results:
        return row
    networks = [{"dense": r["dense"], "pruned": r["pruned"], **r["baselines"]} for r in results]
    shares = [{b["cost"]: b["share"] for b in result["budgets"]} for result in results]
    return {
        **row,
        "met": sum(result["feasible"] for result in results),
        "left": {cost: spread(of[cost] for of in shares) for cost in shares[0]},
        "accuracy": {
            name: spread(of[name]["test_accuracy"] for of in networks) for name in networks[0]
        },
        "before": {
            name: spread(of[name]["test_accuracy_before_finetuning"] for of in networks)
            for name in networks[0]
            if name != "dense"
        },
        "seconds": spread(result["search"]["seconds"] for result in results),
    }


def markdown(found: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]) -> str:
    """The table for reading.

    Args:
        found: What `rows` returns.
        runs: The runs, with "name" and "error": why there is no result, or None.
    """
    networks = list(dict.fromkeys(name for row in found for name in row.get("accuracy", ())))
    header = ["method", "budget", "seeds", "budget met", "left, %", *networks, "search, s"]
    several = [name for name in ("model", "dataset") if len({row[name] for row in found}) > 1]
    header[1:1] = several
    lines = [header, ["---", *["--:"] * (len(header) - 1)]]
    for row in found:
        first = [row["method"], *(row[name] for name in several), _budget(row)]
        if not row["seeds"]:
            lines.append(
                [*first, f"0 of {row['planned']}", *[NOT_RUN] * (len(header) - len(first) - 1)]
            )
            continue
        done = len(row["seeds"])
        lines.append(
            [
                *first,
                str(done) if done == row["planned"] else f"{done} of {row['planned']}",
                f"{row['met']} of {done}",
                ", ".join(_percent(share, 1) for share in row["left"].values()),
                *(_percent(row["accuracy"].get(name), 2) for name in networks),
                _shown(row["seconds"], 0),
            ]
        )
    text = [f"| {' | '.join(line)} |" for line in lines]
    errors = [f"- {run['name']}: {run['error']}" for run in runs if run["error"]]
    return "\n".join([*text, *(["", "Not run:", "", *errors] if errors else [])])


def _budget(row: Mapping[str, Any]) -> str:
    pairs = zip(row["budget"], row["cost"], strict=True)
    return ", ".join(f"{amount} {cost}" for amount, cost in pairs)


def _percent(value: Spread | None, digits: int) -> str:
    if value is None:  # a baseline that this row's runs do not have
        return ""
    return _shown({name: v and 100 * v for name, v in value.items()}, digits)


def _shown(value: Spread, digits: int) -> str:
    text = f"{value['mean']:.{digits}f}"
    deviation = value["deviation"]
    return text if deviation is None else f"{text} ± {deviation:.{digits}f}"
