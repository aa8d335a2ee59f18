"""How much memory a computation needs for each example, and how much a device has."""

import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Var

USABLE = 0.5
"""The part of a device's memory that activations may take: the rest is for parameters, images, and
for what XLA needs besides."""


def examples_that_fit(apply: Callable[..., Any], params: Any, masks: Any, x: Any) -> int | None:
    """How many examples of a masked network a device can hold the activations of.

    The activations are those of the program as it is written, each until its last use. XLA fuses
    many of them, so that this is a cautious estimate. It depends on the device's whole memory, not
    on what is free now: the same call gives the same numbers again, bit for bit.

    Args:
      apply: `apply(params, masks, x)`.
      params: parameters, or their shapes.
      masks: masks of one candidate, or their shapes.
      x: examples, a tree of arrays [B, ...], or their shapes.

    Returns:
      The number, at least 1, or None where the device does not say how much memory it has.
    """
    capacity = device_bytes()
    if capacity is None:
        return None

    def needed(examples: int) -> int:
        batch = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((examples, *leaf.shape[1:]), leaf.dtype), x
        )
        return peak_bytes(jax.make_jaxpr(apply)(params, masks, batch).jaxpr)

    one, two = needed(1), needed(2)  # what does not grow with the batch is there once
    return max(1, int((capacity * USABLE - one) / max(two - one, 1)))


def peak_bytes(program: Jaxpr) -> int:
    """The most bytes that a program's intermediate arrays and results take up at once.

    Its equations are taken in their order, each array living until the last equation that reads
    it; inputs and constants are not counted.
    """
    last_use: dict[Var, int] = {}
    for number, equation in enumerate(program.eqns):
        for variable in equation.invars:
            if isinstance(variable, Var):
                last_use[variable] = number
    kept = {variable for variable in program.outvars if isinstance(variable, Var)}
    alive: dict[Var, int] = {}
    peak = 0
    for number, equation in enumerate(program.eqns):
        inside = max(map(peak_bytes, _bodies(equation.params)), default=0)
        alive.update((variable, _bytes(variable)) for variable in equation.outvars)
        peak = max(peak, sum(alive.values()) + inside)
        for variable in (*equation.invars, *equation.outvars):
            if not isinstance(variable, Var) or variable in kept:  # a literal, or a result
                continue
            if last_use.get(variable, number) == number:
                alive.pop(variable, None)
    return peak


def device_bytes() -> int | None:
    """The memory of one device; on a CPU that of the machine. None where it is not known."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, OSError, ValueError):  # not a POSIX system
            return None
    statistics = device.memory_stats()
    return statistics.get("bytes_limit") if statistics else None


def _bytes(variable: Any) -> int:
    aval = variable.aval
    if not hasattr(aval, "shape"):
        return 0
    # PRNG keys have a data type of their own, without a size; they are small.
    return math.prod(aval.shape) * getattr(aval.dtype, "itemsize", 0)


def _bodies(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """The programs within an equation, such as the body of a loop."""
    for value in params.values():
        for inner in value if isinstance(value, tuple | list) else (value,):
            if isinstance(inner, ClosedJaxpr):
                yield inner.jaxpr
            elif isinstance(inner, Jaxpr):
                yield inner
