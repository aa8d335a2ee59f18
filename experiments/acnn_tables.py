"""Tables 1 to 6 of the ACNN paper: every method at the paper's neuron compression rate, and curves.

    python experiments/acnn_tables.py --runs /tmp/runs                          # all rows, the page
    python experiments/acnn_tables.py --runs /tmp/runs --rows mnist-acnn        # some of them
    python experiments/acnn_tables.py --runs /tmp/runs --rows curve-mnist --curve-seeds 0 1 2
    python experiments/acnn_tables.py                                           # the page alone

Three networks with prunable inputs, the dense ones at full strength. For every method five seeds
with as many neurons as the paper's NCR of ACNN allows, and other numbers of neurons with one seed
(`--curve-seeds` makes more). All are fine-tuned alike, by the command's default recipe; uniform and
global magnitude pruning and random pruning come with every run. Beside each row stands what the
paper prints. Writes `experiments/results/acnn_tables/README.md` and a picture of the curves.
"""

from itertools import pairwise
from statistics import mean
from typing import Any, NamedTuple

from acnn_paper import (
    ARITHMETIC,
    CASES,
    CONFLICTS,
    Case,
    arithmetic,
    multiply_adds_left,
    neuron_compression,
    neurons_allowed,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from rows import NOT_RUN, RESULTS, Row, curves, devices, main, parser, read, spread, table

OUT = RESULTS / "acnn_tables"
SEEDS = (0, 1, 2, 3, 4)
CURVE_SEEDS = (0,)
OTHER_NCRS = (2.0, 6.0, 10.0, 16.0)
"""Besides the paper's: what the curves are made of."""

RECONSTRUCTION = ("acnn_reconstruction", "amc_reconstruction")
"""Agents that remove first what the other neurons of a layer can replace best, not by L1 norm."""

SIMPLE, DENSE = "baselines", "dense"
"""Runs of no agent: all baselines, and the dense network, fine-tuned as the pruned ones are."""

AGENTS = ("acnn", "amc", "cacp", *RECONSTRUCTION)
SPARSE_TRAINING = ("cges", "l0", "autoprune", "group_lasso")
METHODS = (*AGENTS, *SPARSE_TRAINING)
BASELINES = {
    "uniform_l1": "uniform_l1",
    "global_l1": "global_l1",
    "random": "random",
    "uniform_reconstruction": "uniform",
}
"""{baseline: its name in a result}."""

COLOURS = {
    "acnn": "#d9480f",
    "amc": "#0b7285",
    "cacp": "#74b816",
    "acnn_reconstruction": "#f783ac",
    "amc_reconstruction": "#3bc9db",
    "cges": "#ae3ec9",
    "l0": "#1f2933",
    "autoprune": "#f59f00",
    "group_lasso": "#a0522d",
    "uniform_l1": "#5c7cfa",
    "global_l1": "#9c36b5",
    "random": "#868e96",
    "uniform_reconstruction": "#748ffc",
}


class Point(NamedTuple):
    """What one run made of one network, in percent of the dense one's but for `layers` and `ncr`.

    Attributes:
        before: points of test accuracy lost before fine-tuning.
        after: the same after it.
        layers: neurons that are left, input pixels first.
        ncr: neuron compression rate.
        macs: multiply-adds that are left.
        params: parameters that are left.
    """

    before: float
    after: float
    layers: tuple[int, ...]
    ncr: float
    macs: float
    params: float


def paper_ncr(case: str) -> float:
    """The NCR that all methods are compared at: that of the paper's ACNN."""
    return CASES[case].quoted["acnn"].ncr


def row(case: str, method: str, ncr: float, seed: int) -> Row:
    """The run of a method, of `SIMPLE` or of `DENSE` with one seed, with at least this NCR."""
    known = CASES[case]
    alone = method in (SIMPLE, DENSE)
    budget = "100%" if method == DENSE else f"={neurons_allowed(known, ncr)}"
    words = [
        *("--method", "magnitude" if alone else method.removesuffix("_reconstruction")),
        *(*known.options, "--prune-inputs", "--cost", "neurons", "--budget", budget),
        *("--importance", "reconstruction" if method in (*RECONSTRUCTION, SIMPLE) else "l1"),
        *("--seed", str(seed)),
    ]
    if method != SIMPLE:
        words.append("--baselines")  # none: they are the same beside all methods
    if method == "cacp":  # one agent for all points of the curve
        others = [other for other in (paper_ncr(case), *OTHER_NCRS) if other != ncr]
        words += ["--search.targets", *(f"{1 / other:.3f}" for other in others)]
    matched = ncr == paper_ncr(case)
    name = f"{case}-{method}-{seed}" if matched else f"curve-{case}-{method}-{ncr:g}-{seed}"
    return Row(name, tuple(words), curves=method in AGENTS)


def point(case: Case, result: dict[str, Any], network: str) -> Point:
    """What a run made of the network "pruned", or of a baseline by its name in the result."""
    dense = result["dense"]
    small = result["pruned"] if network == "pruned" else result["baselines"][network]
    layers = tuple(small["widths"].values())
    return Point(
        before=100 * (dense["test_accuracy"] - small["test_accuracy_before_finetuning"]),
        after=100 * (dense["test_accuracy"] - small["test_accuracy"]),
        layers=layers,
        ncr=neuron_compression(case.layers, layers),
        macs=100 * small["macs"] / dense["macs"],
        params=100 * small["params"] / dense["params"],
    )


def runs(case: str, method: str, ncr: float, seeds: tuple[int, ...]) -> list[dict[str, Any]]:
    """The results of the runs that were made."""
    found = (read(row(case, method, ncr, seed), OUT) for seed in seeds)
    return [result for result in found if result]


def points(case: str, method: str, ncr: float, seeds: tuple[int, ...]) -> list[Point]:
    """What those runs, or those of the baselines, made of the network."""
    name = BASELINES.get(method)
    return [
        point(CASES[case], result, name or "pruned")
        for result in runs(case, SIMPLE if name else method, ncr, seeds)
    ]


def agent_sparsity(case: str, method: str) -> list[float]:
    """Zeros among the weights of the agent's networks at the end of each search, in percent."""
    lines = (curves(row(case, method, paper_ncr(case), seed), OUT) for seed in SEEDS)
    return [100 * of_run[-1]["sparsity"] for of_run in lines if of_run]


def measured(case: str, method: str) -> list[str]:
    """The row of a method in the table of what was measured here."""
    found = points(case, method, paper_ncr(case), SEEDS)
    seconds = sparsity = ""
    if not found:
        return [method, "0", *[NOT_RUN] * (len(MEASURED) - 4), seconds, sparsity]
    if method in METHODS:
        results = runs(case, method, paper_ncr(case), SEEDS)
        seconds = spread((result["search"]["seconds"] for result in results), 0)
    if method in AGENTS:
        sparsity = spread(agent_sparsity(case, method), 1)
    columns = zip(*(one.layers for one in found), strict=True)
    return [
        method,
        str(len(found)),
        spread(one.before for one in found),
        spread(one.after for one in found),
        "-".join(f"{mean(column):.0f}" for column in columns),
        spread(one.ncr for one in found),
        spread((one.macs for one in found), 1),
        spread((one.params for one in found), 1),
        seconds,
        sparsity,
    ]


MEASURED = (
    "measured here",
    "seeds",
    "loss before fine-tuning",
    "loss",
    "layers",
    "NCR",
    "multiply-adds left, %",
    "parameters left, %",
    "search, s",
    "agent's zeros, %",
)


def quoted(case: Case) -> list[list[str]]:
    """The paper's rows, with those of its Tables 2, 4 and 6 where it has them."""
    lines = []
    for method, printed in case.quoted.items():
        agent = case.agents.get(method)
        loss, ncr, seconds, sparsity = (
            ("{:.2f} ± {:.2f}".format(*value) for value in agent)
            if agent
            else (f"{printed.loss:.2f}", f"{printed.ncr:.2f}", "", "")
        )
        layers = "-".join(map(str, printed.layers))
        true = f"{multiply_adds_left(case, printed.layers):.1f}"
        lines.append([method, loss, layers, ncr, str(printed.flops), true, seconds, sparsity])
    return lines


QUOTED = (
    "quoted from the paper",
    "loss",
    "layers",
    "NCR",
    "FLOPS (%) as printed",
    "multiply-adds of its layers, %",
    "time, s",
    "agent's zeros, %",
)


def passes(points: list[tuple[float, float]], loss: float) -> float | None:
    """The NCR at which a curve passes a loss, on straight lines between its points.

    Args:
        points: (NCR, loss), in the order of the NCRs.
        loss: the loss.

    Returns:
        Where the curve first rises above the loss; None if it does not, or begins above it.
    """
    for (low, below), (high, above) in pairwise(points):
        if below <= loss < above:
            return low + (high - low) * (loss - below) / (above - below)
    return None


def verdict(case: str, seeds: tuple[int, ...]) -> str:
    """How ACNN's loss here compares with the paper's, and who has the lowest."""
    ncr, paper = paper_ncr(case), CASES[case].quoted["acnn"].loss
    losses = {
        method: mean(one.after for one in found)
        for method in (*METHODS, *BASELINES)
        if (found := points(case, method, ncr, SEEDS))
    }
    lines = []
    for method, order in (("acnn_reconstruction", "reconstruction"), ("acnn", "L1 norm")):
        if method in losses:
            reached = "at most" if round(losses[method], 2) <= paper / 2 else "more than"
            lines.append(
                f"ACNN in the order of {order} loses {losses[method]:.2f} points, "
                f"{reached} half of the {paper:.2f} in the paper."
            )
            where = passes(curve(case, method, seeds), paper / 2)
            if where is not None:
                lines.append(f"Its curve below passes {paper / 2:.2f} at NCR {where:.1f}.")
    if not lines:
        return f"ACNN: {NOT_RUN}."
    lowest = min(losses, key=lambda method: losses[method])
    lines.append(f"Of what was run, {lowest} loses least, {losses[lowest]:.2f}.")
    uniform = losses.get("uniform_reconstruction")
    if round(losses[lowest], 2) > paper / 2 and uniform is not None:
        left = mean(one.params for one in points(case, lowest, ncr, SEEDS))
        lines.append(
            f"Uniform pruning in the order of reconstruction loses {uniform:.2f}: the budget, "
            f"which leaves {left:.1f} % of the parameters, costs more than the choice of widths "
            "changes."
        )
    return f"At NCR {ncr:.2f} or more: " + " ".join(lines)


def dense(case: str) -> str:
    """The accuracies of the dense networks, and whether they are at full strength."""
    found = {
        result["seed"]: 100 * result["dense"]["test_accuracy"]
        for method in (*METHODS, SIMPLE)
        for result in runs(case, method, paper_ncr(case), SEEDS)
    }
    alike = (
        100 * result["pruned"]["test_accuracy"]
        for result in runs(case, DENSE, paper_ncr(case), SEEDS)
    )
    strong = CASES[case].strong
    return (
        f"Dense test accuracy, %: {spread(found.values())} (wanted: at least {strong}). Fine-tuned "
        f"by the recipe of the pruned networks, none of it removed: {spread(alike)}."
    )


def curve(case: str, method: str, seeds: tuple[int, ...]) -> list[tuple[float, float]]:
    """(NCR, loss after fine-tuning) of a method, means over the seeds, in the order of the NCRs."""
    found = [
        points(case, method, ncr, SEEDS if ncr == paper_ncr(case) else seeds)
        for ncr in sorted((paper_ncr(case), *OTHER_NCRS))
    ]
    return [
        (mean(one.ncr for one in some), mean(one.after for one in some)) for some in found if some
    ]


def curve_table(case: str, seeds: tuple[int, ...]) -> str:
    """The losses that the picture shows."""
    ncrs = sorted((paper_ncr(case), *OTHER_NCRS))
    lines = []
    for method in (*METHODS, *BASELINES):
        found = (points(case, method, n, SEEDS if n == paper_ncr(case) else seeds) for n in ncrs)
        lines.append([method, *(spread(one.after for one in some) for some in found)])
    return table(["loss at NCR", *(f"{ncr:.2f}" for ncr in ncrs)], lines)


def picture(seeds: tuple[int, ...]) -> Figure:
    """Loss against NCR of every method, and the paper's rows."""
    figure = Figure(figsize=(7.2, 10.2), layout="constrained")
    shown: dict[str, Any] = {}
    for axes, case in zip(figure.subplots(len(CASES)), CASES, strict=True):
        shown |= _draw(axes, case, seeds)
    figure.legend(
        shown.values(), shown, loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )
    return figure


def _draw(axes: Axes, case: str, seeds: tuple[int, ...]) -> dict[str, Any]:
    shown = {}
    for method in (*METHODS, *BASELINES):
        found = curve(case, method, seeds)
        if found:
            style = ":" if method in BASELINES else "-"
            (shown[method],) = axes.plot(
                *zip(*found, strict=True), style, marker="o", ms=3, color=COLOURS[method]
            )
    for method, printed in CASES[case].quoted.items():
        mark = axes.scatter(
            printed.ncr, printed.loss, marker="x", s=45, color=COLOURS[method], zorder=3
        )
        shown[f"{method}, paper"] = mark
    axes.set_title(CASES[case].title, fontsize=9)
    axes.set_xscale("log")
    ticks = sorted((paper_ncr(case), *OTHER_NCRS))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yscale("symlog", linthresh=1.0)
    axes.yaxis.set_major_locator(FixedLocator([-2, -1, -0.5, 0, 0.5, 1, 2, 5, 10, 20, 50]))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.axhline(0, color="#9aa5b1", lw=0.8)
    axes.set_ylim(top=1.5 * axes.get_ylim()[1])  # no mark is cut by the edge
    axes.set_xlabel("neuron compression rate", fontsize=9)
    axes.set_ylabel("points lost", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return shown


def page(seeds: tuple[int, ...]) -> str:
    """The page of results."""
    rows = all_rows(seeds)
    lines = [
        "# ACNN and the methods it is compared with: Tables 1 to 6 of the paper",
        "",
        "Loss is test accuracy of the dense network less that of the pruned one, in points (the",
        'paper\'s "Error (%)"). Here: mean and sample deviation over the seeds, each with a dense',
        "network of its own; layers are means. All pruned networks are fine-tuned by the same",
        "recipe, longer than the dense one was trained and on images that move by a pixel; what",
        "the same fine-tuning makes of the whole network is given too, so that a loss against it",
        "can be read off. The validation split made every decision. The search's time includes",
        "compilation; rows were run beside each other and beside other work, so that it is longer",
        "than it has to be (alone: `acnn_episodes/cpu.md`). It leaves out the training of the",
        f"dense network, which the methods that train from scratch ({', '.join(SPARSE_TRAINING)})",
        "do without.",
        f"Device: {devices(read(one, OUT) for one in rows)}. Made by",
        "`python experiments/acnn_tables.py`; `rows.jsonl` has every row's command.",
        "",
    ]
    for name, case in CASES.items():
        lines += [
            f"## {case.title} ({case.tables})",
            "",
            dense(name),
            verdict(name, seeds),
            "",
            table(MEASURED, [measured(name, method) for method in (*METHODS, *BASELINES)]),
            "",
            table(QUOTED, quoted(case)),
            "",
        ]
    lines += [
        "## Accuracy against compression",
        "",
        "![Loss against neuron compression rate](curves.png)",
        "",
        f"The paper's NCR with up to {len(SEEDS)} seeds, others with seeds "
        f"{', '.join(map(str, seeds))}. Crosses are the paper's rows.",
        "",
    ]
    for name, case in CASES.items():
        lines += [f"### {case.title}", "", curve_table(name, seeds), ""]
    lines += [
        "## Where the paper's numbers do not fit together",
        "",
        'What it prints as "FLOPS (%)" is 100 / NCR within two points, not multiply-adds:',
        "",
    ]
    for case in CASES.values():
        lines += [f"### {case.title}", "", table(ARITHMETIC, arithmetic(case)), ""]
    return "\n".join([*lines, *(f"- {conflict}" for conflict in CONFLICTS), ""])


def all_rows(seeds: tuple[int, ...]) -> list[Row]:
    """Matched rows first, a seed of all after the other, then those of the curves."""
    matched = [
        row(case, method, paper_ncr(case), seed)
        for seed in SEEDS
        for case in CASES
        for method in (SIMPLE, *METHODS, DENSE)
    ]
    others = [
        row(case, method, ncr, seed)
        for seed in seeds
        for case in CASES
        for ncr in OTHER_NCRS
        for method in (SIMPLE, *METHODS)
    ]
    return matched + others


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("--curve-seeds", type=int, nargs="+", default=list(CURVE_SEEDS))
    options = arguments.parse_args()
    curve_seeds = tuple(options.curve_seeds)
    main(all_rows(curve_seeds), OUT, options)
    if not options.list:
        text = page(curve_seeds)
        print(text)
        (OUT / "README.md").write_text(text)
        picture(curve_seeds).savefig(OUT / "curves.png", dpi=144)
