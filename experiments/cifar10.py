"""CIFAR-10: the rows of the papers' tables, made one after another until the time is up.

    python experiments/cifar10.py --runs DIR --list          # what is left, and for how long
    python experiments/cifar10.py --runs DIR --seconds 540   # goes on, and stops in time
    python experiments/cifar10.py                            # the page alone

The rows are made in the order of their worth. What is interrupted, by the clock, by Ctrl-C or by a
machine that goes away, goes on when the command is given again, and ends with the same numbers. A
processor trains networks by the recipe `short` (12 epochs), a GPU by the default one (50): each
row's name and command say which. On a GPU, checks and benchmarks come first.

Folders: `--runs` has the runs, which may grow large; `--keep` (by default within it) has what is
worth carrying to another machine, dense networks in half precision and the position of unfinished
training, in files below 16 MB; `--out` has the lines and the page.
"""

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import rows
import speed
from cifar10_page import write
from cifar10_rows import BASELINES, RECIPES, Dense, model_of, plan
from rows import RESULTS, Row

from jaxprune.commands import networks
from jaxprune.commands.console import INTERRUPTED

OUT = RESULTS / "cifar10"
LARGEST = 16 * 2**20
"""Bytes of a file that is worth carrying."""
ONCE = 120.0
"""Seconds that a check or benchmark is taken to last."""
SHORTEST = 20.0
"""Seconds with which it is not worth beginning anything."""
TRAINED = 45_000
"""Images of the training split."""
CANDIDATES = {"crl": 384, "amc": 384, "acnn": 384, "cacp": 384, "mcts": 96, "magnitude": 16}
"""About how many candidates a search scores by the settings of `short`, for predicting its time."""


class Once(NamedTuple):
    """A check or benchmark that a device should pass or show once.

    Attributes:
        name: What it is called.
        script: The script, in this folder.
        words: Its options.
    """

    name: str
    script: str
    words: tuple[str, ...] = ()


Item = Row | Dense | Once

ON_A_GPU = (
    Once("masked-equals-compact", "masked_equals_compact.py"),
    Once("candidates", "benchmarks/candidates_on_device.py", ("--together", "1", "8", "64")),
    Once("training", "benchmarks/training.py"),
)
"""What comes first on a GPU, as far as the scripts are there."""


class Place(NamedTuple):
    """Where the work is done, and what is known of the device.

    Attributes:
        runs: The folder of the runs.
        keep: What is worth carrying to another machine.
        out: The folder of the lines and the page.
        device: What is known of the device.
    """

    runs: Path
    keep: Path
    out: Path
    device: speed.Device


# ------------------------------------------------------------------------------------ one item


def done(item: Item, place: Place) -> bool:
    """Whether nothing is left to do for an item on this machine."""
    if isinstance(item, Row):
        return rows.read(item, place.out) is not None
    return _marker(item, place).exists()


def _marker(item: Dense | Once, place: Place) -> Path:
    """A file that is there once an item is done on this machine."""
    return place.runs / "done" / item.name


def make(item: Item, place: Place, until: float | None) -> bool:
    """Begins an item or goes on with it; whether it is done. Exits where it cannot work."""
    if not isinstance(item, Row):
        whole = (_make_dense if isinstance(item, Dense) else _make_once)(item, place, until)
        if whole:
            _marker(item, place).parent.mkdir(parents=True, exist_ok=True)
            _marker(item, place).touch()
        return whole
    if not rows.make(item, place.runs, place.out, until):
        return False
    _keep_pruned(item, place)
    shutil.rmtree(place.runs / item.name / "state", ignore_errors=True)
    return True


def _make_dense(item: Dense, place: Place, until: float | None) -> bool:
    module = ["-m", "jaxprune", "networks", "make", *item.words, "--out", str(place.keep)]
    code = rows.run(module, place.runs / "cache", until)
    if code:
        sys.exit(code)
    facts = None if code is None else _facts(item, place)
    if facts is not None and item.name not in rows.lines(place.out):
        rows.add(item.name, facts, place.out)
    return code is not None


def _make_once(item: Once, place: Place, until: float | None) -> bool:
    script = Path(__file__).parent / item.script
    # It cannot go on where it was stopped, and must not keep the rows waiting.
    limit = time.monotonic() + 2 * ONCE
    too_long = until is None or limit < until
    end = limit if too_long else until
    code = rows.run([str(script), *item.words], place.runs / "cache", end)
    if code or (code is None and too_long):
        sys.exit(code or 1)
    written = RESULTS / script.stem
    if code is not None and place.out.parent != RESULTS and written.is_dir():
        shutil.copytree(written, place.out / "benchmarks" / script.stem, dirs_exist_ok=True)
    return code is not None


def _facts(item: Dense, place: Place) -> dict[str, Any] | None:
    """What the file of a dense network says."""
    from jaxprune.files import arrays

    command = networks.command(item.words)
    files = place.keep.glob(f"{item.model}-{item.dataset}-*.npz")
    found = (arrays.about(path) for path in files)
    return next((facts for facts in found if facts.get("command") == command), None)


def _keep_pruned(item: Row, place: Place) -> None:
    """Leaves a row's network where it can be carried, unless it is too large."""
    import jaxprune
    from jaxprune.files import arrays
    from jaxprune.training import pretraining

    model = place.runs / item.name / "model"
    target = place.keep / "pruned" / f"{item.name}.npz"
    size = sum(file.stat().st_size for file in model.rglob("*") if file.is_file())
    if target.exists() or size / 2 > LARGEST:
        return
    half = pretraining.halve(jaxprune.load(model).params)
    arrays.save(target, half, {"command": item.command})


# ------------------------------------------------------------------------------------ all of them


