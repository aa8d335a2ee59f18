"""Table 7 of the ACNN paper: what the proximal step of actor and critic changes.

    python experiments/acnn_ablation.py --runs /tmp/runs                      # all rows, the page
    python experiments/acnn_ablation.py --runs /tmp/runs --rows mnist         # some of them
    python experiments/acnn_ablation.py                                       # the page alone

The same searches with and without the L1 norm's proximal step, five seeds each, for three agents:
the tool's ACNN, whose actions are bounded so that every network meets the budget; the same with a
replay buffer that is cleared after each round, as the paper says; and the paper's, which also has
the reward alone to hold the budget and an actor that learns as fast as the critic. Pairs have the
same dense network, random numbers and fine-tuning. What the step changes is the mean of the paired
differences, with their sample deviation. The rows of the tool's ACNN with the step are those of
`acnn_tables.py`. Writes `experiments/results/acnn_ablation/README.md`.
"""

from collections.abc import Callable
from statistics import mean
from typing import Any, NamedTuple

import acnn_tables
from acnn_paper import CASES, Spread
from acnn_tables import paper_ncr, point
from rows import NOT_RUN, RESULTS, Row, curves, devices, main, parser, read, spread, table

OUT = RESULTS / "acnn_ablation"
SEEDS = (0, 1, 2, 3, 4)
LAST = 10
"""Rounds at the end of a search whose rewards and networks are averaged."""

CLEARED = ("--search.replay", "None")
AGENTS = {
    "bounded": (),
    "replay cleared": CLEARED,
    "the paper's agent": (*CLEARED, "--search.unbounded", "--search.actor-rate", "1e-3"),
}
SHORT = {"bounded": "bounded", "replay cleared": "cleared", "the paper's agent": "paper"}
WITHOUT = ("--search.shrinkage", "0")


class Made(NamedTuple):
    """What a search made; accuracies in percent, losses in points of test accuracy.

    Attributes:
        sparsity: zeros among the weights of actor and critic, in percent.
        reward: what an episode earned in the last rounds, in all.
        within: networks of the last rounds that met the budget, in percent.
        accuracy: validation accuracy of the best network of the search, before fine-tuning.
        before: loss before fine-tuning.
        after: loss after it.
        ncr: neuron compression rate.
        seconds: of the search.
    """

    sparsity: float
    reward: float
    within: float
    accuracy: float
    before: float
    after: float
    ncr: float
    seconds: float


HEADER = (
    "agent, proximal step",
    "seeds",
    "agent's zeros, %",
    f"reward, last {LAST} rounds",
    "networks within budget, %",
    "best validation accuracy, %",
    "loss before fine-tuning",
    "loss",
    "NCR",
    "search, s",
)


def row(case: str, agent: str, proximal: bool, seed: int) -> Row:
    """The run of an agent with or without the proximal step."""
    tool = acnn_tables.row(case, "acnn", paper_ncr(case), seed)
    words = (*tool.words, *AGENTS[agent], *(() if proximal else WITHOUT))
    step = "with" if proximal else "without"
    return tool._replace(name=f"{case}-{SHORT[agent]}-{step}-{seed}", words=words)


def place(case: str, agent: str, proximal: bool, seed: int) -> tuple[Row, Any]:
    """The row and the folder of its result, which another experiment may have made."""
    if proximal and not AGENTS[agent]:
        return acnn_tables.row(case, "acnn", paper_ncr(case), seed), acnn_tables.OUT
    return row(case, agent, proximal, seed), OUT


def made(case: str, result: dict[str, Any], lines: list[dict[str, Any]]) -> Made:
    """What a search made, from its result and the metrics of its rounds."""
    late = lines[-LAST:]
    small = point(CASES[case], result, "pruned")
    return Made(
        sparsity=100 * lines[-1]["sparsity"],
        reward=mean(line["reward"] for line in late),
        within=100 * mean(line["feasible"] for line in late),
        accuracy=100 * lines[-1]["best_accuracy"],
        before=small.before,
        after=small.after,
        ncr=small.ncr,
        seconds=result["search"]["seconds"],
    )


def found(case: str, agent: str, proximal: bool) -> dict[int, Made]:
    """What was made with each seed that was run."""
    places = {seed: place(case, agent, proximal, seed) for seed in SEEDS}
    results = {seed: (read(*where), curves(*where)) for seed, where in places.items()}
    return {seed: made(case, result, lines) for seed, (result, lines) in results.items() if result}


