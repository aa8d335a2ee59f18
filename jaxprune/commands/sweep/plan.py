"""Which runs a sweep consists of: the product of the listed values."""

import dataclasses
import itertools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from jaxprune.commands import config
from jaxprune.commands.run import arguments, loggers
from jaxprune.errors import UserError
from jaxprune.files import functions, run_folder

PROGRAM = "jaxprune sweep"

DESCRIPTION = """\
Run the product of the listed values, one run after the other, and compare.

All other options are those of python -m jaxprune.run, the same for all runs.

The same command goes on where it was interrupted, or adds to what is there.\
"""


def _list(metavar: str) -> Any:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=lambda default: "")


_Names = Annotated[tuple[str, ...], _list("NAME ...")]


@dataclass(frozen=True)
class Axes:
    """Options of the sweep; what is not listed is as --help of python -m jaxprune.run says."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the sweep: a subfolder for each run, and sweep.md and sweep.json with the table."""

    method: _Names = ()
    """Methods."""

    dataset: _Names = ()
    """Datasets."""

    model: _Names = ()
    """Networks."""

    budget: Annotated[tuple[str, ...], _list("AMOUNT ...")] = ()
    """Budgets, such as 0.5 25%; those of several costs are joined by a comma, such as 30%,20%."""

    seed: Annotated[tuple[int, ...], _list("INT ...")] = ()
    """Seeds; the table has their mean and sample deviation."""

    dry_run: bool = False
    """List the runs, and stop."""


LISTED = ("method", "dataset", "model", "budget", "seed")
"""The fields of `Axes` that hold the values of runs."""


class Planned(NamedTuple):
    """One run of a sweep.

    Attributes:
        name: Name of its subfolder.
        words: What to type after ``python -m jaxprune.run``.
        options: Its settings, resolved.
    """

    name: str
    words: tuple[str, ...]
    options: arguments.Arguments[Any]

    @property
    def path(self) -> Path:
        """Its folder."""
        return Path(self.options.run.out or ".")

    @property
    def state(self) -> Literal["finished", "begun", "new"]:
        """How far it has come."""
        if (self.path / run_folder.RESULT).is_file():
            return "finished"
        return "begun" if (self.path / run_folder.CONFIG).is_file() else "new"


def plan(argv: Sequence[str]) -> tuple[Axes, list[Planned]]:
    """Reads the command line, and checks the settings of every run.

    Args:
        argv: The arguments after the program's name.

    Returns:
        The options of the sweep and its runs, in the order of the product: seeds change fastest.

    Raises:
        UserError: A value is not possible or listed twice, or a run's folder holds another run.
        SystemExit: After --help (status 0), or if an option is unknown or malformed (status 2).
    """
    axes, rest = tyro.cli(
        Axes,
        prog=PROGRAM,
        description=DESCRIPTION,
        args=argv,
        config=(tyro.conf.FlagCreatePairsOff,),
        return_unknown_args=True,
    )
    if any(word.split("=")[0] == "--resume" for word in rest):
        raise UserError("a sweep goes on where it was interrupted: leave --resume out")
    for name in LISTED:
        values = getattr(axes, name)
        twice = [str(value) for value in values if values.count(value) > 1]
        if twice:
            raise UserError(f"--{name} lists {twice[0]} twice")
    axes = dataclasses.replace(axes, out=axes.out.expanduser())
    given = [name for name in LISTED if getattr(axes, name)]
    products = itertools.product(*(getattr(axes, name) for name in given))
    runs = [_planned(axes.out, dict(zip(given, values, strict=True)), rest) for values in products]
    for run in runs:
        _check_folder(run)
    return axes, runs


def _planned(out: Path, values: dict[str, Any], rest: Sequence[str]) -> Planned:
    words = list(rest)
    for name, value in values.items():
        words += [f"--{name}", *(value.split(",") if name == "budget" else [str(value)])]
    parsed = arguments.parse(words)
    config.check(parsed.run)
    loggers.check(parsed.run.log)
    resolved = config.resolve(parsed.run, datetime.now())
    name = "-".join(
        [
            resolved.method,
            functions.slug(str(resolved.model)),
            functions.slug(resolved.dataset),
            *(amount.replace("%", "pct").replace("=", "is") for amount in resolved.budget),
            f"seed{resolved.seed}",
        ]
    )
    path = out / name
    options = dataclasses.replace(parsed, run=dataclasses.replace(resolved, out=path))
    return Planned(name, (*words, "--out", str(path)), options)


def _check_folder(run: Planned) -> None:
    """Raises UserError unless the run's folder is free or holds this very run."""
    if run.state == "new":
        run_folder.check_free(run.path)
        return
    stored = run_folder.read_config(run.path)
    intended = config.to_json(run.options.run, run.options.search)
    found = config.difference({**stored, "search": stored.get("search", {})}, intended)
    if found:
        raise UserError(
            f"{run.path} holds a run with other settings: {found}; choose another --out"
        )


def command(words: Sequence[str], program: str = config.PROGRAM) -> str:
    """What to type for options."""
    return f"{program} {shlex.join(words)}"
