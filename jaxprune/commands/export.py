"""The command ``jaxprune export``: a run's network in a form that other programs take."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxprune.commands import console
from jaxprune.errors import UserError
from jaxprune.files import functions

PROGRAM = "jaxprune export"

DESCRIPTION = """\
Write the network that a run has found in a form that other programs take.

stablehlo: one file for jax.export, on CPU, CUDA and TPU.

onnx: one file; needs pip install 'jaxprune[onnx]'.

linen: a folder with a Flax module that needs flax alone, and its variables.

All take any batch size, and are compared with the run's network first.\
"""

Form = Literal["stablehlo", "onnx", "linen"]

NAMES: dict[str, str] = {
    "stablehlo": "network.stablehlo",
    "onnx": "network.onnx",
    "linen": "linen",
}
"""{form: what is written into the run's folder exported/ where --out says nothing else}."""


@dataclass(frozen=True)
class Arguments:
    """Options of the command."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a finished run, or of a model that jaxprune.save wrote."""

    to: Form
    """The form: stablehlo, onnx or linen."""

    out: Annotated[
        Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint=lambda default: "")
    ] = None
    """What is written: a file, for linen a folder; by default in exported/ in the run's folder."""

    model: Annotated[
        str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint=lambda default: "")
    ] = None
    """For onnx, if the run's network is your own: its module:function again, which is imported."""

    overwrite: bool = False
    """Replace what is there."""


def main(argv: Sequence[str]) -> int:
    """Exports a network as the arguments say.

    Args:
        argv: The arguments after the program's name; ``--help`` lists them.

    Returns:
        The exit code, as `jaxprune.commands.console.ended` has it.
    """
    return console.run(
        Arguments,
        lambda options: print(export(options)),
        argv,
        program=PROGRAM,
        description=DESCRIPTION,
    )


def export(options: Arguments) -> str:
    """Writes what the options ask for.

    Returns:
        What was written, and what to type to use it.

    Raises:
        UserError: There is no finished run or model, the form does not suit it, something is there
            already, or it cannot be written.
    """
    from jaxprune.networks.export.rebuild import open_model

    loaded = open_model(options.run)
    named = str(loaded.metadata.get("model", ""))
    if options.to == "linen" and functions.is_own(named):
        raise UserError(
            f"--to linen copies the source of bundled networks, and {named} is your own: choose "
            "stablehlo or onnx, or let jaxprune.linen_module narrow what jaxprune.prune returned"
        )
    out = options.out or options.run / "exported" / NAMES[options.to]
    out = out.expanduser()
    _check_free(out, options)
    try:
        _WRITERS[options.to](options, out)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from error
    x = "x: " + "; ".join(
        f"{each.dtype} [{', '.join('batch' if n is None else str(n) for n in each.shape)}]"
        for each in loaded.inputs
    )
    return f"wrote {out}\n\n{_USES[options.to].format(out=str(out), x=x)}"


def _check_free(out: Path, options: Arguments) -> None:
    if options.to == "linen":
        from jaxprune.networks.export.standalone import FILES

        if out.exists() and not out.is_dir():
            raise UserError(f"--out {out} is a file; --to linen writes a folder")
        taken = [out / name for name in FILES if (out / name).exists()]
    else:
        if out.is_dir():
            raise UserError(f"--out {out} is a folder; --to {options.to} writes a file")
        taken = [out] if out.exists() else []
    if taken and not options.overwrite:
        raise UserError(
            f"{taken[0]} exists already: add --overwrite to replace it, or choose another --out"
        )


def _write_stablehlo(options: Arguments, out: Path) -> None:
    import jax

    from jaxprune.networks.export.examples import read
    from jaxprune.networks.export.program import checked
    from jaxprune.networks.export.rebuild import open_model

    loaded = open_model(options.run)
    params = jax.tree.map(jax.numpy.asarray, loaded.params)
    inputs, any_size = read(loaded.shapes()), loaded.batch is None
    program = checked(lambda *x: loaded(params, *x), (), inputs, any_size)
    _write(out, bytes(program.serialize()))


def _write_onnx(options: Arguments, out: Path) -> None:
    from jaxprune.networks.export.interchange import onnx
    from jaxprune.networks.export.rebuild import example, rebuild

    rebuilt = rebuild(options.run, options.model)
    onnx(out, rebuilt.small, example(rebuilt.loaded))


def _write_linen(options: Arguments, out: Path) -> None:
    from jaxprune.networks.export.rebuild import rebuild
    from jaxprune.networks.export.standalone import linen

    linen(out, rebuild(options.run))


def _write(out: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.{os.getpid()}.new")
    try:
        fresh.write_bytes(content)
        fresh.replace(out)
    finally:
        fresh.unlink(missing_ok=True)


_WRITERS: dict[str, Callable[[Arguments, Path], None]] = {
    "stablehlo": _write_stablehlo,
    "onnx": _write_onnx,
    "linen": _write_linen,
}

_USES = {
    "stablehlo": """\
from pathlib import Path
from jax import export

network = export.deserialize(bytearray(Path({out!r}).read_bytes()))
logits = network.call(x)  # {x}""",
    "onnx": """\
import onnxruntime

session = onnxruntime.InferenceSession({out!r})
(logits,) = session.run(None, {{"x": x}})  # {x}""",
    "linen": """\
import sys
sys.path.append({out!r})
import network

variables = network.load()
logits = network.apply(variables, x)  # {x}
# from uint8 images: x = network.preprocess(images)""",
}
