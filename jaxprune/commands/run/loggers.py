"""The metrics of a run elsewhere: each line of metrics.jsonl for TensorBoard or Weights & Biases.

A logger is given the lines one by one, with their number in the file. A step that is computed again
after an interruption has a line already, so that no logger sees it twice.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

from jaxprune.errors import UserError
from jaxprune.files.run_folder import RunFolder

Line = Mapping[str, Any]
"""{"phase": name, "step": number within it, metric: value, ...}."""

Logger = Callable[[int, Line], None]
"""`logger(number, line)` takes a line and its number in metrics.jsonl."""

PACKAGES: dict[str, str] = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""{logger: the package it needs}; the extra that installs it has the logger's name."""

NAMES: tuple[str, ...] = tuple(PACKAGES)

PROJECT = "jaxprune"
"""Project of the runs at Weights & Biases, unless WANDB_PROJECT names another one."""


def check(names: Sequence[str]) -> None:
    """Raises UserError unless there are loggers of these names and their packages are installed."""
    for name in names:
        if name not in PACKAGES:
            raise UserError(f"unknown --log {name!r}; the loggers are: {', '.join(NAMES)}")
        if names.count(name) > 1:
            raise UserError(f"--log lists {name} twice")
        if not _installed(PACKAGES[name]):
            raise UserError(
                f"--log {name} needs the package {PACKAGES[name]}: pip install 'jaxprune[{name}]'"
            )


def _installed(package: str) -> bool:
    """Whether a package is there; a folder of its name, as wandb leaves one, is none."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


@contextmanager
def attached(names: Sequence[str], folder: RunFolder, config: Mapping[str, Any]) -> Iterator[None]:
    """While this is open, the loggers get each line that is added to the run's metrics.

    Args:
        names: Some of `NAMES`.
        folder: The run. Lines that it has already are given to a logger that has not seen them.
        config: The settings, for loggers that show them.

    Raises:
        UserError: Weights & Biases refuses, for want of a login for instance.
    """
    with ExitStack() as stack:
        for name in names:
            folder.listen(stack.enter_context(_LOGGERS[name](folder, config)))
        yield


def scalars(line: Line) -> dict[str, float]:
    """The numbers of a line by names such as "search/best_accuracy"; those of a list are numbered.

    Args:
        line: A line of metrics.jsonl. What is no number is left out.
    """
    found = {}
    for name, value in line.items():
        if name in ("phase", "step"):
            continue
        several = value if isinstance(value, list) else [value]
        for place, number in enumerate(several):
            if isinstance(number, int | float):
                suffix = f"/{place}" if isinstance(value, list) else ""
                found[f"{_group(line)}/{name}{suffix}"] = float(number)
    return found


def _group(line: Line) -> str:
    return str(line["phase"]).replace(" ", "/")


@contextmanager
def _tensorboard(folder: RunFolder, config: Mapping[str, Any]) -> Iterator[Logger]:
    """An event file in the run's folder tensorboard/.

    A resumed run writes it anew from metrics.jsonl, so that it has every line once; the wall times
    of the earlier lines are then those of the resumption.
    """
    del config
    from tensorboardX import SummaryWriter

    path = folder.path / "tensorboard"
    for old in path.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(path), flush_secs=5) as writer:

        def log(number: int, line: Line) -> None:
            del number
            for name, value in scalars(line).items():
                writer.add_scalar(name, value, int(line["step"]))

        for number, line in enumerate(folder.lines):
            log(number, line)
        yield log


@contextmanager
def _wandb(folder: RunFolder, config: Mapping[str, Any]) -> Iterator[Logger]:
    """A run at Weights & Biases, or with WANDB_MODE=offline in the run's folder wandb/.

    A resumed run goes on under the id that is kept with its state, from the next line on.
    """
    import wandb

    begun = folder.has("wandb")
    if not begun:
        folder.save_json("wandb", {"id": secrets.token_hex(4)})
    try:
        run = wandb.init(
            project=wandb.Settings().project or PROJECT,
            id=folder.load_json("wandb")["id"],
            name=folder.path.name,
            dir=str(folder.path),
            config=dict(config),
            resume="allow",
            settings=wandb.Settings(silent=True),
        )
    except wandb.errors.Error as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--log wandb: {reason}; log in with `wandb login`, set WANDB_MODE=offline, or resume "
            "without it"
        ) from error

    def log(number: int, line: Line) -> None:
        group = _group(line)
        run.define_metric(f"{group}/*", step_metric=f"{group}/step")
        run.log({f"{group}/step": line["step"], **scalars(line)}, step=number)

    with run:
        for number, line in enumerate(() if begun else folder.lines):
            log(number, line)
        yield log


_LOGGERS = {"tensorboard": _tensorboard, "wandb": _wandb}