def differences(of_with: dict[int, Made], of_without: dict[int, Made]) -> list[Made]:
    """With the step less without it, of the seeds that were run with both."""
    both = sorted(of_with.keys() & of_without.keys())
    return [
        Made(*(one - other for one, other in zip(of_with[seed], of_without[seed], strict=True)))
        for seed in both
    ]


def cells(name: str, rows: list[Made]) -> list[str]:
    """A line of the table: means and sample deviations."""
    if not rows:
        return [name, "0", *[NOT_RUN] * len(Made._fields)]
    digits = {"sparsity": 1, "reward": 3, "within": 1, "seconds": 1}
    columns = zip(Made._fields, zip(*rows, strict=True), strict=True)
    return [name, str(len(rows)), *(spread(c, digits.get(field, 2)) for field, c in columns)]


def measured(case: str) -> list[list[str]]:
    """The table of one network."""
    lines = []
    for agent in AGENTS:
        with_step, without = found(case, agent, True), found(case, agent, False)
        lines += [
            cells(f"{agent}, with", list(with_step.values())),
            cells(f"{agent}, without", list(without.values())),
            cells(f"{agent}, what it changes", differences(with_step, without)),
        ]
    return lines


def quoted(case: str) -> list[list[str]]:
    """Table 7."""

    def printed(value: Spread | None) -> str:
        return "illegible" if value is None else "{:.2f} ± {:.2f}".format(*value)

    return [[method, *map(printed, values)] for method, values in CASES[case].ablation.items()]


def sentence(name: str, change: Callable[[Made], float], cases: dict[str, list[Made]]) -> str:
    """How many of the paired searches the step made larger and smaller in one respect."""
    values = [change(one) for rows in cases.values() for one in rows]
    if not values:
        return f"{name}: {NOT_RUN}."
    up, down = sum(value > 0 for value in values), sum(value < 0 for value in values)
    return (
        f"{name}: higher with the step in {up} of {len(values)} pairs, lower in {down}; the mean "
        f"change is {spread(values)}."
    )


def page() -> str:
    """The page of results."""
    rows = [place(case, *rest) for case, *rest in all_places()]
    lines = [
        "# ACNN with and without the proximal step: Table 7 of the paper",
        "",
        "Losses in points of test accuracy, beside the dense network of the same seed; mean and",
        "sample deviation over the seeds that were run. NCR follows from the budget, which is the",
        "same for all, so that the step can change accuracy alone; the paper's agent may leave the",
        "budget in a round, but no answer does. Rows were run beside each other and beside other",
        "work, which the search's seconds show more than the step.",
        f"Device: {devices(read(*where) for where in rows)}. Made by",
        "`python experiments/acnn_ablation.py`; `rows.jsonl` has every row's command.",
        "",
    ]
    changes: dict[str, dict[str, list[Made]]] = {agent: {} for agent in AGENTS}
    for name, case in CASES.items():
        lines += [f"## {case.title}", "", table(HEADER, measured(name)), ""]
        lines += [table(("Table 7", "Error (%)", "Ncr"), quoted(name)), ""]
        for agent in AGENTS:
            pairs = found(name, agent, True), found(name, agent, False)
            changes[agent][name] = differences(*pairs)
    lines += ["## What the step changes", ""]
    for agent, cases in changes.items():
        for what, change in (
            ("validation accuracy before fine-tuning", lambda one: one.accuracy),
            ("loss after fine-tuning", lambda one: one.after),
            ("seconds of the search", lambda one: one.seconds),
        ):
            lines.append(f"- {agent}, {sentence(what, change, cases)}")
    return "\n".join([*lines, ""])


def all_places() -> list[tuple[str, str, bool, int]]:
    """Case, agent, step and seed of every row, a seed of all after the other."""
    return [
        (case, agent, proximal, seed)
        for seed in SEEDS
        for case in CASES
        for agent in AGENTS
        for proximal in (True, False)
    ]


if __name__ == "__main__":
    options = parser(__doc__).parse_args()
    for of in all_places():
        one, folder = place(*of)
        main([one], folder, options)
    if not options.list:
        text = page()
        print(text)
        (OUT / "README.md").write_text(text)
