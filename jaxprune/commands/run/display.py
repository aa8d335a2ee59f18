"""What a person sees during a run: a live display, or plain lines where there is no terminal."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

SECONDS_BETWEEN_LINES = 5.0
"""A log is not flooded: of fast steps only some get a line."""


class Display(Protocol):
    """Phases one after the other, each with steps and a word on how it goes."""

    def begin(self, phase: str, total: float | None = None) -> None:
        """A phase begins. `total` is its number of steps, None where nobody knows."""

    def step(self, done: float, detail: str) -> None:
        """`done` of the phase's steps are done; `detail` says how it goes, in a few words."""

    def end(self, detail: str) -> None:
        """The phase is over; `detail` is what is left to know about it."""

    def say(self, line: str) -> None:
        """One line that stays."""

    def show(self, table: Table) -> None:
        """A table that stays."""


@contextmanager
def make(*, silent: bool = False) -> Iterator[Display]:
    """A live display if stdout is a terminal that can move its cursor, plain lines otherwise.

    So it is quiet in pipes and files, and in continuous integration, where CI is set.

    Args:
        silent: Whether nothing is to be shown at all.
    """
    if silent:
        yield _NoDisplay()
        return
    moving = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    if not moving or os.environ.get("CI"):
        yield _PlainDisplay()
        return
    with Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}", table_column=Column(min_width=9, no_wrap=True)),
        BarColumn(bar_width=8, table_column=Column(min_width=8)),
        TaskProgressColumn(show_speed=False, table_column=Column(min_width=4)),
        TimeElapsedColumn(table_column=Column(min_width=7)),
        TimeRemainingColumn(compact=True, table_column=Column(min_width=5)),
        # What a narrow terminal has no room for is cut, so that a phase stays one line.
        TextColumn(
            "{task.fields[detail]}",
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        ),
        console=Console(),
        expand=True,
    ) as progress:
        yield _LiveDisplay(progress)


class _NoDisplay:
    """Nothing, for processes that help another one."""

    def begin(self, phase: str, total: float | None = None) -> None: ...

    def step(self, done: float, detail: str) -> None: ...

    def end(self, detail: str) -> None: ...

    def say(self, line: str) -> None: ...

    def show(self, table: Table) -> None: ...


class _PlainDisplay:
    """Short lines for logs and pipes."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._phase = ""
        self._total: float | None = None
        self._last = 0.0

    def begin(self, phase: str, total: float | None = None) -> None:
        self._phase, self._total = phase, total
        self._last = time.monotonic()

    def step(self, done: float, detail: str) -> None:
        if time.monotonic() - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = time.monotonic()
        share = f"{100 * done / self._total:3.0f} %  " if self._total else ""
        self.say(f"{self._phase}: {share}{detail}")

    def end(self, detail: str) -> None:
        self.say(f"{self._phase}: {detail}")

    def say(self, line: str) -> None:
        print(f"[{time.monotonic() - self._start:6.1f} s] {line}", flush=True)

    def show(self, table: Table) -> None:
        Console(width=100).print(table)


class _LiveDisplay:
    """A line with a bar for each phase."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self._task = TaskID(0)

    def begin(self, phase: str, total: float | None = None) -> None:
        self._task = self._progress.add_task(phase, total=total, detail="")

    def step(self, done: float, detail: str) -> None:
        self._progress.update(self._task, completed=done, detail=detail)

    def end(self, detail: str) -> None:
        task = self._progress.tasks[-1]
        total = task.total or 1
        self._progress.update(self._task, total=total, completed=total, detail=detail)

    def say(self, line: str) -> None:
        self._progress.console.print(line)

    def show(self, table: Table) -> None:
        self._progress.console.print(table)
