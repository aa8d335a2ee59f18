"""The first product of candidates that keep the most important channels of what it sums over.

It reads the same data for all candidates. So its sum over the n most important channels is one over
fewer of them, which is kept, and a product with the few that are missing. What is kept depends on
nothing but the network and its data: a candidate scores the same whatever was scored before it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.scoring.own_widths.stages import Code, Product, run

MOST_BYTES = 2**27
"""What the sums that are kept may take, of one evaluator."""

MOST, FINEST = 32, 16
"""There are at most so many sums, and at least so many channels from one to the next."""


class PartialSums:
    """Sums over the first channels in an order.

    Args:
      piece: the product, which sums over one axis of channels.
      data: what it reads.
      order: int [size], the channels that it sums over, the most important first.
      layout: int [n], the channels of its result in the order of its axis; None: as they are.
      most_bytes: what the sums may take.
    """

    def __init__(
        self,
        piece: Product,
        data: Array,
        order: np.ndarray,
        layout: np.ndarray | None,
        most_bytes: int = MOST_BYTES,
    ):
        (one,), (out,) = piece.summed, piece.out
        kernel = piece.known.array
        if layout is not None:
            axis = next(p.axis for p in piece.known.places if p.pattern == out.pattern)
            kernel = np.take(kernel, layout, axis)
        multiply = piece.code.function
        made = jax.eval_shape(lambda x, w: multiply((), [x], [w], ())[0], data, kernel)
        bytes_each = made.size * made.dtype.itemsize
        count = max(2, min(MOST, most_bytes // bytes_each))
        self.step = min(len(order), max(FINEST, -(-len(order) // count)))
        blocks = -(-len(order) // self.step)
        # The last block is filled up with a channel that is never counted.
        padded = np.resize(order, blocks * self.step).reshape(blocks, self.step)
        self._data = [jnp.take(data, channels, axis=one.data_axis) for channels in padded]
        self._rows = [np.take(kernel, channels, axis=one.known_axis) for channels in padded]
        self._axis = one.known_axis
        self.code = Code(("go on", piece.code), _GoOn(piece.code))
        self._sums = [jnp.zeros(made.shape, made.dtype)]
        for block, rows in zip(self._data[:-1], self._rows[:-1], strict=True):
            self._sums += run(self.code, (), [block, self._sums[-1]], [rows])

    def rows(self, count: int) -> tuple[int, np.ndarray]:
        """The block where the first `count` channels end, and what is known for it.

        Returns:
          Its number, and the known array for it, 0 where its channels are not among the first.
        """
        number = min(count // self.step, len(self._rows) - 1)
        rows = self._rows[number]
        shape = [1] * rows.ndim
        shape[self._axis] = self.step
        counted = np.arange(self.step) < count - number * self.step
        return number, rows * counted.reshape(shape).astype(rows.dtype)

    def before(self, number: int) -> tuple[Array, Array]:
        """The data of a block, and the sum over all channels before it."""
        return self._data[number], self._sums[number]


class _GoOn:
    """A product added to a sum."""

    def __init__(self, code: Code):
        self._code = code

    def __call__(self, sizes: tuple, data: list[Array], known: list, masks: list) -> list[Array]:
        operand, before = data
        return [before + self._code.function(sizes, [operand], known, masks)[0]]
