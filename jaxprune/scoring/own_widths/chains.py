"""Pieces that follow each other, compiled together.

Calling a compiled program takes longer than a small piece of a small network. Consecutive pieces
become one program where that makes no more programs necessary: where they depend on the masks of
the same groups, and the shapes of all of them on the width of one group at most. Convolutions and
pooling stay alone. In a large network, where calls do not count, so does what has no widths of its
own, such as the loss: it is compiled once, in a chain once for each width.
"""

import functools
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from jaxprune.scoring.own_widths.stages import Code, Product, Rest, Stages

LARGE = 1_000_000_000
"""Multiply-adds of a whole candidate that take so long that one call more does not count."""


class Part(NamedTuple):
    """A piece, as it runs in a chain.

    Attributes:
      piece: the piece.
      code: what is compiled of it.
      reads: the values that it reads.
    """

    piece: Product | Rest
    code: Code
    reads: tuple[int, ...]


class Chain(NamedTuple):
    """Pieces in one program.

    Attributes:
      code: what is compiled: `code.function(sizes, data, known, masks)` with one entry for each
        part in all but data.
      parts: its pieces.
      reads: the values that it reads.
      makes: the values that it makes and others read.
      needs: the groups whose masks its results depend on.
      done: the values that nothing after it reads.
    """

    code: Code
    parts: tuple[Part, ...]
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    needs: tuple[int, ...]
    done: tuple[int, ...]


def chains(
    staged: Stages, parts: Sequence[Part], given: Collection[int], kept: int, same: Collection[int]
) -> tuple[Chain, ...]:
    """Joins pieces to chains.

    Args:
      staged: the network in pieces.
      parts: the pieces that are run for a candidate, in order.
      given: the values that are there before, and are the same for all candidates.
      kept: the value that is wanted.
      same: the groups whose channels are all there, outside of products.
    """
    needs: dict[int, set[int]] = {value: set() for value in given}
    products = (part.piece for part in parts if isinstance(part.piece, Product))
    large = sum(product.multiply_adds for product in products) >= LARGE
    runs: list[list[Part]] = []
    needed: list[set[int]] = []
    for part in parts:
        groups = _widths(staged, part, same)
        groups |= {g for p in part.piece.masked for g in staged.patterns[p].groups}
        groups |= {g for value in part.reads for g in needs.get(value, ())}
        needs.update((value, groups) for value in part.piece.makes)
        if runs and needed[-1] == groups and _fits(staged, runs[-1], part, same, large):
            runs[-1].append(part)
        else:
            runs.append([part])
            needed.append(groups)
    last = {
        value: number for number, run in enumerate(runs) for part in run for value in part.reads
    }
    last[kept] = len(runs)
    made = [{value for part in run for value in part.piece.makes} for run in runs]
    made_before = {value for values in made for value in values}
    return tuple(
        _chain(
            run,
            tuple(value for value in made[number] if last.get(value, -1) > number),
            tuple(sorted(needed[number])),
            tuple(v for v in made_before - made[number] if last.get(v) == number),
        )
        for number, run in enumerate(runs)
    )


def _widths(staged: Stages, part: Part, same: Collection[int]) -> set[int]:
    """The groups that the shapes of a piece depend on, outside of what it sums over."""
    return {g for p in part.piece.patterns for g in staged.patterns[p].groups} - set(same)


def _summed(staged: Stages, part: Part) -> set[int]:
    """The groups that a product sums over."""
    patterns = part.piece.masked if isinstance(part.piece, Product) else ()
    return {g for p in patterns for g in staged.patterns[p].groups}


def _fits(
    staged: Stages, run: Sequence[Part], part: Part, same: Collection[int], large: bool
) -> bool:
    """Whether a piece goes on a chain."""
    if part.piece.alone or run[-1].piece.alone or _summed(staged, part) & set(same):
        return False
    widths = [
        (_widths(staged, one, same) | _summed(staged, one)) - set(same) for one in (*run, part)
    ]
    if large and any(widths) and not widths[-1]:
        return False
    return len(set().union(*widths)) <= 1


def _chain(
    run: Sequence[Part], makes: tuple[int, ...], needs: tuple[int, ...], done: tuple[int, ...]
) -> Chain:
    made = {value for part in run for value in part.piece.makes}
    reads = tuple(dict.fromkeys(v for part in run for v in part.reads if v not in made))
    places = {value: place for place, value in enumerate(reads)}
    lines = []
    for part in run:
        operands = tuple(places[value] for value in part.reads)
        results = tuple(places.setdefault(value, len(places)) for value in part.piece.makes)
        lines.append((part.code, operands, results))
    ends = tuple(places[value] for value in makes)
    signature = ("chain", len(reads), tuple(lines), ends)
    code = Code(signature, functools.partial(_evaluate, tuple(lines), ends))
    return Chain(code, tuple(run), reads, makes, needs, done)


def _evaluate(
    lines: Sequence[tuple[Code, tuple[int, ...], tuple[int, ...]]],
    ends: Sequence[int],
    sizes: Sequence[Any],
    data: Sequence[Any],
    known: Sequence[Any],
    masks: Sequence[Any],
) -> list[Any]:
    values = dict(enumerate(data))
    for (code, operands, results), *own in zip(lines, sizes, known, masks, strict=True):
        size, array, mask = own
        found = code.function(size, [values[place] for place in operands], array, mask)
        values.update(zip(results, found, strict=True))
    return [values[end] for end in ends]
