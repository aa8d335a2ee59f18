"""The command line: options of the run, and under ``--search.`` those of its method."""

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from jaxprune import methods
from jaxprune.config import PROGRAM, RunConfig, difference, from_json, to_json
from jaxprune.errors import UserError
from jaxprune.run_folder import read_config

DESCRIPTION = """\
Train a network, search filters to remove, fine-tune what is left, and report.

Each method has its own search options: see --method random --help.\
"""

MethodConfig = TypeVar("MethodConfig")


@dataclass(frozen=True)
class Arguments(Generic[MethodConfig]):
    """All options of a run."""

    run: Annotated[RunConfig, tyro.conf.arg(name="")]
    search: MethodConfig


def parse(argv: Sequence[str]) -> Arguments[Any]:
    """Reads the command line.

    The method decides which options there are, and with --resume the stored settings are the
    defaults: these are looked for first.

    Args:
        argv: The arguments after the program's name.

    Returns:
        The settings; with --resume those of the interrupted run.

    Raises:
        UserError: The method is unknown, there is no run to resume, or an option differs from the
            settings it was started with.
        SystemExit: After --help (status 0), or if an option is unknown or malformed (status 2).
    """
    stored = None
    if "--resume" in argv and not {"-h", "--help"} & set(argv):
        out = _value_of("--out", argv)
        if out is None:
            raise UserError("--resume needs --out with the folder of the run to continue")
        stored = read_config(Path(out))
    method = _value_of("--method", argv) or (stored or {}).get("method", RunConfig.method)
    search_type = methods.get(method).Config
    if stored is None:
        run, search = RunConfig(method=method), search_type()
    elif stored.get("method") != method:
        raise _different(f"--method is {method}, the run has {stored.get('method')}")
    else:
        run, search = from_json(stored, search_type)

    arguments = tyro.cli(
        Arguments[search_type],  # type: ignore[valid-type]
        prog=PROGRAM,
        description=DESCRIPTION,
        args=argv,
        default=Arguments(run, search),
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if stored is not None:
        # Settings that an older version did not know are at their defaults.
        found = difference(to_json(run, search), to_json(arguments.run, arguments.search))
        if found:
            raise _different(found)
    return arguments


def resume_command(config: RunConfig) -> str:
    """What to type to continue a run."""
    places = [
        f" --{name.replace('_', '-')} {shlex.quote(str(getattr(config, name)))}"
        for name in ("data_dir", "cache_dir")
        if getattr(config, name) is not None
    ]
    return f"{PROGRAM} --resume --out {shlex.quote(str(config.out))}{''.join(places)}"


def table(config: RunConfig, search: Any) -> str:
    """The settings, one on a line."""
    rows = [
        *(
            (f.name, getattr(config, f.name))
            for f in dataclasses.fields(config)
            if f.name not in ("resume", "dry_run")
        ),
        *((f"search.{f.name}", getattr(search, f.name)) for f in dataclasses.fields(search)),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:{width}}  {_shown(value)}" for name, value in rows)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "default" if value is None else str(value)


def _value_of(option: str, argv: Sequence[str]) -> str | None:
    """The value that follows an option, as ``--option value`` or ``--option=value``; the last."""
    value = None
    for word, following in zip_longest(argv, argv[1:]):
        if word == option:
            value = following
        elif word.startswith(f"{option}="):
            value = word.removeprefix(f"{option}=")
    return value


def _different(what: str) -> UserError:
    return UserError(f"cannot resume with other settings: {what}; leave the option out")
