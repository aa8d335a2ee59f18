"""A training step in memory of small and of huge pages.

    python experiments/benchmarks/huge_pages.py [--repeats 3]

Training steps on batches of 128 images as `training.py` takes them, in processes that differ in
`GLIBC_TUNABLES` alone (`jaxprune.commands.huge_pages`). The ways take turns. Measured is processor
time on a single core, which other programs on the machine lengthen little, and how many pages the
system had to map in a step; the best step of each process, and the median of the processes. Needs
the extra `bench`. Writes `experiments/results/huge_pages/<device>.json` and `.md`.
"""

import argparse
import json
import os
import resource
import statistics
import time
from typing import Any

import measured

from jaxprune.commands import huge_pages

NETWORKS = ("resnet20", "lenet5", "cnn")
WAYS = {"small": "0", "huge": "1"}
STEPS = 4


def measure(name: str) -> dict[str, float]:
    """The processor seconds of a network's training step, and the pages mapped in it."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import training  # so that XLA sees one core alone

    function, variables, _ = training.smaller(name, 1.0)
    steps = training.jax_way(name, function, variables, training.examples(name, 1))
    steps()
    best, pages = float("inf"), 0
    for _ in range(STEPS):
        pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        started = time.process_time()
        steps()
        best = min(best, time.process_time() - started)
        pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - pages
    return {"seconds": best, "pages": pages}


def page(content: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    lines = []
    for name, ways in content["networks"].items():
        median = {
            way: {key: statistics.median(of[key] for of in found) for key in ("seconds", "pages")}
            for way, found in ways.items()
        }
        small, huge = (median[way] for way in WAYS)
        lines.append(
            f"| {name} | {1e3 * small['seconds']:,.0f} | {1e3 * huge['seconds']:,.0f} "
            f"| {small['seconds'] / huge['seconds']:.2f} | {small['pages']:,.0f} "
            f"| {huge['pages']:,.0f} |"
        )
    return "\n".join(
        [
            "# Training in huge pages",
            "",
            measured.in_words(content),
            "A step of 128 images, float32, on one core.",
            "",
            "| network | small pages, ms | huge pages, ms | small / huge | small pages mapped "
            "| huge |",
            "|---|--:|--:|--:|--:|--:|",
            *lines,
            "",
        ]
    )


def main() -> None:
    """Measures, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=measured.several, default=3)
    parser.add_argument("--alone", choices=NETWORKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(measure(arguments.alone)))
        return
    if not huge_pages.on_request():
        parser.error("this system does not give huge pages to processes that ask for them")
    networks: dict[str, Any] = {name: {way: [] for way in WAYS} for name in NETWORKS}
    for name, ways in networks.items():
        for _ in range(arguments.repeats):
            for way, found in ways.items():
                tunable = {huge_pages.TUNABLES: f"{huge_pages.HUGE_PAGES}={WAYS[way]}"}
                found.append(measured.in_child(__file__, ["--alone", name], tunable))
    content = {**measured.circumstances(), "networks": networks}
    measured.write("huge_pages", page(content), content)


if __name__ == "__main__":
    main()
