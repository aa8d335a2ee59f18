"""How a command ends: by an exit code, and after a mistake with one line that says what to do."""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from jaxprune.errors import UserError

T = TypeVar("T")

INTERRUPTED = 130
WRONG_USE = 2

_NO_DEFECTS = {
    errno.EACCES: "choose another folder, or allow it",
    errno.EPERM: "choose another folder, or allow it",
    errno.EROFS: "choose another folder",
    errno.ENOSPC: "make room, or choose another disk",
    errno.EDQUOT: "make room, or choose another disk",
    errno.EFBIG: "raise the limit (ulimit -f), or choose another disk",
}
"""What the system may refuse although the program is right, and the remedy."""


def ended(command: Callable[[], int | None]) -> int:
    """Runs a command.

    Args:
        command: Does all of it; returns an exit code, or None for 0. A `UserError`, and a file or
            folder that the system refuses, become one line on stderr.

    Returns:
        The exit code: that of the command, 2 if something that was typed cannot work, or 130 after
        Ctrl-C.
    """
    try:
        return command() or 0
    except UserError as error:
        print(f"jaxprune: error: {error}", file=sys.stderr)
        return WRONG_USE
    except OSError as error:
        reason = refusal(error)
        if reason is None:
            raise
        print(f"jaxprune: error: {reason}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def refusal(error: OSError) -> str | None:
    """What the system refused and the remedy in one line, or None where it may be our mistake."""
    remedy = _NO_DEFECTS.get(error.errno or 0)
    if remedy is None:
        return None
    what = f"{error.filename}: " if error.filename is not None else ""
    return f"{what}{os.strerror(error.errno or 0)}; {remedy}"


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
