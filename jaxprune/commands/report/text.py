"""report.md, from the content of result.json."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxprune.commands.report import wording
from jaxprune.commands.report.wording import COSTS, NETWORKS


def report_text(
    result: Mapping[str, Any], dense_widths: Mapping[str, int], figures: Sequence[str] = ()
) -> str:
    """The report in Markdown.

    Args:
        result: The content of result.json.
        dense_widths: {group: channels of the dense network}.
        figures: The names of the figures that were drawn, of which not every method has all.
    """
    dense, pruned = result["dense"], result["pruned"]
    search = result["search"]
    change = 100 * (pruned["test_accuracy"] - dense["test_accuracy"])
    sections = [
        f"# {result['model']} on {result['dataset']}, pruned by {result['method']}",
        "; ".join(map(wording.budget, result["budgets"])) + ". The network has "
        f"{pruned['params'] / dense['params']:.1%} of the parameters. The test accuracy is "
        f"{pruned['test_accuracy']:.2%}, {wording.points(change)} the dense network's "
        f"{dense['test_accuracy']:.2%}."
        + ("" if result["feasible"] else " **The budget is not met.**"),
        _results(result),
        "All pruned networks are fine-tuned by the same recipe from the same random numbers. "
        "*Before* is the accuracy with the filters removed and nothing trained. Choices were made "
        "on training and validation images; the test images were used for this table only."
        + (
            f" Of each of the three, at most {result['examples']:,} were used (`--examples`): the "
            "numbers are rough."
            if result["examples"]
            else ""
        ),
        "## Widths",
        "![Channels of each group before and after](figures/widths.png)",
        _table(
            ("group", "before", "after", "left"),
            [
                (name, str(was), str(pruned["widths"][name]), f"{pruned['widths'][name] / was:.0%}")
                for name, was in dense_widths.items()
            ],
        ),
        "## Search",
        f"{search['candidates']:,} candidates, {search['episodes']:,} episodes, "
        f"{search['seconds']:.1f} s on {search['device']}; seed {result['seed']}. Up to "
        f"{search['semifinalists']} candidates that led at different times of the search were "
        f"fine-tuned for {search['semifinal_steps']} steps, the {search['finalists']} of lowest "
        "validation loss to the end; of these the one with the highest validation accuracy is the "
        "result."
        + (
            f" The filters of a layer went in the order of the criterion {search['importance']}."
            if search["importance"] != "l1"
            else ""
        )
        + (
            " Candidates were scored with BatchNorm's statistics of the scored images, not the "
            "dense network's."
            if search["statistics"] == "batch"
            else ""
        ),
        "![Accuracy against cost of all candidates](figures/candidates.png)",
        "![The best candidate so far](figures/progress.png)",
        *(["![How the search learned](figures/learning.png)"] if "learning" in figures else []),
        "## The small network",
        "`model/` holds it: `network = jaxprune.load(folder)` gives it back without the code that "
        "made it, and `network(network.params, x)` computes its logits. Its outputs before "
        "fine-tuning differ from those of the dense network with the same filters masked by at "
        f"most {result['compact_max_abs_difference']:.1e}.",
    ]
    return "\n\n".join(sections) + "\n"


def _results(result: Mapping[str, Any]) -> str:
    rows = {"dense": result["dense"], "pruned": result["pruned"], **result["baselines"]}
    return _table(
        (
            "network",
            "test accuracy",
            "before",
            "validation before",
            *COSTS.values(),
            "latency (ms)",
        ),
        [
            (
                NETWORKS.get(name, f"**{result['method']}**"),
                f"{row['test_accuracy']:.2%}",
                _percent(row.get("test_accuracy_before_finetuning")),
                _percent(row.get("val_accuracy_before_finetuning")),
                *(f"{row[cost]:,}" for cost in COSTS),
                f"{row['latency_ms']:.3f}",
            )
            for name, row in rows.items()
        ],
    )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left and numbers to the right, aligned as text."""
    lines = [tuple(header), *map(tuple, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    rule = [f":{'-' * (widths[0] - 1)}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]

    def row(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        others = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join([first, *others]) + " |"

    return "\n".join([row(lines[0]), row(rule), *map(row, lines[1:])])
