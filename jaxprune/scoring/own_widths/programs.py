"""Consecutive pieces that are compiled as one program.

In a small network, calling a compiled program takes longer than running a piece. Consecutive pieces
become one program wherever this compiles no more programs in all: where they depend on the masks of
the same groups, and all their shapes on the width of at most one group. Convolutions and pooling
stay alone. In a large network, where calls do not matter, so does what has no widths of its own,
such as the loss: by itself it is compiled once, in a larger program once for each width.
"""

import functools
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from jaxprune.scoring.own_widths.pieces import Code, Piece, Pieces, code_for

LARGE = 1_000_000_000
"""Multiply-adds of a whole candidate beyond which one call more does not matter."""


class Program(NamedTuple):
    """Pieces that are compiled together.

    Attributes:
      code: `code.function(sizes, data, known, masks)`, where all but data have an entry for each
        piece.
      pieces: its pieces.
      reads: the values that it reads.
      read_once: those of them that a single piece reads.
      makes: the values that it makes and others read.
      needs: the groups whose masks its results depend on.
    """

    code: Code
    pieces: tuple[Piece, ...]
    reads: tuple[int, ...]
    read_once: frozenset[int]
    makes: tuple[int, ...]
    needs: tuple[int, ...]


def programs(
    network: Pieces, pieces: Sequence[Piece], wanted: int, full: Collection[int]
) -> list[Program]:
    """Joins pieces to programs.

    Args:
      network: the network that they are of.
      pieces: the pieces that are run for a candidate, in order.
      wanted: the value that is wanted in the end.
      full: the groups that keep their full width outside products.
    """
    large = sum(piece.product.multiply_adds for piece in pieces if piece.product) >= LARGE
    needs: dict[int, set[int]] = {}
    runs: list[list[Piece]] = []
    needed: list[set[int]] = []
    for piece in pieces:
        groups = network.groups(piece.patterns) - set(full) | network.groups(piece.masked)
        groups = groups.union(*(needs.get(value, ()) for value in piece.reads))
        needs.update((value, groups) for value in piece.makes)
        if runs and needed[-1] == groups and _fits(network, runs[-1], piece, set(full), large):
            runs[-1].append(piece)
        else:
            runs.append([piece])
            needed.append(groups)
    last = {value: n for n, run in enumerate(runs) for piece in run for value in piece.reads}
    last[wanted] = len(runs)
    found = []
    for number, (run, groups) in enumerate(zip(runs, needed, strict=True)):
        made = [value for piece in run for value in piece.makes]
        makes = [value for value in made if last.get(value, -1) > number]
        found.append(_program(run, made, makes, tuple(sorted(groups))))
    return found


def _fits(network: Pieces, run: Sequence[Piece], piece: Piece, full: set[int], large: bool) -> bool:
    """Whether a piece may be compiled together with those before it."""
    if piece.alone or run[-1].alone or (piece.product and network.groups(piece.masked) & full):
        return False
    widths = [
        network.groups((*one.patterns, *(one.masked if one.product else ()))) - full
        for one in (*run, piece)
    ]
    if large and any(widths) and not widths[-1]:
        return False
    return len(set().union(*widths)) <= 1


def _program(
    run: Sequence[Piece], made: Sequence[int], makes: Sequence[int], needs: tuple[int, ...]
) -> Program:
    counts = Counter(v for piece in run for v in piece.reads if v not in made)
    reads, once = tuple(counts), frozenset(value for value in counts if counts[value] == 1)
    place = {value: number for number, value in enumerate([*reads, *made])}

    def places(values: Sequence[int]) -> tuple[int, ...]:
        return tuple(place[value] for value in values)

    calls = tuple((piece.code, places(piece.reads), places(piece.makes)) for piece in run)
    ends = places(makes)
    code = code_for(("program", len(reads), calls, ends), functools.partial(_run, calls, ends))
    return Program(code, tuple(run), reads, once, tuple(makes), needs)


def _run(
    calls: Sequence[tuple[Code, tuple[int, ...], tuple[int, ...]]],
    ends: Sequence[int],
    sizes: Sequence[Any],
    data: Sequence[Any],
    known: Sequence[Any],
    masks: Sequence[Any],
) -> list[Any]:
    values = dict(enumerate(data))
    for (one, operands, results), *own in zip(calls, sizes, known, masks, strict=True):
        size, arrays, mask = own
        found = one.function(size, [values[place] for place in operands], arrays, mask)
        values.update(zip(results, found, strict=True))
    return [values[end] for end in ends]
