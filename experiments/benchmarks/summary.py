"""All speed pages in one table: this package, what it is measured beside, and the targets.

    python experiments/benchmarks/summary.py [--device cpu]

Reads the JSON files that the other scripts here have written, measures nothing, and writes
`experiments/results/summary/<device>.md`. What has not been run is listed as such.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parents[1] / "results"

Content = dict[str, Any]
"""What a benchmark's JSON file holds."""


class Line(NamedTuple):
    """A line of the table.

    Attributes:
        what: what was measured.
        unit: of the rates.
        ours: this package's rate, None if it was not run.
        peer: the other's.
        target: the ratio of the two that is wanted, None if none is.
    """

    what: str
    unit: str
    ours: float | None
    peer: float | None
    target: float | None


# ---------------------------------------------------------------------- one function for each page

CANDIDATES = (("vgg16", 256, 1.0), ("lenet300", 10_000, 1.0), ("lenet300", 1000, 4.0))
"""(network, images, target) of the candidates."""
COMPILED_FOR = "vgg16"
"""The network whose compilation counts, too: the others compile a dozen programs."""
REMOVED = (0.0, 0.8, 0.9)
SLACK = 0.05
"""How far the part of the parameters that was removed may be from one of these."""


def candidates(content: Content | None) -> Iterator[Line]:
    """Candidates a second, the better of full width and own widths."""
    for network, images, target in CANDIDATES:
        for removed in REMOVED:
            ours = peer = first = None
            for result in content["results"] if content else ():
                same = (result["network"], result["images"]) == (network, images)
                if same and abs(result["removed"] - removed) < SLACK:
                    medians = _medians(result["seconds_per_candidate"])
                    ours = 1 / min(medians["full width"], medians["own widths"])
                    peer = 1 / medians["PyTorch"]
                    if result["first_seconds_per_candidate"]:
                        first = 1 / result["first_seconds_per_candidate"]
            what = f"{network}, {images:,} images, {100 * removed:.0f} % removed"
            yield Line(what, "candidates/s", ours, peer, target)
            if network == COMPILED_FOR and removed:
                yield Line(
                    f"{what}, the first 200 with compilation", "candidates/s", first, peer, target
                )


def crl_round(content: Content | None) -> Iterator[Line]:
    """Candidates a second in a whole round of CRL."""
    for network in ("lenet300", "vgg11"):
        ours = peer = None
        for result in content["results"] if content else ():
            if result["network"] == network:
                medians = _medians(result["seconds_per_round"])
                ours = result["episodes"] / medians["jaxprune"]
                peer = result["episodes"] / medians["PyTorch"]
        yield Line(f"a round of CRL, {network}", "candidates/s", ours, peer, None)


def finetune_many(content: Content | None) -> Iterator[Line]:
    """Candidate-steps a second, the better way of each side."""
    ours = peer = None
    if content:
        rates = {
            way: content["steps"] * content["candidates"][way] / median
            for way, median in _medians(content["seconds_per_pass"]).items()
        }
        ours = max(rate for way, rate in rates.items() if not way.startswith("PyTorch"))
        peer = max(rate for way, rate in rates.items() if way.startswith("PyTorch"))
    yield Line("fine-tuning many, vgg11", "candidate-steps/s", ours, peer, 1.0)


def tree_search(content: Content | None) -> Iterator[Line]:
    """Simulations a second of 64 games at once, beside a search in plain Python."""
    networks = (("the paper's network", 64, 4.0), ("a network of one layer", 0, 50.0))
    for network, width, target in networks:
        rates = {
            (row["search"], row["games"]): row["per_second"]
            for row in (content["rows"] if content else ())
            if (row["network"], row["width"]) == ("LeNet-5", width)
            and row["simulations"] == content["about"]["simulations"]
        }
        ours, peer = rates.get(("jaxprune", 64)), rates.get(("plain Python", 1))
        yield Line(f"tree search, 64 games, {network}", "simulations/s", ours, peer, target)


