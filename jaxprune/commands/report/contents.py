"""What a report is made of, read from the folder of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxprune.commands import config
from jaxprune.commands.report import architecture
from jaxprune.commands.report.architecture import Architecture
from jaxprune.errors import UserError
from jaxprune.files import checkpoint
from jaxprune.files.run_folder import CONFIG, METRICS, REPORT, RESULT, STATE, TIMINGS, read_json
from jaxprune.files.run_folder import metrics as read_metrics
from jaxprune.search import methods
from jaxprune.search.problem import Archive

Point = tuple[float, float]
"""(relative cost as `Problem.cost` has it, accuracy in [0, 1])."""


class Contents(NamedTuple):
    """A run for reading. What an older run's folder does not have is None or empty.

    Attributes:
        name: The name of the run's folder.
        settings: The content of config.json.
        command: What to type to compute the same again, None where this version cannot tell.
        result: The content of result.json.
        metrics: What the search said after each iteration.
        budget: The relative cost that the search allowed, as `Problem.budget`.
        points: {"dense", "pruned" and each baseline: cost and validation accuracy before
            fine-tuning}.
        network: The layers before and after.
        archive: All candidates that the search evaluated.
        dense: The variables that the search pruned.
        own_weights: Whether the search trained these itself, in place of the dense network's.
        pruned: The small network's variables, fine-tuned.
        seconds: {phase: seconds}.
    """

    name: str
    settings: Mapping[str, Any]
    command: str | None
    result: Mapping[str, Any]
    metrics: list[dict[str, Any]]
    budget: float
    points: Mapping[str, Point]
    network: Architecture | None
    archive: Archive | None
    dense: Mapping[str, Any] | None
    own_weights: bool
    pruned: Mapping[str, Any] | None
    seconds: Mapping[str, float]


def of_run(path: Path) -> Contents:
    """Reads a finished run.

    Raises:
        UserError: There is no run, it is not finished, or a file of it is damaged.
    """
    path = path.expanduser()
    if not (path / CONFIG).is_file():
        raise UserError(f"{path} holds no run: give the folder that jaxprune.run wrote")
    if not (path / RESULT).is_file():
        raise UserError(
            f"the run in {path} is not finished: continue it with {config.PROGRAM} --resume "
            f"--out {path}"
        )
    return of_result(path, read_json(path / RESULT))


def of_result(path: Path, result: Mapping[str, Any]) -> Contents:
    """Reads a run whose result is known already.

    Raises:
        UserError: A file of it is damaged.
    """
    lacking = _lacking(result, _RESULT)
    if lacking:
        raise UserError(
            f"{path / RESULT} is damaged or of another version: {lacking.lstrip('.')} is missing "
            "or of the wrong kind"
        )
    settings = read_json(path / CONFIG)
    extra = read_json(path / REPORT) if (path / REPORT).is_file() else {}
    answer = _checkpoint(path / STATE / "answer") or {}
    own = answer.get("variables")
    try:
        limit = 1.0 if len(result["budgets"]) > 1 else result["budgets"][0]["limit"]
        return Contents(
            name=path.resolve().name,
            settings=settings,
            command=_command(settings),
            result=result,
            metrics=[line for line in read_metrics(path / METRICS) if line["phase"] == "search"],
            budget=float(extra.get("budget", limit)),
            points={
                name: (float(cost), float(accuracy))
                for name, (cost, accuracy) in extra.get("points", {}).items()
            },
            network=architecture.from_json(extra) if extra else None,
            archive=_archive(answer["archive"]) if answer else None,
            dense=_checkpoint(path / STATE / "pretrained") if own is None else own,
            own_weights=own is not None,
            pruned=_checkpoint(path / "model" / "arrays"),
            seconds={
                str(phase): float(seconds)
                for phase, seconds in (
                    read_json(path / TIMINGS) if (path / TIMINGS).is_file() else {}
                ).items()
            },
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the run in {path} is damaged or of another version ({type(error).__name__}: {error})"
        ) from error


def _checkpoint(path: Path) -> Any:
    return checkpoint.load(path) if checkpoint.exists(path) else None


def _archive(kept: Mapping[str, Any]) -> Archive:
    return Archive(**{name: np.asarray(kept[name]) for name in Archive._fields})


def _command(settings: Mapping[str, Any]) -> str | None:
    try:
        return config.command(dict(settings), methods.get(settings["method"]).Config)
    except UserError:  # its settings are no longer known
        return None


_NETWORK = {
    "test_accuracy": float,
    "val_accuracy": float,
    "params": int,
    "macs": int,
    "neurons": int,
    "latency_ms": float,
}
_PRUNED = {
    **_NETWORK,
    "val_accuracy_before_finetuning": float,
    "test_accuracy_before_finetuning": float,
    "widths": dict,
}
_RESULT = {
    "method": str,
    "model": str,
    "dataset": str,
    "seed": int,
    "feasible": bool,
    "budgets": [
        {
            "cost": str,
            "unit": str,
            "limit": float,
            "dense": float,
            "pruned": float,
            "share": float,
            "met": bool,
        }
    ],
    "dense": _NETWORK,
    "pruned": _PRUNED,
    "baselines": {...: _PRUNED},
    "search": {
        "seconds": float,
        "candidates": int,
        "episodes": int,
        "finalists": int,
        "statistics": str,
        "device": str,
    },
    "compact_max_abs_difference": float,
}
"""What a report shows of result.json; the kind under ... is that of all other entries."""


def _lacking(value: Any, kind: Any) -> str:
    """The first place where a value is not of its kind, "" if there is none."""
    if isinstance(kind, dict):
        if not isinstance(value, Mapping):
            return "."
        named = {name: inner for name, inner in kind.items() if name is not ...}
        others = dict.fromkeys(value, kind[...]) if ... in kind else {}
        places = (
            (f".{name}", value.get(name), inner) for name, inner in {**others, **named}.items()
        )
    elif isinstance(kind, list):
        if not isinstance(value, list) or not value:
            return "."
        places = ((f".{number}", entry, kind[0]) for number, entry in enumerate(value))
    else:
        kinds = (int, float) if kind is float else kind
        return "" if isinstance(value, kinds) else "."
    for name, inner, inner_kind in places:
        found = _lacking(inner, inner_kind)
        if found:
            return name + found.rstrip(".")
    return ""
