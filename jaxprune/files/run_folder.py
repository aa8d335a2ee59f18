"""The folder of a run: its settings, progress and results, locked while a process works on it.

The files are::

    config.json       the settings, written first: a folder that has it holds a run
    metrics.jsonl     one line for each epoch and each iteration of the search
    result.json       the numbers, written last: a folder that has it holds a finished run
    report.json       what only the report shows: layers, groups, reference points
    timings.json      seconds spent in each phase
    report.html       the report, in one file; report.md with figures/ is shorter
    model/            the small network, for `jaxprune.load`
    state/            what resuming needs
"""

import copy
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxprune.errors import UserError
from jaxprune.files import checkpoint
from jaxprune.files.whole import replacing

CONFIG = "config.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"
REPORT = "report.json"
TIMINGS = "timings.json"
STATE = "state"


class RunFolder:
    """The folder of one run, locked against other processes while it is open.

    Made by `create` or `reopen`, and used in a with statement.

    Attributes:
        path: The folder.
        lines: All lines of metrics.jsonl, in order.
    """

    def __init__(self, path: Path, lock: int):
        self.path = path
        self.lines = metrics(path / METRICS)
        self._lock = lock
        self._logged = {(line["phase"], line["step"]) for line in self.lines}
        self._listeners: list[Callable[[int, Mapping[str, Any]], None]] = []
        self._prefix = ""

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._lock)

    def part(self, name: str) -> "RunFolder":
        """The same folder for a part of the work, whose states and phases have its name before."""
        part = copy.copy(self)
        part._prefix = f"{self._prefix}{name}_"
        return part

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return (self.path / RESULT).is_file()

    def has(self, name: str) -> bool:
        """Whether something has been saved under a name."""
        return checkpoint.exists(self._state(name)) or self._state(f"{name}.json").is_file()

    def save(self, name: str, tree: Any) -> None:
        """Saves a pytree of arrays under a name."""
        checkpoint.save(self._state(name), tree)

    def load(self, name: str, like: Any = None) -> Any:
        """Loads a saved pytree; see `jaxprune.files.checkpoint.load`."""
        return checkpoint.load(self._state(name), like)

    def position(self, name: str) -> Path:
        """The file where the training of that name may save its position."""
        return self._state(f"{name}.npz")

    def save_json(self, name: str, value: Any) -> None:
        """Saves anything that JSON can hold under a name."""
        write_json(self._state(f"{name}.json"), value)

    def load_json(self, name: str) -> Any:
        """Loads what `save_json` saved.

        Raises:
            UserError: The file is damaged.
        """
        return read_json(self._state(f"{name}.json"))

    def log(self, phase: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Adds a line to metrics.jsonl, unless that step of that phase already has one.

        A step repeated after an interruption gives the same numbers, so the file of a resumed run
        equals that of an uninterrupted one.
        """
        phase = self._prefix + phase
        if (phase, step) in self._logged:
            return
        line = {"phase": phase, "step": step, **metrics}
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._logged.add((phase, step))
        self.lines.append(line)
        for listener in self._listeners:
            listener(len(self.lines) - 1, line)

    def listen(self, listener: Callable[[int, Mapping[str, Any]], None]) -> None:
        """Calls `listener(number, line)` for each line that is added from now on."""
        self._listeners.append(listener)

    def metrics(self, phase: str) -> list[dict[str, Any]]:
        """The lines of a phase, in order."""
        return [line for line in self.lines if line["phase"] == phase]

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Adds the duration of a with statement to the seconds of a phase.

        Interrupted attempts count; killed ones do not.
        """
        begin = time.monotonic()
        try:
            yield
        finally:
            before = self.seconds()
            passed = time.monotonic() - begin
            write_json(self.path / TIMINGS, {**before, phase: before.get(phase, 0.0) + passed})

    def seconds(self) -> dict[str, float]:
        """The durations measured by `timed` so far: {phase: seconds}."""
        path = self.path / TIMINGS
        return read_json(path) if path.exists() else {}

    def _state(self, name: str) -> Path:
        return self.path / STATE / f"{self._prefix}{name}"


def check_free(path: Path) -> None:
    """Raises UserError if a new run cannot begin in this folder; changes nothing."""
    if (path / CONFIG).exists():
        raise UserError(
            f"{path} holds a run already: add --resume to continue it, or choose another --out"
        )
    try:
        others = sorted(entry.name for entry in path.iterdir() if entry.name != STATE)
    except FileNotFoundError:
        others = []
    except OSError as error:
        raise UserError(f"--out {path} cannot be used: {error.strerror}") from error
    if others:
        raise UserError(f"{path} is not empty (it has {others[0]}): choose another --out")


def read_config(path: Path) -> dict[str, Any]:
    """The settings of the run in a folder.

    Raises:
        UserError: There is no run, or its config.json is damaged.
    """
    if not (path / CONFIG).is_file():
        raise UserError(f"{path} holds no run to resume: leave --resume out to start one there")
    return read_json(path / CONFIG)


def create(path: Path, settings: Mapping[str, Any]) -> RunFolder:
    """Makes the folder of a new run.

    Args:
        path: The folder; missing parents are made.
        settings: The content of config.json.

    Raises:
        UserError: The folder holds a run or other files, cannot be written, or is in use.
    """
    check_free(path)
    with _writing(path):
        lock = _take_lock(path)
        check_free(path)  # again: another process may have begun since
        write_json(path / CONFIG, settings)
        return RunFolder(path, lock)


def reopen(path: Path) -> RunFolder:
    """Opens the folder of an interrupted run and removes what it left half-written.

    Raises:
        UserError: There is no run, it cannot be written, or another process is working on it.
    """
    read_config(path)
    with _writing(path):
        lock = _take_lock(path)
        for leftover in (path / STATE).glob(".*.new"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
        written, whole = path / METRICS, len(_whole_lines(path / METRICS))
        if written.exists() and written.stat().st_size != whole:
            os.truncate(written, whole)
        return RunFolder(path, lock)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"--out {path} cannot be written: {error.strerror}") from error


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with replacing(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        UserError: The file is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or damaged: {error}") from error


def metrics(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a metrics.jsonl; none if there is no file.

    Raises:
        UserError: The file is damaged.
    """
    lines = _whole_lines(path)
    try:
        return [json.loads(line) for line in lines.splitlines()]
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def _whole_lines(path: Path) -> bytes:
    """The file without the partial line that a killed process may leave at its end."""
    if not path.exists():
        return b""
    whole, newline, _ = path.read_bytes().rpartition(b"\n")
    return whole + newline


def _take_lock(path: Path) -> int:
    """Locks the run; the system releases the lock when the process ends, however it ends."""
    (path / STATE).mkdir(parents=True, exist_ok=True)
    lock = os.open(path / STATE / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise UserError(f"another process is working on the run in {path}") from error
    return lock
