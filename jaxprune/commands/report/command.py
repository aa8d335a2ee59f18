"""`jaxprune report RUN...`: the report of a run as one HTML page, or several compared."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxprune.commands import console
from jaxprune.errors import UserError
from jaxprune.files.run_folder import write_text

PROGRAM = "jaxprune report"


def _shown(metavar: str) -> Any:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


@dataclass(frozen=True)
class Arguments:
    """What to report."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, _shown("RUN ...")]
    """Folders of finished runs: one for its report, several for a comparison."""

    out: Annotated[Path | None, _shown("FILE")] = None
    """The page to write; by default report.html in the run's folder, or comparison.html here."""


def main(argv: Sequence[str]) -> int:
    """Writes the page.

    Args:
        argv: The arguments after the program's name; ``--help`` lists them.

    Returns:
        The exit code: 0, or 2 if something that was typed cannot work, with one line on stderr.
    """
    return console.run(
        Arguments,
        lambda options: print(_write(options)),
        argv,
        program=PROGRAM,
        description=str(__doc__),
    )


def _write(options: Arguments) -> Path:
    if not options.runs:
        raise UserError(f"name the folder of a run: {PROGRAM} RUN")
    out = options.out or _default(options.runs)
    _check_replaceable(out)

    # matplotlib and JAX, of which --help and most mistakes have no need
    from jaxprune.commands import report

    page = report.html([report.of_run(run) for run in options.runs])
    try:
        write_text(out, page)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from error
    return out


def _default(runs: Sequence[Path]) -> Path:
    return runs[0].expanduser() / "report.html" if len(runs) == 1 else Path("comparison.html")


def _check_replaceable(out: Path) -> None:
    """Raises UserError if a file stands there that is no page of jaxprune's."""
    if not out.exists():
        return
    try:
        with out.open("rb") as file:
            ours = b'<meta name="generator" content="jaxprune' in file.read(4096)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from error
    if not ours:
        raise UserError(f"{out} is there and is no report of jaxprune: choose another --out")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
