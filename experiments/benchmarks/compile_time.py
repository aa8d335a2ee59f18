"""What could make the first candidates cheaper: VGG-16 at own widths, compiled in other ways.

    python experiments/benchmarks/compile_time.py [--repeats 3] [--removed 0.9]

The first candidates of a search at their own widths (`candidates.py`) wait for some hundred small
programs. Here they are scored as the package does it, and with one thing changed at a time: XLA's
level of optimization, the parts that XLA divides a program into, steps of width twice as large, and
JAX's cache on disk, empty and filled. Each measurement is a process of its own; they take turns.
Needs the extra `bench`. Writes `experiments/results/compile_time/<device>.json` and `.md`.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import measured
from candidates import MANY, ROUND, own_widths, prepare, score_all, score_first

from jaxprune.commands.run.compiled import SECONDS_WORTH_KEEPING
from jaxprune.scoring.own_widths import widths

NETWORK = "vgg16"
PACKAGES = ("jax", "jaxlib", "numpy")


class Way(NamedTuple):
    """How programs are compiled.

    Attributes:
        name: as the page calls it.
        flags: for XLA.
        wider: whether the steps of width are twice as large.
        cached: whether JAX's cache on disk takes programs however small.
    """

    name: str
    flags: str = ""
    wider: bool = False
    cached: bool = False


PLAIN = Way("as it is")
WAYS = (
    PLAIN,
    Way("XLA's level 0", "--xla_backend_optimization_level=0"),
    Way("programs in one part", "--xla_cpu_parallel_codegen_split_count=1"),
    Way("steps of width twice as large", wider=True),
    Way("cache on disk, empty", cached=True),
    Way("cache on disk, filled", cached=True),
)


def score(removed: float, wider: bool) -> dict[str, float]:
    """Scores the first candidates, and all of them once more, in this process."""
    if wider:
        widths.STEPS = tuple((largest, 2 * step) for largest, step in widths.STEPS)
        widths.COARSEST *= 2
    drawn = prepare(NETWORK, 0, removed)
    scores = own_widths(drawn)
    first = score_first(drawn, scores)
    return {
        "first": first["seconds"],
        "later": score_all(drawn, scores),
        "programs": first["programs"],
    }


def alone(way: Way, removed: float, cache: str) -> dict[str, float]:
    """The same in a process of its own."""
    environment = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {way.flags}".strip()}
    if way.cached:
        environment["JAX_COMPILATION_CACHE_DIR"] = cache
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    words = ["--removed", removed, "--alone", *(["--wider"] if way.wider else [])]
    return measured.in_child(__file__, words, environment)


def page(about: Mapping[str, Any], removed: float, found: Mapping[str, Sequence[Any]]) -> str:
    """The measurements as Markdown."""

    def median(name: str, what: str) -> float:
        return statistics.median(one[what] for one in found[name])

    lines = [
        f"| | programs | first {MANY}, s (least - most) | relative | later, s | relative |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for way in WAYS:
        first = [one["first"] for one in found[way.name]]
        ratios = [median(way.name, what) / median(PLAIN.name, what) for what in ("first", "later")]
        lines.append(
            f"| {way.name} | {median(way.name, 'programs'):.0f} "
            f"| {statistics.median(first):.1f} ({min(first):.1f} - {max(first):.1f}) "
            f"| {ratios[0]:.2f} | {median(way.name, 'later'):.1f} | {ratios[1]:.2f} |"
        )
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    table = "\n".join(lines)
    return (
        "# Compiling for the first candidates\n\n"
        f"`{about['command']}`, {about['device']}, {versions}.\n\n{table}\n\n"
        f"VGG-16, 256 images, candidates at their own widths with {100 * removed:.0f} % of the\n"
        f"parameters removed, by {ROUND} in a call; medians, each measurement in a process of\n"
        "its own. Later: the same candidates once more, when all is compiled. The package stays\n"
        "as it is: wider steps make all later candidates dearer, and the command's cache takes\n"
        f"programs of {SECONDS_WORTH_KEEPING} s and more, as it would hold hundreds of files for\n"
        "each network otherwise.\n"
    )


def main() -> None:
    """Measures, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=measured.several, default=3)
    parser.add_argument("--removed", type=float, default=0.9)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--wider", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(score(options.removed, options.wider)))
        return
    found: dict[str, list[dict[str, float]]] = {way.name: [] for way in WAYS}
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as cache:
            for way in WAYS:
                found[way.name].append(alone(way, options.removed, cache))
    about = measured.circumstances(PACKAGES)
    text = page(about, options.removed, found)
    measured.write("compile_time", text, {**about, "removed": options.removed, "found": found})


if __name__ == "__main__":
    main()
