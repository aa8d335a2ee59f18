"""How a command ends: by an exit code, and after a mistake with one line that says what to do."""

import sys
from collections.abc import Callable

from jaxprune.errors import UserError

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
