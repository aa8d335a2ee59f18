"""The command line: options of the run, and under ``--search.`` those of its method."""

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from jaxprune.commands import presets
from jaxprune.commands.config import (
    DEFAULT_MODELS,
    PROGRAM,
    RunConfig,
    difference,
    from_json,
    own_names,
    to_json,
)
from jaxprune.errors import UserError
from jaxprune.files.run_folder import CONFIG, read_config, read_json
from jaxprune.search import methods

DESCRIPTION = """\
Train a network, search filters to remove, fine-tune what is left, and report.

Each method has its own search options: see --method random --help.

Options that are not given are as --preset or --config says.\
"""

MethodConfig = TypeVar("MethodConfig")


@dataclass(frozen=True)
class Arguments(Generic[MethodConfig]):
    """All options of a run."""

    run: Annotated[RunConfig, tyro.conf.arg(name="")]
    search: MethodConfig


def parse(argv: Sequence[str]) -> Arguments[Any]:
    """Reads the command line.

    The method decides which options there are, and with --resume, --preset or --config the settings
    of the run, of the preset or in the file are the defaults: these are looked for first.

    Args:
        argv: The arguments after the program's name.

    Returns:
        The settings; with --resume those of the interrupted run.

    Raises:
        UserError: The method or preset is unknown, there is no run to resume or file to read, or an
            option differs from the settings that a run was started with.
        SystemExit: After --help (status 0), or if an option is unknown or malformed (status 2).
    """
    stored = None
    if "--resume" in argv and not {"-h", "--help"} & set(argv):
        out = _value_of("--out", argv)
        if out is None:
            raise UserError("--resume needs --out with the folder of the run to continue")
        stored = read_config(Path(out))
    run, search = _defaults(argv) if stored is None else _of_the_run(stored, argv)
    # A switch that is on before anything is typed needs a word that turns it off.
    all_off = not any(
        value is True for settings in (run, search) for value in vars(settings).values()
    )
    kind: Any = Arguments[type(search)]  # type: ignore[misc]
    arguments = tyro.cli(
        kind,
        prog=PROGRAM,
        description=DESCRIPTION,
        args=argv,
        default=Arguments(run, search),
        config=(tyro.conf.FlagCreatePairsOff,) if all_off else (),
    )
    if stored is not None:
        # Settings that an older version did not know are at their defaults.
        found = difference(to_json(run, search), to_json(arguments.run, arguments.search))
        if found:
            raise _different(found)
    _check_typed(arguments.run, argv)
    return arguments


def _check_typed(run: RunConfig, argv: Sequence[str]) -> None:
    """Raises UserError if a function of the user's own is named by a file and not by the user.

    It would be imported, which runs its module.
    """
    typed = {word.partition("=")[2] if word.startswith("--") else word for word in argv}
    for option, name in own_names(vars(run)):
        if name not in typed:
            value = " ".join(run.cost) if option == "cost" else name
            raise UserError(
                f"--{option} {name} comes from a file: a function of your own is imported only if "
                f"you type its name, since importing runs it; add --{option} {value}"
            )


def _defaults(argv: Sequence[str]) -> tuple[RunConfig, Any]:
    """The settings of a new run where no option says otherwise."""
    preset = _value_of("--preset", argv) or RunConfig.preset
    file = _value_of("--config", argv)
    method = _value_of("--method", argv)
    if file is None:
        method = method or RunConfig.method
        search_type = methods.get(method).Config
        dataset = _value_of("--dataset", argv) or RunConfig.dataset
        model = _value_of("--model", argv) or DEFAULT_MODELS.get(dataset, "")
        of_run, of_search = presets.find(preset, method, model)
        return RunConfig(method=method, **of_run), search_type(**of_search)
    if preset != RunConfig.preset:
        raise UserError(f"--preset {preset} and --config {file} both give defaults: leave one out")
    settings = read_json(Path(file).expanduser())
    stored = _method_of(settings, file)
    if method not in (None, stored):
        raise UserError(f"--config {file} is for --method {stored}, not {method}: leave one out")
    return from_json(settings, methods.get(stored).Config)


def _method_of(settings: Any, file: str) -> str:
    """The method that a config.json names."""
    method = settings.get("method") if isinstance(settings, dict) else None
    if not isinstance(method, str):
        raise UserError(f"{file} is no config.json of a run: it names no method")
    return method


def _of_the_run(stored: Any, argv: Sequence[str]) -> tuple[RunConfig, Any]:
    """The settings of a run that is resumed."""
    known = _method_of(stored, f"{_value_of('--out', argv)}/{CONFIG}")
    for option in ("--preset", "--config"):
        if _value_of(option, argv) is not None:
            raise UserError(
                f"{option} gives settings to new runs, --resume goes on with those of the run: "
                f"leave {option} out"
            )
    method = _value_of("--method", argv)
    if method not in (None, known):
        raise _different(f"--method is {method}, the run has {known}")
    return from_json(stored, methods.get(known).Config)


_KEPT_PLACES = ("data_dir", "cache_dir", "devices", "coordinator", "processes", "process")
"""Options that a resumed run is given again."""


def resume_command(config: RunConfig) -> str:
    """What to type to continue a run, functions of the user's own included."""
    places = [
        f" --{name.replace('_', '-')} {shlex.quote(str(getattr(config, name)))}"
        for name in _KEPT_PLACES
        if getattr(config, name) is not None
    ]
    own = {option for option, _ in own_names(vars(config))}
    places += [
        f" --{option} {shlex.join(config.cost) if option == 'cost' else getattr(config, option)}"
        for option in ("model", "dataset", "cost")
        if option in own
    ]
    log = f" --log {' '.join(config.log)}" if config.log else ""
    return f"{PROGRAM} --resume --out {shlex.quote(str(config.out))}{''.join(places)}{log}"


def table(config: RunConfig, search: Any) -> str:
    """The settings, one on a line."""
    rows = [
        *(
            (f.name, getattr(config, f.name))
            for f in dataclasses.fields(config)
            if f.name not in ("resume", "dry_run", "preset", "config")
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
