"""The command ``jaxprune docs``: how-to pages and API reference as a static site."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxprune.commands import console

PROGRAM = "jaxprune docs"

DESCRIPTION = """\
Write the how-to pages and the API reference as a static site.

It needs the extra docs: pip install '.[docs]'.\
"""


@dataclass(frozen=True)
class Arguments:
    """Options of the command."""

    out: Path
    """Folder of the site; files of an earlier one in it are replaced."""


def main(argv: Sequence[str]) -> int:
    """Writes the site, and prints where it begins.

    Args:
        argv: The arguments after the program's name; ``--help`` lists them.

    Returns:
        The exit code, as `jaxprune.commands.console.ended` has it.
    """
    return console.run(Arguments, _write, argv, program=PROGRAM, description=DESCRIPTION)


def _write(options: Arguments) -> None:
    from jaxprune.commands.docs.reference import write

    print(write(options.out))
