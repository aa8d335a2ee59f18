"""The command itself: arguments in, exit code out."""

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jaxprune.commands.console import INTERRUPTED, ended, refusal
from jaxprune.commands.run import arguments
from jaxprune.errors import UserError
from jaxprune.files import run_folder


def main(argv: Sequence[str]) -> int:
    """Prunes a network as the arguments say.

    Args:
        argv: The arguments after the program's name; ``--help`` lists them.

    Returns:
        The exit code: 0 after a whole run, 2 if something that was typed cannot work, with one line
        on stderr saying what, and 130 after Ctrl-C, with the command that resumes.
    """
    return ended(lambda: perform(arguments.parse(argv)))


def perform(options: arguments.Arguments[Any]) -> int:
    """Does one run, or what is left of it.

    Args:
        options: All of its settings.

    Returns:
        The exit code: 0, or 130 after Ctrl-C.

    Raises:
        UserError: Something that was typed cannot work.
    """
    # From here on the libraries are needed; --help and most mistakes end before.
    from jaxprune.commands import config
    from jaxprune.commands.run import display, hosts, loggers, pipeline
    from jaxprune.commands.run import job as jobs
    from jaxprune.commands.run.compiled import keep_compiled
    from jaxprune.scoring import devices
    from jaxprune.search import methods

    config.check(options.run)
    loggers.check(options.run.log)
    hosts.join(options)
    keep_compiled(options.run.cache_dir)
    settings = config.resolve(options.run, datetime.now())
    out = Path(settings.out or ".").expanduser()
    if not (settings.resume or settings.dry_run):
        hosts.agree(lambda: run_folder.check_free(out))

    resume = None
    try:
        first = devices.is_first()
        with display.make(silent=not first) as shown:
            shown.say(f"data: loading {settings.dataset}")
            job = jobs.prepare(settings, options.search, methods.get(settings.method))
            if settings.dry_run:
                return _end(_plan(job))
            shown.say(
                f"run: {settings.method} prunes {settings.model} on {settings.dataset} to "
                f"{' and '.join(map(str, job.budgets))}, in {out}, on {job.device}"
            )
            stored = config.to_json(settings, options.search)
            if settings.resume:
                jobs.check_content(job, run_folder.read_config(out).get("content", {}))
            else:
                stored = {**stored, "versions": config.versions()}
                if own := jobs.content(job):
                    stored = {**stored, "content": own}
            resume = arguments.resume_command(settings)
            with hosts.folder(out, None if settings.resume else stored) as opened:
                if opened.finished:
                    return _end(f"the run in {out} is finished: see {out / 'report.md'}")
                with loggers.attached(settings.log if first else (), opened, stored):
                    result = pipeline.run(job, opened, shown)
    except KeyboardInterrupt:
        advice = f"to continue: {resume}" if resume else "nothing was begun"
        print(f"interrupted; {advice}", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        reason = refusal(error)
        if reason is None or resume is None:
            raise
        raise UserError(f"{reason}; then continue: {resume}") from error
    return _end(_summary(result)) if first else 0


def _end(text: str) -> int:
    print(text)
    return 0


def _plan(job: Any) -> str:
    from jaxprune.commands.config import limits
    from jaxprune.commands.run import forecast
    from jaxprune.costs.outlook import outlook

    config, structure = job.config, job.structure
    known = not any(budget.meter for budget in job.budgets)
    rows = outlook(structure, job.budgets, limits(config), uniform=known)
    return "\n".join(
        [
            f"{config.model} for {config.dataset}:",
            "",
            str(structure),
            "",
            f"budget: {' and '.join(map(str, job.budgets))}",
            forecast.text(rows),
            "",
            "settings:",
            arguments.table(config, job.search),
            "",
            "--dry-run: no run was begun",
        ]
    )


def _summary(result: dict[str, Any]) -> str:
    rows = {"dense": result["dense"], result["method"]: result["pruned"], **result["baselines"]}
    header = f"{'network':12} {'test accuracy':>13} {'parameters':>12} {'macs':>14} {'ms':>8}"
    return "\n".join(
        [
            "",
            header,
            *(
                f"{name:12} {row['test_accuracy']:13.2%} {row['params']:12,} {row['macs']:14,} "
                f"{row['latency_ms']:8.3f}"
                for name, row in rows.items()
            ),
            "",
            *map(_budget, result["budgets"]),
        ]
    )


def _budget(row: dict[str, Any]) -> str:
    return (
        f"budget {'met' if row['met'] else 'NOT met'}: {row['share']:.2%} of the dense network's "
        f"{row['cost']} left, {row['limit']:.2%} allowed"
    )