def ppo_steps(content: Content | None) -> Iterator[Line]:
    """Environment steps a second, beside the fastest of stable-baselines3's ways."""
    cases = (("lenet300", False, 20.0), ("vgg11", False, 20.0), ("lenet300", True, 2.0))
    for network, evaluation, target in cases:
        ours = peer = None
        for result in content["results"] if content else ():
            if (result["network"], result["evaluation"]) == (network, evaluation):
                medians = _medians(result["seconds_per_round"])
                steps = result["episodes"] * result["layers"]
                ours = steps / medians.pop("jaxprune")
                peer = steps / min(medians.values())
        what = f"PPO with{'' if evaluation else 'out'} evaluation, {network}"
        yield Line(what, "steps/s", ours, peer, target)


def acnn_episodes(content: Content | None) -> Iterator[Line]:
    """Episodes of ACNN and AMC a second."""
    names = {"default": "ACNN, default", "one pass (Algorithm 1)": "ACNN, Algorithm 1"}
    for name, what in (names | {"AMC": "AMC"}).items():
        ours = peer = None
        if content and name in content["rounds"]:
            result = content["rounds"][name]
            medians = _medians(result["seconds_per_round"])
            ours = result["episodes"] / medians["jaxprune"]
            peer = result["episodes"] / medians["PyTorch"]
        target = None if name == "AMC" else 10.0
        yield Line(f"episodes of {what}", "episodes/s", ours, peer, target)


PAGES: dict[str, Callable[[Content | None], Iterator[Line]]] = {
    "candidates": candidates,
    "finetune_many": finetune_many,
    "crl_round": crl_round,
    "tree_search": tree_search,
    "ppo_steps": ppo_steps,
    "acnn_episodes": acnn_episodes,
}
"""{benchmark: the lines that come of what it measured, or of None where it was not run}."""


def _medians(seconds: dict[str, Sequence[float]]) -> dict[str, float]:
    return {way: statistics.median(of_way) for way, of_way in seconds.items()}


# --------------------------------------------------------------------------------------- the table


def outcome(line: Line) -> str:
    """Whether the target was reached, and how much of it was."""
    if line.ours is None or line.peer is None:
        return "not run"
    if line.target is None:
        return ""
    if line.ours / line.peer >= line.target:
        return "reached"
    return f"missed: {_ratio(line)} of {line.target:.1f}"


def table(contents: dict[str, Content], pages: dict[str, str]) -> str:
    """All measurements as a Markdown table.

    Args:
        contents: {benchmark: what its JSON file holds}, of those that were run.
        pages: {benchmark: the name of its page}.
    """
    lines = [
        "| what was measured | | jaxprune | peer | ratio | target | | page |",
        "|---|---|--:|--:|--:|--:|---|---|",
    ]
    for name, read in PAGES.items():
        content = contents.get(name)
        page = f"[{name}]({pages[name]})" if content else name
        for line in read(content):
            target = "none" if line.target is None else f"{line.target:.1f}"
            lines.append(
                f"| {line.what} | {line.unit} | {_rate(line.ours)} | {_rate(line.peer)} "
                f"| {_ratio(line)} | {target} | {outcome(line)} | {page} |"
            )
    return "\n".join(lines)


def _ratio(line: Line) -> str:
    if line.ours is None or line.peer is None:
        return ""
    # Rounded down, so that 0.999 of 1.0 does not look as if it were reached.
    return f"{math.floor(100 * line.ours / line.peer + 1e-9) / 100:.2f}"


def _rate(rate: float | None) -> str:
    if rate is None:
        return ""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.2f}"


def main() -> None:
    """Reads what was measured, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    contents = {
        name: json.loads((RESULTS / name / f"{device}.json").read_text())
        for name in PAGES
        if (RESULTS / name / f"{device}.json").exists()
    }
    text = (
        "# Speed\n\n"
        f"`python experiments/benchmarks/summary.py --device {device}`, from the pages named:\n"
        "how each was measured is said there. Rates are medians. The peer is PyTorch (candidates:\n"
        "with networks made smaller beforehand), a plain Python search for the tree search, and\n"
        "stable-baselines3 for PPO; of several ways of one side the fastest counts.\n\n"
        f"{table(contents, {name: f'../{name}/{device}.md' for name in PAGES})}\n"
    )
    print(text)
    (RESULTS / "summary").mkdir(parents=True, exist_ok=True)
    (RESULTS / "summary" / f"{device}.md").write_text(text)


if __name__ == "__main__":
    main()
