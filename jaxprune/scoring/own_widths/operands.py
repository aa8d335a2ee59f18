"""What the pieces of a network compute with for one candidate."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.scoring.own_widths.positions import Positions
from jaxprune.scoring.own_widths.stages import Known, Product, Rest

PICKING = 40
"""Multiply-adds in the time that it takes to pick one entry of an array by its index."""


class Operands(NamedTuple):
    """What `stages.run` takes besides the data."""

    sizes: tuple[Any, ...]
    known: list[Any]
    masks: list[Any]


def of_rest(piece: Rest, at: Positions) -> Operands:
    """What lies between two products computes with."""
    known = [
        taken(one, [(place.axis, at.index(place.pattern)) for place in one.places])
        for one in piece.known
    ]
    masks = [at.mask(pattern, at.index(pattern)) for pattern in piece.masked]
    return Operands(tuple(map(at.count, piece.patterns)), known, masks)


Picks = tuple[tuple[int, np.ndarray], ...]
"""Axes of data, and the positions along them that are read."""


def of_product(piece: Product, at: Positions, entries: int | None) -> tuple[Operands, Picks]:
    """What a product computes with: at the positions that its data have, or at fewer if that pays.

    Args:
      piece: the product.
      at: the candidate's positions.
      entries: how many entries its data have; None if they are made in the same program, where all
        of them are needed.

    Returns:
      The operands, and which positions of the data are to be picked beforehand: those that are
      needed, unless they are the first ones, which the product picks itself.
    """
    work = float(piece.multiply_adds)
    for place in piece.known.places:
        work *= at.count(place.pattern) / piece.known.whole.shape[place.axis]
    rows: dict[int, np.ndarray | None] = {}
    sizes = []
    picks = []
    for one in piece.summed:
        there, needed = at.index(one.pattern), at.index(one.pattern, own=True)
        rows[one.known_axis] = there
        total = at.count(one.pattern)
        if entries is None or needed is None or len(needed) >= total:
            continue
        if there is not None and np.array_equal(there[: len(needed)], needed):
            sizes.append((one.data_axis, len(needed)))
            rows[one.known_axis] = needed
            continue
        left = len(needed) / total
        if work * (1 - left) > PICKING * entries * left:
            index = needed if there is None else _places(needed, there)
            picks.append((one.data_axis, index.astype(np.int32)))
            entries = int(entries * left)
            rows[one.known_axis] = needed
    known = taken(piece.known, _axes(piece, at, rows))
    for one in piece.summed:
        known = _times(known, one.known_axis, at.mask(one.pattern, rows[one.known_axis]))
    return Operands(tuple(sizes), [known], []), tuple(picks)


def picked(data: Array, picks: Picks) -> Array:
    """Data at some positions."""
    for axis, index in picks:
        data = _pick(data, index, axis)
    return data


def work(piece: Product | Rest, at: Positions) -> float:
    """The multiply-adds of a product at the channels that a candidate needs, and something else."""
    if isinstance(piece, Rest):
        return 1.0
    rows = {one.known_axis: at.index(one.pattern, own=True) for one in piece.summed}
    total = float(piece.multiply_adds)
    for axis, index in _axes(piece, at, rows):
        total *= 1.0 if index is None else len(index) / piece.known.whole.shape[axis]
    return 1.0 + total


def taken(known: Known, places: Sequence[tuple[int, np.ndarray | None]]) -> Any:
    """A known array at given positions along its axes."""
    partial = [(axis, index) for axis, index in places if index is not None]
    if not partial:
        return known.whole
    array = known.array
    for axis, index in sorted(partial, key=lambda part: len(part[1]) / array.shape[part[0]]):
        array = np.take(array, index, axis=axis)
    return array


def _axes(
    piece: Product, at: Positions, rows: dict[int, np.ndarray | None]
) -> list[tuple[int, np.ndarray | None]]:
    """The positions along the axes of a product's known array, `rows` along those summed over."""
    return [
        (place.axis, rows[place.axis] if place.axis in rows else at.index(place.pattern))
        for place in piece.known.places
    ]


def _times(array: Any, axis: int, mask: np.ndarray) -> Any:
    """An array times a mask along an axis."""
    if (mask == 1).all():
        return array
    shape = [1] * array.ndim
    shape[axis] = len(mask)
    return np.asarray(array) * mask.reshape(shape).astype(array.dtype)


def _places(channels: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Where some channels are among those that are there."""
    order = np.argsort(there)
    return order[np.searchsorted(there, channels, sorter=order)]


@functools.partial(jax.jit, static_argnums=2)
def _pick(value: Array, index: Array, axis: int) -> Array:
    return jnp.take(value, index, axis=axis, mode="clip")
