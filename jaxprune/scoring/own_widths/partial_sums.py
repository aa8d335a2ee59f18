"""The first product, for candidates that keep the most important channels of what it sums over.

It reads the same data for all candidates. Its sum over the n most important channels is a sum over
fewer of them, which is kept, plus a product with the few that are missing. What is kept depends on
the network and its data only: a candidate scores the same whatever was scored before it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.scoring.own_widths.operands import Index, taken
from jaxprune.scoring.own_widths.pieces import Code, Piece, code_for, run, times

MOST_BYTES = 2**27
"""Bytes that the kept sums of one evaluator may take."""

MOST, FINEST = 32, 16
"""At most so many sums are kept, at least so many channels apart."""


class PartialSums:
    """Sums over the first channels in an order.

    Args:
      piece: a product that sums over one axis of channels.
      data: what it reads.
      order: int [size], the channels that it sums over, the most important first.
      out_order: int [n], the order of the channels of its result; None: as they are.
      most_bytes: what the sums may take.

    Attributes:
      step: the number of channels from one sum to the next.
      code: goes on from a sum: reads what `before` returns.
    """

    def __init__(
        self,
        piece: Piece,
        data: Array,
        order: np.ndarray,
        out_order: Index,
        most_bytes: int = MOST_BYTES,
    ):
        assert piece.product is not None
        (summed,), (out,), (known,) = piece.product.summed, piece.product.out, piece.known
        places = [place for place in known.places if place.pattern == out.pattern]
        kernel = taken(known, [(place.axis, out_order) for place in places[:1]])
        multiply = piece.code.function
        made = jax.eval_shape(lambda x, w: multiply((), [x], [w], ())[0], data, kernel)
        count = max(2, min(MOST, most_bytes // (made.size * made.dtype.itemsize)))
        self.step = min(len(order), max(FINEST, -(-len(order) // count)))
        blocks = -(-len(order) // self.step)
        # The last block is filled up with channels that are never counted.
        padded = np.resize(order, blocks * self.step).reshape(blocks, self.step)
        self._axis = summed.known_axis
        self._data = [jnp.take(data, channels, axis=summed.data_axis) for channels in padded]
        self._rows = [np.take(np.asarray(kernel), rows, axis=self._axis) for rows in padded]
        self.code = code_for(("go on", piece.code), functools.partial(_go_on, piece.code))
        self._sums = [jnp.zeros(made.shape, made.dtype)]
        for block, rows in zip(self._data[:-1], self._rows[:-1], strict=True):
            self._sums += run(self.code, (), [block, self._sums[-1]], [rows])

    def rows(self, count: int) -> tuple[int, np.ndarray]:
        """The block in which the first `count` channels end, and its known array.

        Returns:
          The block's number, and its rows, 0 for channels that are not among the first.
        """
        block = min(count // self.step, len(self._rows) - 1)
        counted = np.arange(self.step) < count - block * self.step
        return block, times(self._rows[block], self._axis, counted)

    def before(self, block: int) -> tuple[Array, Array]:
        """The data of a block, and the sum over all channels before it."""
        return self._data[block], self._sums[block]


def _go_on(
    product: Code, sizes: Any, data: list[Array], known: list[Any], masks: Any
) -> list[Array]:
    operand, before = data
    return [before + product.function(sizes, [operand], known, masks)[0]]
