"""The command itself: one run after the other, then the table."""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxprune.commands.console import INTERRUPTED, WRONG_USE, ended
from jaxprune.commands.sweep import table
from jaxprune.commands.sweep.plan import PROGRAM, Planned, command, plan
from jaxprune.errors import UserError
from jaxprune.files import run_folder

TABLE = "sweep.md"
DATA = "sweep.json"


def main(argv: Sequence[str]) -> int:
    """Makes the runs that the arguments ask for, and that are not finished.

    A run that cannot work, because its budget is out of reach, say, is left out with a line that
    says so; the others are made.

    Args:
        argv: The arguments after the program's name; ``--help`` lists them.

    Returns:
        The exit code: 0 when all runs are finished, 2 if something that was typed cannot work, and
        130 after Ctrl-C.
    """
    return ended(lambda: _sweep(argv))


def _sweep(argv: Sequence[str]) -> int:
    axes, runs = plan(argv)
    if axes.dry_run:
        print("\n".join(f"{run.state:8}  {command(run.words)}" for run in runs))
        print(f"--dry-run: {len(runs)} runs, none was begun")
        return 0
    errors: dict[str, str] = {}
    for number, run in enumerate(runs, start=1):
        print(f"run {number} of {len(runs)}: {run.name}, {run.state}", flush=True)
        if run.state == "finished":
            continue
        try:
            if _make(run) == INTERRUPTED:
                print(f"to continue the sweep: {command(argv, PROGRAM)}", file=sys.stderr)
                return INTERRUPTED
        except UserError as error:
            errors[run.name] = str(error)
            print(f"jaxprune: error: {error}", file=sys.stderr)
    print(_write(axes.out, argv, runs, errors))
    return WRONG_USE if errors else 0


def _make(run: Planned) -> int:
    """Begins a run or goes on with it; returns its exit code."""
    import jax

    from jaxprune.commands.run.command import perform

    settings = dataclasses.replace(run.options.run, resume=run.state == "begun")
    try:
        return perform(dataclasses.replace(run.options, run=settings))
    finally:
        jax.clear_caches()  # a process can hold the compiled programs of so many runs only


def _write(out: Path, argv: Sequence[str], runs: Sequence[Planned], errors: dict[str, str]) -> str:
    """Writes the table, and returns it."""
    known = [_described(run, errors.get(run.name)) for run in runs]
    found = table.rows(known)
    text = table.markdown(found, known)
    heading = [
        "# Sweep",
        "",
        f"{_what(known)}. Test accuracy in percent after fine-tuning, and what is left of each",
        "cost: mean and sample deviation over the seeds. The baselines have the same budget and",
        f"the same fine-tuning. Made by `{command(argv, PROGRAM)}`.",
    ]
    try:
        out.mkdir(parents=True, exist_ok=True)
        run_folder.write_json(
            out / DATA, {"command": command(argv, PROGRAM), "rows": found, "runs": known}
        )
        run_folder.write_text(out / TABLE, "\n".join([*heading, "", text, ""]))
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from error
    return f"\n{text}\n\n{out / TABLE}{_comparison(out, runs)}"


def _comparison(out: Path, runs: Sequence[Planned]) -> str:
    """What to type to look at several runs side by side."""
    finished = [run.path for run in runs if run.state == "finished"]
    if len(finished) < 2:
        return ""
    words = [*map(str, finished), "--out", str(out / "comparison.html")]
    return f"\n\nto compare them in a browser: jaxprune report {shlex.join(words)}"


def _what(runs: Sequence[dict[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(f"{run['model']} on {run['dataset']}" for run in runs))


def _described(run: Planned, error: str | None) -> dict[str, Any]:
    settings = run.options.run
    return {
        "name": run.name,
        **{name: getattr(settings, name) for name in ("method", "model", "dataset", "seed")},
        "cost": list(settings.cost),
        "budget": list(settings.budget),
        "error": error,
        "result": run_folder.read_json(run.path / run_folder.RESULT)
        if run.state == "finished"
        else None,
    }
