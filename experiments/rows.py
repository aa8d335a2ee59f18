"""Rows of a table: each is one run of `python -m jaxprune.run`, continued where it was interrupted.

A finished row leaves one file, its result with the command and the versions, in the folder of the
experiment's results; a table is made of these files, and says "not run" where one is missing. So
rows can be made one by one, in any order, on any machine.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
NOT_RUN = "not run"


class Row(NamedTuple):
    """One run.

    Attributes:
        name: The name of its file; unique in its experiment.
        words: The options of `python -m jaxprune.run`.
        curves: Whether the metrics of each round of the search are kept too.
    """

    name: str
    words: tuple[str, ...]
    curves: bool = False

    @property
    def command(self) -> str:
        """What to type for this row alone."""
        return " ".join(["python -m jaxprune.run", *self.words])


def make(row: Row, runs: Path, results: Path) -> None:
    """Runs a row, or goes on with it, unless its result is there."""
    kept = results / f"{row.name}.json"
    if kept.exists():
        return
    out = runs / row.name
    if not (out / "result.json").exists():
        begun = (out / "config.json").exists()
        words = ["--resume"] if begun else list(row.words)
        _run(["--out", str(out), *words], runs / "cache")
    result = json.loads((out / "result.json").read_text())
    versions = json.loads((out / "config.json").read_text())["versions"]
    results.mkdir(parents=True, exist_ok=True)
    if row.curves:
        _curves(row, results).write_text("".join(_search_lines(out / "metrics.jsonl")))
    kept.write_text(
        json.dumps({"command": row.command, "versions": versions, **result}, indent=1) + "\n"
    )


def _run(words: Sequence[str], cache: Path) -> None:
    """Runs the command; where it fails or is interrupted, it has said why, and this ends, too."""
    command = [sys.executable, "-m", "jaxprune.run", *words]
    with subprocess.Popen(command, env={"JAXPRUNE_CACHE": str(cache), **os.environ}) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the run has got it as well, and ends in its own time
            code = process.wait()
    if code:
        sys.exit(code)


def read(row: Row, results: Path) -> dict[str, Any] | None:
    """The result of a row, or None if it was not run."""
    kept = results / f"{row.name}.json"
    return json.loads(kept.read_text()) if kept.exists() else None


def curves(row: Row, results: Path) -> list[dict[str, Any]]:
    """The metrics of each round of a row's search; none if they were not kept."""
    kept = _curves(row, results)
    return [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []


def _curves(row: Row, results: Path) -> Path:
    return results / f"{row.name}.jsonl"


def _search_lines(metrics: Path) -> list[str]:
    lines = metrics.read_text().splitlines(keepends=True)
    return [line for line in lines if json.loads(line)["phase"] == "search"]


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Mean and sample deviation, or the value if there is only one."""
    known = list(values)
    if not known:
        return NOT_RUN
    text = f"{mean(known):.{digits}f}"
    return f"{text} ± {stdev(known):.{digits}f}" if len(known) > 1 else text


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    rule = ["---", *["--:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *lines])


def parser(text: str | None) -> argparse.ArgumentParser:
    """The options that all experiments share."""
    options = argparse.ArgumentParser(description=(text or "").split("\n")[0])
    options.add_argument("--runs", type=Path, help="folder of the runs; without it, only the table")
    options.add_argument("--rows", nargs="+", default=[], help="only rows whose name has one of")
    options.add_argument("--list", action="store_true", help="the rows and their commands")
    return options


def main(rows: Sequence[Row], results: Path, options: argparse.Namespace) -> None:
    """Runs the rows that were asked for, and that are not there."""
    for row in rows:
        if options.list:
            print(f"{row.name}: {row.command}")
        elif options.runs and (not options.rows or any(part in row.name for part in options.rows)):
            make(row, options.runs.resolve(), results)


def devices(results: Iterable[dict[str, Any] | None]) -> str:
    """The machines that rows were run on, and their versions."""
    seen = {
        f"{result['search']['device']}, jax {result['versions']['jax']}"
        for result in results
        if result
    }
    return "; ".join(sorted(seen)) or NOT_RUN
