"""The cost of a network as a function of its masks.

`params`, `macs` and `neurons` are products and sums of the kept widths: traceable, differentiable
in soft masks, and correct up to float32 rounding. `exact` computes them as integers. `latency` is
measured on the compact network.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.dependency import Masks, Structure
from jaxprune.errors import UserError


def params(structure: Structure, masks: Masks) -> Array:
    """The number of trainable parameters left (running statistics do not count)."""
    return structure.param_counts.total(structure.widths(masks), jnp)


def macs(structure: Structure, masks: Masks) -> Array:
    """The number of multiply-adds for one example: convolutions and matrix products, no biases."""
    return structure.mac_counts.total(structure.widths(masks), jnp)


def neurons(structure: Structure, masks: Masks) -> Array:
    """The number of prunable neurons or filters left, including input features if prunable.

    Outputs do not count: LeNet-300-100 with prunable inputs has 784 + 300 + 100.
    """
    return jnp.asarray(structure.widths(masks), jnp.float32).sum()


_COSTS: dict[str, Callable[[Structure, Masks], Array]] = {
    "macs": macs,
    "params": params,
    "neurons": neurons,
}

NAMES: tuple[str, ...] = tuple(_COSTS)
"""The costs that a budget can be set on."""


def get(name: str) -> Callable[[Structure, Masks], Array]:
    """The cost of a name.

    Raises:
      UserError: the name is unknown.
    """
    if name not in _COSTS:
        raise UserError(f"unknown cost {name!r}; the costs are: {', '.join(NAMES)}")
    return _COSTS[name]


def exact(structure: Structure, masks: Masks, name: str) -> int:
    """The cost of concrete 0/1 masks as an integer, computed on the host in float64."""
    get(name)
    widths = np.asarray(structure.widths(masks), np.float64)
    if name == "neurons":
        return round(widths.sum())
    counts = structure.param_counts if name == "params" else structure.mac_counts
    return round(float(counts.total(widths)))


def dense(structure: Structure, name: str) -> int:
    """The cost of the whole network."""
    return exact(structure, structure.full_masks(), name)


def smallest(structure: Structure, name: str) -> int:
    """The smallest possible cost, with one channel left in every group."""
    ones = {group.name: np.eye(group.size, dtype=np.float32)[0] for group in structure.groups}
    return exact(structure, ones, name)


def sparsity(structure: Structure, masks: Masks) -> Array:
    """The fraction of parameters removed, in [0, 1)."""
    return 1 - params(structure, masks) / dense(structure, "params")


def latency(fn: Callable[..., Any], params: Any, x: Any, *, repeats: int = 30) -> float:
    """The latency of one call in milliseconds, the median of `times`.

    Args:
      fn: `fn(params, x)`, for example a compact network.
      params: its parameters.
      x: the batch of inputs that is timed.
      repeats: number of timed calls.

    Raises:
      ValueError: `repeats` is below 1.
    """
    return latencies([(fn, params)], x, repeats=repeats)[0]


def latencies(
    networks: Sequence[tuple[Callable[..., Any], Any]], x: Any, *, repeats: int = 30
) -> list[float]:
    """The latencies of several functions in milliseconds, the medians of `times`."""
    return [statistics.median(taken) for taken in times(networks, x, repeats=repeats)]


def times(
    networks: Sequence[tuple[Callable[..., Any], Any]], x: Any, *, repeats: int = 30
) -> list[list[float]]:
    """Times repeated calls of several functions, in milliseconds.

    The functions take turns, so that a change of the machine's speed affects them alike. All are
    compiled and called twice before the clock starts, and each call is waited for; parameters and
    inputs are on the device.

    Args:
      networks: (fn, params) pairs, as `latency` takes them.
      x: the batch of inputs for all of them.
      repeats: number of timed calls of each function.

    Returns:
      For each function, `repeats` times.

    Raises:
      ValueError: `repeats` is below 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    x = jax.device_put(x)
    calls = [(jax.jit(fn), jax.device_put(params)) for fn, params in networks]
    for compiled, params in calls * 3:  # the first call compiles
        jax.block_until_ready(compiled(params, x))
    milliseconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for taken, (compiled, params) in zip(milliseconds, calls, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(compiled(params, x))
            taken.append(1e3 * (time.perf_counter() - start))
    return milliseconds
