"""``jaxprune COMMAND ...``: finds a command by its name."""

import sys
from collections.abc import Sequence
from importlib import import_module

from jaxprune.commands import huge_pages

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("jaxprune.commands.run.command", "prune a network and write a report"),
    "report": ("jaxprune.commands.report.command", "show a run, or compare several, in a browser"),
    "export": ("jaxprune.commands.export", "write a run's network as StableHLO, ONNX or Flax"),
    "bench": ("jaxprune.commands.bench.command", "time a run's network, dense against compact"),
    "sweep": ("jaxprune.commands.sweep.command", "make many runs and their table"),
    "networks": ("jaxprune.commands.networks", "train networks into files, and use such files"),
    "data": ("jaxprune.commands.data", "prepare a dataset without TensorFlow"),
    "docs": ("jaxprune.commands.docs.command", "write the documentation as a static site"),
}
"""{name: (module with `main(argv)`, what it does)}. A module is imported when it is asked for."""
TRAINING = ("run", "sweep", "networks")
"""The commands that gain from `huge_pages`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The command's exit code: 0, 2 if something that was typed cannot work, 130 after Ctrl-C.
    """
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name == "--version":
        from jaxprune.version import __version__

        print(f"jaxprune {__version__}")
        return 0
    if name not in COMMANDS:
        from jaxprune.commands.console import WRONG_USE

        print(
            f"jaxprune: error: unknown command {name!r}; the commands are: {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        return WRONG_USE
    if argv is None and name in TRAINING:
        huge_pages.begin_again()
    return import_module(COMMANDS[name][0]).main(rest)


def usage() -> str:
    """The commands, and what each is for."""
    lines = [f"  {name:9}{purpose}" for name, (_, purpose) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jaxprune COMMAND ...",
            "",
            "Structured pruning for JAX.",
            "",
            *lines,
            "",
            "jaxprune COMMAND --help lists a command's options.",
        ]
    )
