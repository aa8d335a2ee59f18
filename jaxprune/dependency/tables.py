"""A structure as a table: aligned text for terminals, HTML for notebooks."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxprune.dependency.groups import Structure


class Table(NamedTuple):
    """What both forms show.

    Attributes:
      rows: the names of the columns, then the cells of each group.
      frozen: a line for each set of channels that cannot be removed.
      total: a line about the whole network.
    """

    rows: list[tuple[str, ...]]
    frozen: list[str]
    total: str


def table(structure: "Structure") -> Table:
    """The groups of a structure with what each of them takes of the network."""
    whole = np.array([group.size for group in structure.groups], np.float64)
    params, macs = structure.param_counts.total(whole), structure.mac_counts.total(whole)
    partners = _partners(structure)
    header = ("group", "channels", "parameters", "multiply-adds", "layers", "read by", "")
    rows: list[tuple[str, ...]] = [header]
    for index, group in enumerate(structure.groups):
        without = whole.copy()
        without[index] = 0
        rows.append(
            (
                group.name,
                str(group.size),
                f"{params - structure.param_counts.total(without):,.0f}",
                f"{macs - structure.mac_counts.total(without):,.0f}",
                _shorten(group.layers),
                _shorten(group.consumers),
                f"times {', '.join(partners[index])}" if partners[index] else "",
            )
        )
    frozen = []
    for part in structure.frozen:
        where = f" at {part.source}" if part.source else ""
        names = ", ".join(part.layers)
        frozen.append(f"frozen: {names} ({part.size} channels): {part.reason}{where}")
    total = (
        f"{len(structure.groups)} groups, {structure.num_channels} channels, "
        f"{params:,.0f} parameters, {macs:,.0f} multiply-adds per example"
    )
    return Table(rows, frozen, total)


def text(structure: "Structure") -> str:
    """A structure as aligned columns, numbers to the right."""
    rows, frozen, total = table(structure)
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    aligned = [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, _numbers(rows), strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*aligned, *frozen, total])


def html(structure: "Structure") -> str:
    """A structure as an HTML table, for notebooks; names and reasons are escaped."""
    rows, frozen, total = table(structure)
    used = [any(column) for column in zip(*rows, strict=True)]

    def row(tag: str, cells: Sequence[str]) -> str:
        inner = "".join(
            f'<{tag} style="text-align: {"right" if number else "left"}">{escape(cell)}</{tag}>'
            for cell, number, shown in zip(cells, _numbers(rows), used, strict=True)
            if shown
        )
        return f"<tr>{inner}</tr>"

    body = "".join(row("td", cells) for cells in rows[1:])
    items = "".join(f"<li>{escape(line)}</li>" for line in frozen)
    return (
        f"<table><thead>{row('th', rows[0])}</thead><tbody>{body}</tbody></table>"
        f"{f'<ul>{items}</ul>' if items else ''}<p>{escape(total)}</p>"
    )


def _numbers(rows: Sequence[Sequence[str]]) -> list[bool]:
    """Which columns hold numbers."""
    columns = zip(*rows, strict=True)
    return [all(cell[:1].isdigit() for cell in column[1:]) for column in columns]


def _partners(structure: "Structure") -> list[list[str]]:
    """For each group the groups it shares an axis with, as heads and head dimension do."""
    involved = [{int(group)} for group in structure.group_index]
    for left, right in structure.joints:
        involved.append(involved[left] | involved[right])
    found: list[set[int]] = [set() for _ in structure.groups]
    for groups in {frozenset(groups) for groups in involved if len(groups) > 1}:
        for group in groups:
            found[group] |= groups - {group}
    return [[structure.groups[other].name for other in sorted(others)] for others in found]


def _shorten(names: Sequence[str], most: int = 2) -> str:
    more = f" (+{len(names) - most} more)" if len(names) > most else ""
    return ", ".join(names[:most]) + more
