"""The command ``jaxprune bench``: a run's dense network against its compact one."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jaxprune.commands import console
from jaxprune.errors import UserError

if TYPE_CHECKING:
    from jaxprune.commands.bench import Comparison
    from jaxprune.networks.export.rebuild import Rebuilt

PROGRAM = "jaxprune bench"

DESCRIPTION = """\
Compare a run's dense network with the compact one on this device.

They take turns. One call on one image is mostly the cost of calling.\
"""


@dataclass(frozen=True)
class Arguments:
    """Options of the command."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a finished run."""

    batch: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (1, 128)
    """Images in a batch; several sizes are measured one after the other."""

    repeats: int = 30
    """Calls of each network that are timed."""

    json: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint=lambda default: "")
    ] = None
    """A file that gets all numbers."""

    model: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint=lambda default: "")
    ] = None
    """If the run's network is your own: its module:function again, which is imported."""

    overwrite: bool = False
    """Replace that file if it is there."""


def main(argv: Sequence[str]) -> int:
    """Measures as the arguments say, and prints a table.

    Args:
        argv: The arguments after the program's name; ``--help`` lists them.

    Returns:
        The exit code, as `jaxprune.commands.console.ended` has it.
    """
    return console.run(Arguments, _run, argv, program=PROGRAM, description=DESCRIPTION)


def _run(options: Arguments) -> None:
    for name, values in (("batch", options.batch), ("repeats", (options.repeats,))):
        if not values or min(values) < 1:
            shown = " ".join(map(str, values)) or "without a number"
            raise UserError(f"--{name} {shown} is too small; it must be at least 1")
    if options.json and options.json.exists() and not options.overwrite:
        raise UserError(
            f"{options.json} exists already: add --overwrite to replace it, or choose another file"
        )
    from jaxprune.commands.bench import compare
    from jaxprune.commands.run.compiled import keep_compiled
    from jaxprune.networks.export.rebuild import rebuild

    keep_compiled(None)
    rebuilt = rebuild(options.run, options.model)
    variables, trained = _dense_variables(options.run, rebuilt)
    found = compare(rebuilt, variables, options.batch, repeats=options.repeats)
    about = _about(rebuilt, options, trained)
    _show(found, about)
    if options.json:
        _write(options.json, {**about, **_as_json(found)})


def _dense_variables(run: Path, rebuilt: "Rebuilt") -> tuple[Any, bool]:
    """The dense network's variables, and whether they are the trained ones."""
    import jax

    from jaxprune.files import checkpoint

    run = run.expanduser().resolve()
    state = (run.parent if run.name == "model" else run) / "state" / "pretrained"
    init = rebuilt.network.init
    if not checkpoint.exists(state):
        return init(jax.random.PRNGKey(0)), False
    return checkpoint.load(state, like=jax.eval_shape(init, jax.random.PRNGKey(0))), True


def _about(rebuilt: "Rebuilt", options: Arguments, trained: bool) -> dict[str, Any]:
    from jaxprune.commands import config

    return {
        "model": rebuilt.network.name,
        "dataset": rebuilt.loaded.metadata.get("dataset"),
        "device": config.device(),
        "versions": config.versions(),
        "repeats": options.repeats,
        "dense_weights": "trained" if trained else "initial",
    }


def _show(found: "Comparison", about: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    screen = Console()
    screen.print(f"{about['model']} on {about['device']}, jax {about['versions']['jax']}")
    if about["dense_weights"] == "initial":
        screen.print(
            "the run's folder has no trained dense weights: initial ones are timed instead, which "
            "takes as long"
        )
    sizes = Table("", "parameters", "multiply-adds", "bytes")
    for name in found.params:
        row = (found.params[name], found.macs[name], found.param_bytes[name])
        sizes.add_row(name, *(f"{number:,}" for number in row))
    calls = Table("batch", "", "ms", "quartiles", "images/s", "peak bytes", "speedup")
    for table in (sizes, calls):
        for column in table.columns:
            column.justify = "left" if column.header == "" else "right"
            column.no_wrap = True
    for batch, of in found.calls.items():
        for name, call in of.items():
            low, high = call.quartiles_ms
            calls.add_row(
                str(batch),
                name,
                f"{call.median_ms:.4g}",
                f"{low:.3g}-{high:.3g}",
                f"{call.images_per_second:,.0f}",
                "" if call.peak_bytes is None else f"{call.peak_bytes:,}",
                "" if name == "dense" else f"{of['dense'].median_ms / call.median_ms:.2f}",
            )
        calls.add_section()
    screen.print(sizes)
    screen.print(calls)


def _as_json(found: "Comparison") -> dict[str, Any]:
    return {
        **{name: getattr(found, name) for name in ("params", "macs", "param_bytes")},
        "calls": [
            {"batch": batch, **{name: call._asdict() for name, call in of.items()}}
            for batch, of in found.calls.items()
        ],
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"--json {path} cannot be written: {error.strerror}") from error
