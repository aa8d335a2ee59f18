"""Functions in a user's own files, written module:function.

Importing a module runs it. A name is followed here only because the user typed it; a file that
holds such a name, a run's settings or a model's description, is never reason enough.
"""

import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from jaxprune.errors import UserError, first_line


def is_own(name: str) -> bool:
    """Whether a name has the form module:function."""
    return ":" in name


def slug(name: str) -> str:
    """A name as a part of a file's name: my_task:network as my_task.network."""
    return name.replace(":", ".").replace("/", "-")


def find(kind: str, name: str) -> Callable[..., Any]:
    """The function of that name, from the folder where the command was typed or from any package.

    Args:
        kind: What it is for, such as "model", for messages.
        name: "module:function"; the function may be an attribute of a class, such as "m:Task.data".

    Raises:
        UserError: The name has another form, the module cannot be imported, or it has no such
            function.
    """
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise UserError(f"{kind} {name!r} is not of the form module:function")
    with _this_folder_too():
        try:
            found: Any = import_module(module)
        except (Exception, SystemExit) as error:  # the module's own code may raise anything
            raise UserError(
                f"the {kind} {name!r} cannot be imported: {_what(error)}; modules are "
                f"looked for in {Path.cwd()} and among the installed packages"
            ) from error
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise UserError(f"the {kind} {name!r} does not exist: {error}") from error
    if not callable(found):
        raise UserError(f"the {kind} {name!r} is a {type(found).__name__}, no function")
    return found


def asks_for(kind: str, name: str, function: Callable[..., Any], offered: set[str]) -> set[str]:
    """Which of the arguments that a user's function may take it does take.

    Args:
        kind: As in `find`.
        name: As in `find`.
        function: What `find` returned.
        offered: Names of arguments that it can be given.

    Raises:
        UserError: It requires another one.
    """
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # a builtin without a signature
        return set()
    for parameter in parameters.values():
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        unknown = parameter.name not in offered or parameter.kind is parameter.POSITIONAL_ONLY
        if unknown and not variadic and parameter.default is parameter.empty:
            may = f"it may take {', '.join(sorted(offered))}" if offered else "it must take none"
            raise UserError(f"the {kind} {name!r} needs an argument {parameter.name!r}; {may}")
    return offered & set(parameters)


def call(kind: str, name: str, function: Callable[..., Any], **arguments: Any) -> Any:
    """What a user's function returns.

    Raises:
        UserError: It raises; the message says where.
    """
    try:
        return function(**arguments)
    except Exception as error:  # a user's function may raise anything
        raise UserError(f"the {kind} {name!r} raised {_what(error)}") from error


def _what(error: BaseException) -> str:
    """An exception in one line, with the line of code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is our own
    theirs = [frame for frame in frames if "importlib" not in frame.filename]
    where = f" ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else ""
    return f"{type(error).__name__}: {first_line(error)}{where}"


@contextmanager
def _this_folder_too() -> Iterator[None]:
    """Lets modules be imported from the current folder, as `python -m` does and scripts do not."""
    here = str(Path.cwd())
    if {"", here} & set(sys.path):
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
