"""Files that are there whole or not at all, and what is said when one is not what was written."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxprune.errors import UserError, first_line


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A fresh file for a with statement to write, which replaces `path` once it is complete.

    A process killed at any moment leaves the old file or the new one. Its folder must exist.
    """
    prefix = f".{path.name}."
    with tempfile.NamedTemporaryFile(
        prefix=prefix, suffix=".new", dir=path.parent, delete=False
    ) as file:
        fresh = Path(file.name)
    try:
        yield fresh
        fresh.chmod(0o644)  # temporary files keep other users out
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turns whatever reading a damaged file raises into a UserError.

    Args:
        what: The file or folder, for the message.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # parsers and storage layers raise whatever they raise
        raise UserError(
            f"{what} is damaged ({type(error).__name__}: {first_line(error)}): "
            "remove it and make it again"
        ) from error


def check_format(what: str, found: int, known: int) -> None:
    """Checks the version of a format.

    Raises:
        UserError: It is a newer one than is known.
        ValueError: It is none.
    """
    if found > known:
        raise UserError(
            f"{what} was written by a newer version of jaxprune (format {found}, this one reads "
            f"{known}): upgrade jaxprune to load it"
        )
    if found != known:
        raise ValueError(f"format {found} instead of {known}")
