"""Rows of a table: each is one run of `python -m jaxprune.run`, continued where it was interrupted.

Each experiment has one folder of results: its page `README.md`, its pictures, and `rows.jsonl`,
with a line for every finished row: the result with the command and the versions. The page is made
of these lines and says "not run" where one is missing, so rows can be made one by one, in any
order, on any machine.
"""

import argparse
import fcntl
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
ROWS = "rows.jsonl"
NOT_RUN = "not run"


class Row(NamedTuple):
    """One run.

    Attributes:
        name: The name on its line; unique in its experiment.
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


def make(row: Row, runs: Path, results: Path, until: float | None = None) -> bool:
    """Runs a row, or goes on with it, unless its result is there.

    Args:
        row: What to run.
        runs: The folder of the runs.
        results: The folder of the lines.
        until: As in `run`.

    Returns:
        Whether the result is there now; otherwise the time was up.
    """
    if read(row, results) is not None:
        return True
    out = runs / row.name
    if not (out / "result.json").exists():
        begun = (out / "config.json").exists()
        words = ["--resume"] if begun else list(row.words)
        code = run(["-m", "jaxprune.run", "--out", str(out), *words], runs / "cache", until)
        if code is None:
            return False
        if code:
            sys.exit(code)
    result = json.loads((out / "result.json").read_text())
    versions = json.loads((out / "config.json").read_text())["versions"]
    found = {"command": row.command, "versions": versions, **result}
    if row.curves:
        found["curves"] = _columns(out / "metrics.jsonl")
    timings = out / "timings.json"
    if timings.exists():
        found["seconds"] = round(sum(json.loads(timings.read_text()).values()), 1)
    add(row.name, found, results)
    return True


GRACE = 30.0
"""Seconds that a process is given to end after it was asked to."""


def run(words: Sequence[str], cache: Path, until: float | None = None) -> int | None:
    """Runs Python with some words.

    Args:
        words: A script, or `-m` and a module, and its options.
        cache: jaxprune's cache, unless the environment names one.
        until: Reading of `time.monotonic` at which the process is asked to end, as by Ctrl-C, and
            made to a little later; None: it ends by itself.

    Returns:
        Its exit code, with which it has said why where it is not 0; None if the time was up.
    """
    command = [sys.executable, *words]
    environment = {"JAXPRUNE_CACHE": str(cache), **os.environ}
    with subprocess.Popen(command, env=environment) as process:
        try:
            return process.wait(None if until is None else max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            _end(process)
            return None
        except KeyboardInterrupt:  # the process has got it as well, and ends in its own time
            return process.wait()


def _end(process: subprocess.Popen) -> None:
    """Ends a process, which keeps what it has done so far."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def read(row: Row, results: Path) -> dict[str, Any] | None:
    """The result of a row, or None if it was not run."""
    return lines(results).get(row.name)


def curves(row: Row, results: Path) -> list[dict[str, Any]]:
    """The metrics of each round of a row's search; none if they were not kept."""
    columns = (read(row, results) or {}).get("curves", {})
    rounds = zip(*columns.values(), strict=True)
    return [dict(zip(columns, of_round, strict=True)) for of_round in rounds]


def _columns(metrics: Path) -> dict[str, list[Any]]:
    """The search's metrics, each as a list over its rounds, to six digits."""
    written = [json.loads(line) for line in metrics.read_text().splitlines()]
    rounds = [line for line in written if line["phase"] == "search"]
    names = [name for name in rounds[0] if name not in ("phase", "step", "action")]
    return {name: [_rounded(line[name]) for line in rounds] for name in names}


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def lines(results: Path) -> dict[str, dict[str, Any]]:
    """The lines of `rows.jsonl` by the names of their rows."""
    kept = results / ROWS
    return _parsed(kept, kept.stat().st_mtime_ns) if kept.exists() else {}


@functools.lru_cache(maxsize=8)
def _parsed(kept: Path, changed: int) -> dict[str, dict[str, Any]]:
    del changed  # what was read is read anew after a change
    found = [json.loads(line) for line in kept.read_text().splitlines()]
    return {line.pop("name"): line for line in found}


def add(name: str, found: dict[str, Any], results: Path) -> None:
    """Writes a row's line; the file is replaced as a whole, so that none is ever cut or lost."""
    results.mkdir(parents=True, exist_ok=True)
    kept = results / ROWS
    folder = os.open(results, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # another experiment may write beside this one
        before = kept.read_text() if kept.exists() else ""
        whole = kept.with_suffix(".new")
        whole.write_text(before + json.dumps({"name": name, **found}) + "\n")
        whole.replace(kept)
    finally:
        os.close(folder)


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Mean and sample deviation, or the value if there is only one."""
    known = list(values)
    if not known:
        return NOT_RUN
    text = f"{round(mean(known), digits) + 0.0:.{digits}f}"  # no minus before a zero
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
