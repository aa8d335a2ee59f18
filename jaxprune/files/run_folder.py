"""The folder of a run: what is finished, what is known so far, and who works on it.

The files are::

    config.json       the settings, written first: a folder that has it holds a run
    metrics.jsonl     one line for each epoch and each iteration of the search
    result.json       the numbers, written last: a folder that has it holds a finished run
    report.json       what the report shows and no other file has: layers, groups, reference points
    timings.json      seconds of each phase
    report.html       the result for reading, in one file; report.md with figures/ has less of it
    model/            the small network, for `jaxprune.load`
    state/            what resuming needs
"""

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxprune.errors import UserError
from jaxprune.files import checkpoint

CONFIG = "config.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"
REPORT = "report.json"
TIMINGS = "timings.json"
STATE = "state"


class RunFolder:
    """One run's folder, locked against other processes while this object is open.

    Make one with `create` or `reopen`, and use it in a with statement.
    """

    def __init__(self, path: Path, lock: int):
        self.path = path
        self._lock = lock
        self._metrics = _Metrics(path / METRICS)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        self._metrics.close()
        os.close(self._lock)

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return (self.path / RESULT).is_file()

    def has(self, name: str) -> bool:
        """Whether `save` or `save_json` has completed for a name."""
        return checkpoint.exists(self._state(name)) or self._state(f"{name}.json").is_file()

    def save(self, name: str, tree: Any) -> None:
        """Keeps a pytree of arrays under a name."""
        checkpoint.save(self._state(name), tree)

    def load(self, name: str, like: Any = None) -> Any:
        """Gives a pytree back; see `jaxprune.files.checkpoint.load`."""
        return checkpoint.load(self._state(name), like)

    def position(self, name: str) -> Path:
        """The file in which the training of that name may keep its position."""
        return self._state(f"{name}.npz")

    def save_json(self, name: str, value: Any) -> None:
        """Keeps something that JSON can hold under a name."""
        write_json(self._state(f"{name}.json"), value)

    def load_json(self, name: str) -> Any:
        """Gives back what `save_json` kept.

        Raises:
            UserError: The file is damaged.
        """
        return read_json(self._state(f"{name}.json"))

    def log(self, phase: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Adds a line to metrics.jsonl, unless that step of that phase has one already.

        A step that is computed again after an interruption gives the same numbers, so that the file
        ends like that of a run without interruption.
        """
        self._metrics.add(phase, step, metrics)

    @property
    def lines(self) -> Sequence[Mapping[str, Any]]:
        """All lines of metrics.jsonl, in order."""
        return self._metrics.lines

    def listen(self, listener: Callable[[int, Mapping[str, Any]], None]) -> None:
        """Calls `listener(number, line)` from now on for each line that is added."""
        self._metrics.listeners.append(listener)

    def metrics(self, phase: str) -> list[dict[str, Any]]:
        """The lines of a phase, in order."""
        return [line for line in self._metrics.lines if line["phase"] == phase]

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Adds the seconds that a with statement takes to those of a phase.

        An attempt that is interrupted counts; one that is killed does not.
        """
        begin = time.monotonic()
        try:
            yield
        finally:
            before = self.seconds()
            passed = time.monotonic() - begin
            write_json(self.path / TIMINGS, {**before, phase: before.get(phase, 0.0) + passed})

    def seconds(self) -> dict[str, float]:
        """What `timed` has measured so far: {phase: seconds}."""
        path = self.path / TIMINGS
        return read_json(path) if path.exists() else {}

    def _state(self, name: str) -> Path:
        return self.path / STATE / name


def check_free(path: Path) -> None:
    """Raises UserError if a new run cannot begin in this folder; looks, and changes nothing."""
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
    try:
        (path / STATE).mkdir(parents=True, exist_ok=True)
        lock = _take_lock(path)
        check_free(path)  # again: another process may have begun between the look and the lock
        write_json(path / CONFIG, settings)
        return RunFolder(path, lock)
    except OSError as error:
        raise UserError(f"--out {path} cannot be written: {error.strerror}") from error


def reopen(path: Path) -> RunFolder:
    """Opens the folder of a run that was interrupted, and clears away what it left half written.

    Raises:
        UserError: There is no run, it cannot be written, or another process works on it.
    """
    read_config(path)
    try:
        (path / STATE).mkdir(exist_ok=True)
        lock = _take_lock(path)
        for leftover in (path / STATE).glob(".*.new"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
        return RunFolder(path, lock)
    except OSError as error:
        raise UserError(f"--out {path} cannot be written: {error.strerror}") from error


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


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
    """The whole lines of a metrics.jsonl; none where there is no file.

    Raises:
        UserError: The file is damaged.
    """
    lines = _whole_lines(path)
    try:
        return [json.loads(line) for line in lines.splitlines()]
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def _whole_lines(path: Path) -> bytes:
    """The file without the half line that a killed process may leave at its end."""
    if not path.exists():
        return b""
    whole, newline, _ = path.read_bytes().rpartition(b"\n")
    return whole + newline


def _take_lock(path: Path) -> int:
    """Locks the run; the system releases the lock when the process ends, however it ends."""
    lock = os.open(path / STATE / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise UserError(f"another process is working on the run in {path}") from error
    return lock


class _Metrics:
    """metrics.jsonl: appended line by line, each step of each phase once."""

    def __init__(self, path: Path):
        self.lines = metrics(path)
        self._seen = {(line["phase"], line["step"]) for line in self.lines}
        self._path = path
        self._size = len(_whole_lines(path))
        self._file: Any = None
        self.listeners: list[Callable[[int, Mapping[str, Any]], None]] = []

    def add(self, phase: str, step: int, metrics: Mapping[str, Any]) -> None:
        if (phase, step) in self._seen:
            return
        line = {"phase": phase, "step": step, **metrics}
        if self._file is None:
            self._file = self._path.open("ab")
            self._file.truncate(self._size)
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        self._seen.add((phase, step))
        self.lines.append(line)
        for listener in self.listeners:
            listener(len(self.lines) - 1, line)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
