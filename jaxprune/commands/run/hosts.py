"""A run on several hosts: one process each, the first of which writes the run's folder.

All processes compute the same. Those that come after the first work in a temporary copy of the
folder as it was at the beginning, so that no two write to the same place, and each of them finds
the same phases done.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from jaxprune.commands.run.arguments import Arguments
from jaxprune.errors import UserError
from jaxprune.files import run_folder
from jaxprune.scoring import devices

T = TypeVar("T")


def join(options: Arguments[Any]) -> None:
    """Connects the processes of a run on several hosts; does nothing for a run on one.

    Raises:
        UserError: They do not find each other, or a setting makes them decide differently.
    """
    run = options.run
    if run.coordinator is None:
        return
    if getattr(options.search, "seconds", None) is not None:
        raise UserError(
            f"--search.seconds {options.search.seconds:g} would stop each host at another moment; "
            "with --coordinator limit --search.iterations"
        )
    devices.connect(run.coordinator, run.processes, run.process)


def agree(step: Callable[[], T]) -> T | None:
    """Does a step in the first process; if that is refused, so it is in all.

    Returns:
        What the step returns, in the first process, and None in others.

    Raises:
        UserError: The step's own in the first process, and one that says so in others.
    """
    result, error = None, None
    if devices.is_first():
        try:
            result = step()
        except UserError as refused:
            error = refused
    if not devices.everywhere(error is None):
        raise error or UserError("the first process was refused, and says why")
    return result


@contextmanager
def folder(out: Path, settings: Mapping[str, Any] | None) -> Iterator[run_folder.RunFolder]:
    """The folder that this process works in, locked; see `run_folder`.

    Args:
        out: The run's folder. To resume on several hosts, all must see it.
        settings: The content of a new run's config.json; None: the run is resumed.

    Raises:
        UserError: The folder cannot be used.
    """

    def open_at(path: Path) -> run_folder.RunFolder:
        return run_folder.reopen(path) if settings is None else run_folder.create(path, settings)

    if not devices.several_processes():
        with open_at(out) as alone:
            yield alone
        return
    opened = agree(lambda: open_at(out))
    with tempfile.TemporaryDirectory(prefix="jaxprune-") as temporary:
        copy = Path(temporary) / "run"
        seen = settings is not None or (out / run_folder.CONFIG).is_file()
        if not devices.everywhere(seen):
            raise UserError(f"--resume on several hosts: all of them must see {out}")
        if opened is None and settings is None:
            shutil.copytree(out, copy)
        devices.everywhere(True)  # all copies are made before the first process writes
        with opened or open_at(copy) as mine:
            yield mine
