"""report.md, from the content of result.json."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxprune.commands.report import templates, wording
from jaxprune.commands.report.wording import COSTS, percent


def report_text(
    result: Mapping[str, Any], dense_widths: Mapping[str, int], figures: Sequence[str] = ()
) -> str:
    """The report in Markdown.

    Args:
        result: The content of result.json.
        dense_widths: {group: channels of the dense network}.
        figures: The names of the figures that were drawn; not every method has all.
    """
    left = result["pruned"]["widths"]
    before = ("test_accuracy_before_finetuning", "val_accuracy_before_finetuning")
    networks = [
        (
            f"**{row.name}**" if row.answer else row.name,
            percent(row.numbers["test_accuracy"]),
            *(percent(row.numbers[name]) if name in row.numbers else "" for name in before),
            *(f"{row.numbers[cost]:,}" for cost in COSTS),
            f"{row.numbers['latency_ms']:.3f}",
        )
        for row in wording.networks(result)
    ]
    widths = [
        (name, str(was), str(left[name]), percent(left[name] / was, 0))
        for name, was in dense_widths.items()
    ]
    titles = ("test accuracy", "before", "validation before", *COSTS.values(), "latency (ms)")
    text = templates.render(
        "report.md",
        result=result,
        networks=_table(("network", *titles), networks),
        widths=_table(("group", "before", "after", "left"), widths),
        figures=figures,
    )
    return text + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, aligned as text; all columns but the first to the right."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = [f":{'-' * (widths[0] - 1)}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    lines.insert(1, rule)
    sides = ["<", *">" * (len(widths) - 1)]
    cells = [
        [f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
