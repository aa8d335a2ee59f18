"""How a command ends: by an exit code, and after a mistake with one line that says what to do."""

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from jaxprune.errors import UserError

T = TypeVar("T")

INTERRUPTED = 130
WRONG_USE = 2


def ended(command: Callable[[], None]) -> int:
    """Runs a command.

    Args:
        command: Does all of it. A `UserError` becomes one line on stderr.

    Returns:
        The exit code: 0, 2 if something that was typed cannot work, or 130 after Ctrl-C.
    """
    try:
        command()
    except UserError as error:
        print(f"jaxprune: error: {error}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def run(
    kind: type[T],
    command: Callable[[T], None],
    argv: Sequence[str],
    *,
    program: str,
    description: str,
) -> int:
    """Reads a command's arguments and runs it.

    Args:
        kind: A dataclass of the options.
        command: Does all of it.
        argv: The arguments after the program's name; ``--help`` lists them.
        program: What is typed before them, for the help.
        description: The help's first words.

    Returns:
        The exit code, as `ended` has it.
    """
    options = tyro.cli(
        kind,
        prog=program,
        description=description,
        args=argv,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return ended(lambda: command(options))
