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


def of_result(path: Path, result: Any) -> Contents:
    """Reads a run whose result is known already.

    Raises:
        UserError: A file of it is damaged.
    """
    wrong = _wrong(result, _RESULT, "result")
    if wrong:
        raise UserError(
            f"{path / RESULT} is damaged or of another version: {wrong} is missing or of the wrong "
            "kind"
        )
    settings = read_json(path / CONFIG)
    extra = read_json(path / REPORT) if (path / REPORT).is_file() else {}
    seconds = read_json(path / TIMINGS) if (path / TIMINGS).is_file() else {}
    answer = _checkpoint(path / STATE / "answer") or {}
    own = answer.get("variables")
    budgets = result["budgets"]
    try:
        return Contents(
            name=path.resolve().name,
            settings=settings,
            command=_command(settings),
            result=result,
            metrics=_of_search(path, settings),
            budget=float(extra.get("budget", 1.0 if len(budgets) > 1 else budgets[0]["limit"])),
            points={
                name: (float(cost), float(accuracy))
                for name, (cost, accuracy) in extra.get("points", {}).items()
            },
            network=architecture.from_json(extra) if extra else None,
            archive=_archive(answer["archive"]) if answer else None,
            dense=_checkpoint(path / STATE / "pretrained") if own is None else own,
            own_weights=own is not None,
            pruned=_checkpoint(path / "model" / "arrays"),
            seconds={str(phase): float(taken) for phase, taken in seconds.items()},
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the run in {path} is damaged or of another version ({type(error).__name__}: {error})"
        ) from error


def _of_search(path: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines of the search; with several rounds, of the last one's."""
    rounds = settings.get("rounds", 1)
    phase = "search" if rounds == 1 else f"round_{rounds}_search"
    return [line for line in read_metrics(path / METRICS) if line["phase"] == phase]


def _checkpoint(path: Path) -> Any:
    return checkpoint.load(path) if checkpoint.exists(path) else None


def _archive(kept: Mapping[str, Any]) -> Archive:
    return Archive(**{name: np.asarray(kept[name]) for name in Archive._fields})


def _command(settings: Mapping[str, Any]) -> str | None:
    try:
        return config.command(dict(settings), methods.get(settings["method"]).Config)
    except UserError:  # its settings are no longer known
        return None


def _kinds(kind: type, *names: str) -> dict[str, Any]:
    return dict.fromkeys(names, kind)


_NETWORK = {
    **_kinds(float, "test_accuracy", "val_accuracy", "latency_ms"),
    **_kinds(int, "params", "macs", "neurons"),
}
_PRUNED = {
    **_NETWORK,
    **_kinds(float, "val_accuracy_before_finetuning", "test_accuracy_before_finetuning"),
    "widths": dict,
}
_BUDGET = {
    **_kinds(str, "cost", "unit"),
    **_kinds(float, "limit", "dense", "pruned", "share"),
    "met": bool,
}
_RESULT = {
    **_kinds(str, "method", "model", "dataset"),
    "seed": int,
    "feasible": bool,
    "budgets": [_BUDGET],
    "dense": _NETWORK,
    "pruned": _PRUNED,
    "baselines": {...: _PRUNED},
    "search": {
        "seconds": float,
        **_kinds(int, "candidates", "episodes", "finalists"),
        **_kinds(str, "statistics", "device"),
    },
    "compact_max_abs_difference": float,
}
"""The kinds of what a report shows of result.json; that under ... is the kind of all entries."""


def _wrong(value: Any, kind: Any, path: str) -> str:
    """The path of the first place where a value is not of its kind, "" if there is none."""
    if isinstance(kind, dict) and isinstance(value, Mapping):
        kinds = dict.fromkeys(value, kind[...]) if ... in kind else kind
        places = [(name, value.get(name), inner) for name, inner in kinds.items()]
    elif isinstance(kind, list) and isinstance(value, list) and value:
        places = [(number, entry, kind[0]) for number, entry in enumerate(value)]
    elif isinstance(kind, type) and isinstance(value, (int, float) if kind is float else kind):
        return ""
    else:
        return path
    found = (_wrong(inner, inner_kind, f"{path}.{name}") for name, inner, inner_kind in places)
    return next(filter(None, found), "")
