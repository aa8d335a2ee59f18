"""What is known about a value besides its atoms: its constant, and what it was divided by.

Normalisations divide a sum over channels by the number of channels, which is a literal in the
jaxpr. When channels are removed, the mean is taken over those that remain, so that number has to
change. The derivative of a mean divides by the same number before it broadcasts over the channels.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import JaxprEqn, Literal

from jaxprune.dependency.atoms import FIXED, Axes, Axis
from jaxprune.dependency.dtypes import is_key
from jaxprune.dependency.rules.collectives import RULES as COLLECTIVES
from jaxprune.dependency.rules.collectives import UNCHANGED

_LARGEST = 1_000_000  # constants with more entries are not computed

_PASSING = {
    *UNCHANGED,
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "copy_p",
    "div",
    "mul",
    "name",
    "neg",
    "reduce_precision",
    "reshape",
    "select_n",
    "squeeze",
    "stop_gradient",
    "transpose",
}
"""Primitives whose result is still the sum or quotient that one of their operands was."""


class Sum(NamedTuple):
    """A sum that may be on its way to a mean.

    Attributes:
      positions: how many positions it runs over.
      axes: the axes it runs over, without those that have no channels.
    """

    positions: int
    axes: tuple[Axis, ...]


class Fact(NamedTuple):
    """What is known about a value.

    Attributes:
      constant: computes the value if it depends on constants alone, else None.
      sum: the sum over channels that it is, up to a factor.
      quotient: the number that it was divided by, in the derivative of a function.
    """

    constant: Callable[[], np.ndarray | None] | None = None
    sum: Sum | None = None
    quotient: float | None = None

    def value(self) -> np.ndarray | None:
        """The constant, or None if the value is not known."""
        return None if self.constant is None else self.constant()


NOTHING = Fact()


def literal(value: Any) -> Fact:
    """What is known about a literal of the jaxpr."""
    return Fact(constant=lambda: np.asarray(value))


def captured(value: Any) -> Fact:
    """What is known about an array that a function has captured."""
    concrete = isinstance(value, (np.ndarray, np.generic, jax.Array, int, float))
    if not concrete or isinstance(value, jax.core.Tracer) or np.size(value) > _LARGEST:
        return NOTHING
    if isinstance(value, jax.Array) and is_key(value.dtype):
        return NOTHING
    return Fact(constant=lambda: np.asarray(value))


def follow(
    eqn: JaxprEqn,
    inputs: Sequence[Axes],
    facts: Sequence[Fact],
    outputs: Sequence[Axes],
    back: bool,
) -> tuple[list[Fact], tuple[Axis, ...]]:
    """What is known about an equation's results.

    Args:
      eqn: the equation.
      inputs: the atoms of its operands.
      facts: what is known about its operands.
      outputs: the atoms of its results.
      back: whether it is part of a reverse-mode derivative.

    Returns:
      A fact for each result, and the axes whose full size the equation divides by: its first
      result must be multiplied by the ratio of full to kept size of each.
    """
    constants = _constants(eqn, facts)
    total: Sum | None = None
    quotient: float | None = None
    rescale: tuple[Axis, ...] = ()
    name = eqn.primitive.name
    if name == "reduce_sum":
        axes = [inputs[0][d] for d in eqn.params["axes"]]
        before = facts[0].sum or Sum(1, ())
        over = tuple(axis for axis in axes if (axis != FIXED).any())
        total = Sum(before.positions * math.prod(map(len, axes)), before.axes + over)
        quotient = facts[0].quotient if total.positions == before.positions else None
    elif name in _PASSING:
        total = next((fact.sum for fact in facts if fact.sum is not None), None)
        quotient = next((fact.quotient for fact in facts if fact.quotient is not None), None)
        divisor = _divisor(eqn, facts)
        if divisor is not None and total is not None and math.isclose(divisor, total.positions):
            rescale, total = total.axes, None
        elif divisor is not None and back and divisor > 1:
            quotient = divisor
        elif divisor is None and name in ("mul", "div"):
            total = None
        if name == "broadcast_in_dim" and quotient is not None:
            spread = _spread(eqn, inputs[0], outputs[0])
            if math.isclose(math.prod(map(len, spread)), quotient):
                rescale, quotient = tuple(spread), None
    return [Fact(constant, total, quotient) for constant in constants], rescale


def _divisor(eqn: JaxprEqn, facts: Sequence[Fact]) -> float | None:
    """The number that an equation divides by, or whose inverse it multiplies by."""
    if eqn.primitive.name not in ("div", "mul"):
        return None
    places = (1,) if eqn.primitive.name == "div" else (1, 0)
    for place in places:
        if getattr(eqn.invars[place].aval, "shape", ()) == ():
            value = facts[place].value()
            if value is not None and np.isrealobj(value) and float(value) != 0:
                return float(value) if eqn.primitive.name == "div" else 1 / float(value)
    return None


def _spread(eqn: JaxprEqn, before: Axes, after: Axes) -> list[Axis]:
    """The axes along which a broadcast repeats."""
    old = dict(zip(map(int, eqn.params["broadcast_dimensions"]), before, strict=True))
    return [axis for d, axis in enumerate(after) if d not in old or len(old[d]) < len(axis)]


def _constants(
    eqn: JaxprEqn, facts: Sequence[Fact]
) -> list[Callable[[], np.ndarray | None] | None]:
    """Thunks that compute an equation's results, if they depend on constants alone."""
    outputs = eqn.outvars
    if eqn.primitive.name in UNCHANGED:
        return [fact.constant for fact in facts]
    if (
        eqn.primitive.name in COLLECTIVES
        or any(fact.constant is None for fact in facts)
        or eqn.effects
        or any(math.prod(getattr(v.aval, "shape", (_LARGEST + 1,))) > _LARGEST for v in outputs)
    ):
        return [None] * len(outputs)
    found: list[list[np.ndarray | None]] = []

    def compute() -> list[np.ndarray | None]:
        if not found:
            values = [fact.value() for fact in facts]
            if any(value is None for value in values):
                found.append([None] * len(outputs))
            else:
                found.append(_evaluate(eqn, values))
        return found[0]

    return [partial(lambda place: compute()[place], place) for place in range(len(outputs))]


def _evaluate(eqn: JaxprEqn, values: Sequence[Any]) -> list[np.ndarray | None]:
    with jax.ensure_compile_time_eval():
        results = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    results = results if eqn.primitive.multiple_results else [results]
    return [None if is_key(result.dtype) else np.asarray(result) for result in results]


def of_operand(var: Any, known: dict[Any, Fact]) -> Fact:
    """What is known about an equation's operand."""
    return literal(var.val) if isinstance(var, Literal) else known[var]