def work(items: Sequence[Item], place: Place, until: float | None) -> list[str]:
    """Makes what is left, one after another, until the time is up.

    Returns:
        The names of rows that could not work, which the next call tries again.

    Raises:
        SystemExit: A dense network could not be made, or two rows one after the other: something
            common to all is wrong.
    """
    failed: list[str] = []
    failed_before = False
    for item in items:
        if done(item, place):
            continue
        if until is not None and until - time.monotonic() < SHORTEST:
            break
        print(f"== {item.name}", flush=True)
        try:
            if not make(item, place, until):
                print(f"== {item.name}: the time is up, to be continued", flush=True)
                break
            failed_before = False
        except SystemExit as error:
            again = failed_before and isinstance(item, Row)
            if error.code == INTERRUPTED or again or isinstance(item, Dense):
                raise
            print(f"== {item.name}: failed with code {error.code}", flush=True)
            failed.append(item.name)
            failed_before = isinstance(item, Row)
    return failed


# ------------------------------------------------------------------------------------ how long


def seconds(item: Item, place: Place) -> float:
    """How long an item should take on this device: as long as others like it, or by its work."""
    if isinstance(item, Once):
        return ONCE
    before = [
        line["seconds"]
        for name, line in rows.lines(place.out).items()
        if isinstance(item, Row) and alike(name, item.name) and "seconds" in line
        if line["search"]["device"] == place.device.kind
    ]
    if before:
        return statistics.median(before)
    from jaxprune import training

    images = place.device.speed[model_of(item)]
    if isinstance(item, Dense):
        recipe = training.default_recipe(item.model, "cifar10", name=item.recipe)
        return recipe.epochs * TRAINED / images
    options = dict(zip(item.words, item.words[1:], strict=False))
    recipe = training.default_recipe(
        options["--model"], "cifar10", phase="finetune", name=options["--recipe"]
    )
    finalists, semifinalists = int(options["--finalists"]), int(options["--semifinalists"])
    trial = semifinalists * 64 * recipe.batch_size if semifinalists > finalists else 0
    networks_ = finalists + (len(BASELINES) if options["--method"] == "magnitude" else 0)
    trained = networks_ * recipe.epochs * TRAINED * (4 / 3 if "--distill" in options else 1)
    if options["--cost"] == "macs":
        trained *= 0.1 + 0.9 * float(options["--budget"])  # what is left is what takes the time
    trained += trial
    examples = int(options.get("--search-examples", 1024))
    scored = CANDIDATES.get(options["--method"], 64) * examples
    return (trained + scored / 3) / images  # a step is three passes


def alike(one: str, other: str) -> bool:
    """Whether two rows differ in their seed alone."""
    return one.rpartition("-")[0] == other.rpartition("-")[0]


def listing(items: Sequence[Item], place: Place) -> str:
    """What is left, how long each should take, and all of it."""
    lines, total = [], 0.0
    for item in items:
        if done(item, place):
            continue
        begun = isinstance(item, Row) and (place.runs / item.name / "config.json").exists()
        time_ = seconds(item, place)
        total += time_
        lines.append(f"{time_ / 60:7.0f} min {item.name}{', begun' if begun else ''}")
    count = sum(done(item, place) for item in items)
    speeds = ", ".join(
        f"{model} {speed:.0f}" for model, speed in sorted(place.device.speed.items())
    )
    return "\n".join(
        [
            *lines,
            f"{count} of {len(items)} done; {total / 3600:.1f} hours left, as measured on",
            f"{place.device.kind}: training images a second, {speeds}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, help="folder of the runs; without it, only the page")
    parser.add_argument("--keep", type=Path, help="folder of what is carried (default: RUNS/keep)")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the lines and the page")
    parser.add_argument("--seconds", type=float, help="when to stop; by default when all is done")
    parser.add_argument("--list", action="store_true", help="what is left, and how long it takes")
    parser.add_argument("--rows", nargs="+", default=[], help="only items whose name has one of")
    parser.add_argument("--recipe", choices=RECIPES, help="by default as the device is")
    options = parser.parse_args()
    until = None if options.seconds is None else time.monotonic() + options.seconds
    failed: list[str] = []
    jax.config.update("jax_platforms", "cpu")  # the device is for the processes that are started
    if options.runs:
        runs = options.runs.expanduser().resolve()
        with alone(runs):
            keep = (options.keep or runs / "keep").expanduser().resolve()
            known = speed.known(runs)
            place = Place(runs, keep, options.out.expanduser().resolve(), known)
            recipe = options.recipe or speed.RECIPE.get(known.platform, "default")
            first = ON_A_GPU if known.platform == "gpu" else ()
            items = [
                *(item for item in first if (Path(__file__).parent / item.script).exists()),
                *plan(recipe),
            ]
            items = [item for item in items if wanted(item, options.rows)]
            if options.list:
                left = [item for item in items if not done(item, place)]
                models = {model_of(item) for item in left if not isinstance(item, Once)}
                place = place._replace(device=speed.known(runs, sorted(models)))
                print(listing(items, place))
                return
            failed = work(items, place, until)
    write(options.out)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def wanted(item: Item, parts: Sequence[str]) -> bool:
    """Whether an item's name has one of the parts, or there are none."""
    return not parts or any(part in item.name for part in parts)


@contextlib.contextmanager
def alone(runs: Path) -> Iterator[None]:
    """Keeps other queues out of a folder, and has SIGTERM end this one as Ctrl-C does."""
    runs.mkdir(parents=True, exist_ok=True)
    # Also where Ctrl-C is ignored, as it is in the background, and by whatever is started there.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    lock = os.open(runs / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"another queue is working in {runs}")
    try:
        yield
    finally:
        os.close(lock)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
