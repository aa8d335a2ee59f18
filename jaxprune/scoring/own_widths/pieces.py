"""The pieces that a network is cut into, and how one is run at given widths.

Arrays that are the same for all candidates, such as parameters, are called *known*, all others
*data*. A *pattern* tells how the positions along an axis follow the channels of groups.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import jax
import numpy as np
from jax import Array
from jax.extend.core import Literal

from jaxprune.dependency.joints import Slots
from jaxprune.dependency.masking import apply_mask, rescale
from jaxprune.dependency.rules import RULES, bind
from jaxprune.dependency.rules.base import shape
from jaxprune.scoring.lowering import lower

RESHAPING = frozenset(("broadcast_in_dim", "reshape", "split", "conv_general_dilated"))
"""Primitives whose `Rule.shrink` needs to know how many positions are kept, not which."""

EVEN = 4
"""XLA's CPU backend convolves a number of channels that is no multiple of this much more slowly
than the next multiple."""


class Pattern(NamedTuple):
    """How the positions along an axis follow the channels.

    Attributes:
      entries: int64 [n], for each position its entry in the vector of all masks (`joints.Slots`).
      groups: the groups that these entries belong to.
      alone: the group whose channels they are, each once and in order; None for anything else.
    """

    entries: np.ndarray
    groups: tuple[int, ...]
    alone: int | None


class Place(NamedTuple):
    """An axis of channels: which axis of an array, and the number of its pattern."""

    axis: int
    pattern: int


class Known(NamedTuple):
    """A known array at full width, for numpy and for JAX, and its axes of channels."""

    array: np.ndarray
    whole: Array
    places: tuple[Place, ...]


class Summed(NamedTuple):
    """An axis that a product sums over, in its data and in its known array."""

    data_axis: int
    known_axis: int
    pattern: int


class Product(NamedTuple):
    """What is special about a piece that multiplies data by one known array.

    Attributes:
      summed: the axes of channels that it sums over.
      out: the axes of channels of the result.
      multiply_adds: at full width.
      size: entries of the result at full width.
    """

    summed: tuple[Summed, ...]
    out: tuple[Place, ...]
    multiply_adds: int
    size: int


class Piece(NamedTuple):
    """A part of a network. Values, patterns and groups go by their numbers.

    Attributes:
      code: what it computes.
      reads: the data that it reads.
      known: the known arrays that it reads.
      masked: the patterns whose masks it needs.
      patterns: those of all axes that it does not sum over by a product.
      makes: the values that it makes and others read.
      alone: whether it must be compiled by itself. Convolutions, because compiling them takes long;
        pooling, because XLA's CPU backend would recompute what comes before for each window.
      product: set if it is a single convolution or matrix product of data and a known array, whose
        rows carry the masks.
    """

    code: "Code"
    reads: tuple[int, ...]
    known: tuple[Known, ...]
    masked: tuple[int, ...]
    patterns: tuple[int, ...]
    makes: tuple[int, ...]
    alone: bool = False
    product: Product | None = None


class Pieces(NamedTuple):
    """A function in pieces.

    Attributes:
      slots: the entries of the vector of all masks.
      patterns: the patterns of axes.
      pieces: in the order in which they run.
      inputs: the values of the inputs.
      output: the value of the result.
      pinned: the groups that cannot be narrowed.
      held: the groups that keep their full width outside products: pinned ones, and the inputs'.
      produced: for each group, how many products produce it.
    """

    slots: Slots
    patterns: tuple[Pattern, ...]
    pieces: tuple[Piece, ...]
    inputs: tuple[int, ...]
    output: int
    pinned: frozenset[int]
    held: frozenset[int]
    produced: tuple[int, ...]

    def groups(self, patterns: Sequence[int]) -> set[int]:
        """The groups of some patterns."""
        return {group for pattern in patterns for group in self.patterns[pattern].groups}


class Code:
    """Something to compile; made by `code_for`, so that layers that compute the same share it.

    Args:
      function: `function(sizes, data, known, masks)` -> results; see `run`.
    """

    def __init__(self, function: Callable[..., list[Any]]):
        self.function = function


_codes: WeakValueDictionary[Any, Code] = WeakValueDictionary()


def code_for(signature: Any, function: Callable[..., list[Any]]) -> Code:
    """The one code that has a signature, which is hashable and says what is computed."""
    return _codes.setdefault(signature, Code(function))


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(code: Code, sizes: tuple[Any, ...], data: Any, known: Any, masks: Any = ()) -> list[Array]:
    """Runs a piece, compiled for the shapes of what it is given.

    Args:
      code: what it computes.
      sizes: for each of the piece's patterns, how many positions there are; for a product,
        (axis, n) for each axis of which it reads the first n positions only.
      data: the data that it reads.
      known: the known arrays, cut to the same widths.
      masks: the masks of the patterns in `Piece.masked`, at the same widths.
    """
    return code.function(sizes, data, known, masks)


class Line(NamedTuple):
    """An equation of a piece. Values and patterns go by their places in the piece.

    Attributes:
      eqn: the equation.
      operands: places of values, or literals.
      results: places of values.
      reduced: (operand, axis, pattern) for each axis of channels that it reduces.
      rescale: (full size, pattern) of axes whose size it divides by.
      inputs: for each axis of each operand its pattern, None if it has no channels.
      outputs: the same for the results.
    """

    eqn: Any
    operands: tuple[Any, ...]
    results: tuple[int, ...]
    reduced: tuple[tuple[int, int, int], ...]
    rescale: tuple[tuple[int, int], ...]
    inputs: tuple[tuple[int | None, ...], ...]
    outputs: tuple[tuple[int | None, ...], ...]

    @property
    def masks(self) -> set[int]:
        """The patterns whose masks it needs."""
        return {pattern for *_, pattern in (*self.reduced, *self.rescale)}

    @property
    def signature(self) -> Any:
        """What it computes, hashable."""
        operands = tuple(
            (operand.aval, np.asarray(operand.val).tobytes())
            if isinstance(operand, Literal)
            else operand
            for operand in self.operands
        )
        return (signature(self.eqn), operands, *self[2:])


def code_of_lines(
    lines: tuple[Line, ...], inputs: int, masked: tuple[int, ...], ends: tuple[int, ...]
) -> Code:
    """Equations that run one after another.

    Args:
      lines: the equations.
      inputs: how many values are data; known arrays follow, then the results of the equations.
      masked: the patterns whose masks are given.
      ends: the values to return.
    """
    function = functools.partial(_run_lines, lines, masked, ends)
    return code_for(("lines", inputs, tuple(line.signature for line in lines), ends), function)


def code_of_product(eqn: Any, side: int) -> Code:
    """A convolution or matrix product; `side` is the place of the known operand."""
    return code_for(("product", side, signature(eqn)), functools.partial(_multiply, eqn, side))


def read(values: Any, operand: Any) -> Any:
    """The value of an operand, which may be a literal."""
    return operand.val if isinstance(operand, Literal) else values[operand]


def signature(eqn: Any) -> Any:
    """What an equation computes, hashable; if it cannot be hashed it equals itself alone."""
    found = (
        eqn.primitive.name,
        tuple(sorted(eqn.params.items(), key=lambda item: item[0])),
        tuple(var.aval for var in (*eqn.invars, *eqn.outvars)),
        eqn.ctx,
    )
    try:
        hash(found)
    except TypeError:
        return id(eqn)
    return found


def times(array: Any, axis: int, mask: np.ndarray) -> np.ndarray:
    """An array multiplied by a mask along an axis."""
    shape = [1] * array.ndim
    shape[axis] = len(mask)
    return np.asarray(array) * mask.reshape(shape).astype(array.dtype)


def _run_lines(
    lines: Sequence[Line],
    masked: tuple[int, ...],
    ends: tuple[int, ...],
    sizes: tuple[int, ...],
    data: Sequence[Any],
    known: Sequence[Any],
    masks: Sequence[Any],
) -> list[Any]:
    mask_of = dict(zip(masked, masks, strict=True))
    values: dict[int, Any] = dict(enumerate([*data, *known]))

    def kept(patterns: tuple[int | None, ...], var: Any) -> tuple[np.ndarray, ...]:
        """As many positions of each axis as there are; which ones does not matter."""
        return tuple(
            np.arange(size) < (size if pattern is None else int(sizes[pattern]))
            for pattern, size in zip(patterns, shape(var), strict=True)
        )

    for line in lines:
        eqn, name = line.eqn, line.eqn.primitive.name
        operands = [read(values, operand) for operand in line.operands]
        for operand, axis, pattern in line.reduced:
            operands[operand] = apply_mask(operands[operand], axis, mask_of[pattern], eqn)
        shrink = RULES[name].shrink if name in RESHAPING else None
        with eqn.ctx.manager:
            if shrink is not None:
                inputs = [kept(*pair) for pair in zip(line.inputs, eqn.invars, strict=True)]
                outputs = [kept(*pair) for pair in zip(line.outputs, eqn.outvars, strict=True)]
                results = shrink(eqn, operands, inputs, outputs)
            else:
                results = bind(eqn, operands)
            for full, pattern in line.rescale:
                results[0] = rescale(results[0], full, mask_of[pattern])
        values.update(zip(line.results, results, strict=True))
    return [values[end] for end in ends]


def _multiply(eqn: Any, side: int, sizes: Any, data: Any, known: Any, masks: Any) -> list[Any]:
    (value,), (array,) = data, known
    for axis, count in sizes:
        value = jax.lax.slice_in_dim(value, 0, count, axis=axis)

    def compute(data: Any, known: Any) -> Any:
        operands = [known, data] if side == 0 else [data, known]
        shrink = RULES[eqn.primitive.name].shrink
        with eqn.ctx.manager:
            if shrink is None:
                return bind(eqn, operands)[0]
            kept = tuple(np.ones(size, bool) for size in shape(eqn.outvars[0]))
            return shrink(eqn, operands, [], [kept])[0]

    if eqn.primitive.name == "conv_general_dilated":
        value, array = _even(eqn, value, array)
    return [lower(compute)(value, array)]


def _even(eqn: Any, data: Any, kernel: Any) -> tuple[Any, Any]:
    """The operands of a convolution, filled up with zeros to a multiple of `EVEN` channels."""
    spec = eqn.params["dimension_numbers"]
    missing = -data.shape[spec.lhs_spec[1]] % EVEN
    grouped = eqn.params["feature_group_count"] > 1 or eqn.params["batch_group_count"] > 1
    if grouped or not missing:
        return data, kernel

    def padded(value: Any, axis: int) -> Any:
        amounts = [(0, missing if d == axis else 0, 0) for d in range(value.ndim)]
        return jax.lax.pad(value, np.zeros((), value.dtype), amounts)

    return padded(data, spec.lhs_spec[1]), padded(kernel, spec.rhs_spec[1])
