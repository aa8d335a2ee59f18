"""What a piece computes with for one candidate."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.scoring.own_widths.layout import Layout
from jaxprune.scoring.own_widths.pieces import Known, Piece, times

PICKING = 40
"""Multiply-adds in the time that it takes to pick one entry of an array by its index."""

Index = np.ndarray | None
"""Positions along an axis; None: all, in their order."""


class Operands(NamedTuple):
    """What `pieces.run` takes besides the data.

    Attributes:
      sizes, known, masks: as in `pieces.run`.
      picks: (axis, positions) that are to be picked from the data beforehand.
    """

    sizes: tuple[Any, ...]
    known: list[Any]
    masks: list[Any]
    picks: tuple[tuple[int, np.ndarray], ...] = ()


def operands(piece: Piece, layout: Layout, entries: int | None) -> Operands:
    """What a piece computes with.

    A product reads its data at the positions that they have, or at fewer if that pays: those that
    the candidate needs, unless they are the first ones, are then picked beforehand.

    Args:
      piece: the piece.
      layout: the candidate's.
      entries: how many entries the data of a product have; None if nothing may be picked from them.
    """
    if piece.product is None:
        known = [
            taken(one, [(place.axis, layout.index(place.pattern)) for place in one.places])
            for one in piece.known
        ]
        masks = [layout.mask(pattern, layout.index(pattern)) for pattern in piece.masked]
        return Operands(tuple(map(layout.count, piece.patterns)), known, masks)
    (array,) = piece.known
    cost = float(piece.product.multiply_adds)
    for place in array.places:
        cost *= layout.count(place.pattern) / array.array.shape[place.axis]
    rows: dict[int, Index] = {}
    sizes, picks = [], []
    for one in piece.product.summed:
        there, needed = layout.index(one.pattern), layout.index(one.pattern, needed=True)
        rows[one.known_axis] = there
        total = layout.count(one.pattern)
        if entries is None or needed is None or len(needed) >= total:
            continue
        if there is not None and np.array_equal(there[: len(needed)], needed):
            sizes.append((one.data_axis, len(needed)))
            rows[one.known_axis] = needed
            continue
        left = len(needed) / total
        if cost * (1 - left) > PICKING * entries * left:
            index = needed if there is None else _places(needed, there)
            picks.append((one.data_axis, index.astype(np.int32)))
            entries = int(entries * left)
            rows[one.known_axis] = needed
    kernel = taken(array, _axes(piece, layout, rows))
    for one in piece.product.summed:
        mask = layout.mask(one.pattern, rows[one.known_axis])
        if (mask != 1).any():
            kernel = times(kernel, one.known_axis, mask)
    return Operands(tuple(sizes), [kernel], [], tuple(picks))


def work(piece: Piece, layout: Layout) -> float:
    """The multiply-adds of a product for a candidate, and one for calling it."""
    if piece.product is None:
        return 1.0
    total = float(piece.product.multiply_adds)
    needed = {s.known_axis: layout.index(s.pattern, needed=True) for s in piece.product.summed}
    for axis, index in _axes(piece, layout, needed):
        total *= 1.0 if index is None else len(index) / piece.known[0].array.shape[axis]
    return 1.0 + total


def taken(known: Known, axes: Sequence[tuple[int, Index]]) -> Any:
    """A known array at given positions along its axes."""
    partial = [(axis, index) for axis, index in axes if index is not None]
    if not partial:
        return known.whole
    array = known.array
    for axis, index in sorted(partial, key=lambda part: len(part[1]) / array.shape[part[0]]):
        array = np.take(array, index, axis=axis)
    return array


@functools.partial(jax.jit, static_argnums=2)
def picked(data: Array, index: Array, axis: int) -> Array:
    """Data at some positions along an axis."""
    return jnp.take(data, index, axis=axis, mode="clip")


def _axes(piece: Piece, layout: Layout, rows: dict[int, Index]) -> list[tuple[int, Index]]:
    """The positions along the axes of a product's known array; `rows` for those summed over."""
    return [
        (axis, rows[axis] if axis in rows else layout.index(pattern))
        for axis, pattern in piece.known[0].places
    ]


def _places(channels: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Where some channels are among those that are there."""
    order = np.argsort(there)
    return order[np.searchsorted(there, channels, sorter=order)]
