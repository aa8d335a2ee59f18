"""What a network costs, as a function of its masks.

`params`, `macs` and `neurons` are products and sums of kept counts: traceable, differentiable in
soft masks, and correct to float32 rounding. `exact` gives the same as integers. `latency` is
measured on a network that has been made smaller.
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
    """The number of trainable parameters that are left (running statistics do not count)."""
    return structure.param_counts.total(structure.widths(masks), jnp)


def macs(structure: Structure, masks: Masks) -> Array:
    """The number of multiply-adds for one example: convolutions and matrix products, no biases."""
    return structure.mac_counts.total(structure.widths(masks), jnp)


def neurons(structure: Structure, masks: Masks) -> Array:
    """The number of prunable neurons or filters that are left; input features where prunable.

    The outputs do not count: LeNet-300-100 with prunable inputs has 784 + 300 + 100.
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
    """The cost of that name.

    Raises:
      UserError: there is none.
    """
    if name not in _COSTS:
        raise UserError(f"unknown cost {name!r}; the costs are: {', '.join(NAMES)}")
    return _COSTS[name]


def exact(structure: Structure, masks: Masks, name: str) -> int:
    """A cost of concrete 0/1 masks as an integer, computed in float64 on the host."""
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
    """The least reachable cost: one channel left in every group."""
    ones = {group.name: np.eye(group.size, dtype=np.float32)[0] for group in structure.groups}
    return exact(structure, ones, name)


def sparsity(structure: Structure, masks: Masks) -> Array:
    """The fraction of parameters removed, in [0, 1)."""
    return 1 - params(structure, masks) / dense(structure, "params")


def latency(fn: Callable[..., Any], params: Any, x: Any, *, repeats: int = 30) -> float:
    """How long one call takes, in milliseconds: the median of `repeats` calls.

    The function is compiled and run twice before the clock starts; every call is waited for.

    Args:
      fn: `fn(params, x)`, for example a compact network.
      params: its parameters.
      x: its input; latency is for this batch.
      repeats: how many calls are timed.

    Raises:
      ValueError: `repeats` is below 1.
    """
    return latencies([(fn, params)], x, repeats=repeats)[0]


def latencies(
    networks: Sequence[tuple[Callable[..., Any], Any]], x: Any, *, repeats: int = 30
) -> list[float]:
    """How long one call of each of several functions takes, in milliseconds: medians of `times`.

    Args:
      networks: (fn, params) pairs, as `latency` takes them.
      x: the input of all.
      repeats: how many calls of each are timed.

    Raises:
      ValueError: `repeats` is below 1.
    """
    return [statistics.median(taken) for taken in times(networks, x, repeats=repeats)]


def times(
    networks: Sequence[tuple[Callable[..., Any], Any]], x: Any, *, repeats: int = 30
) -> list[list[float]]:
    """How long each of several calls of several functions takes, in milliseconds.

    The functions take turns, so that a change of the machine's speed meets them all. All are
    compiled and run twice before the clock starts; parameters and input lie on the device.

    Args:
      networks: (fn, params) pairs, as `latency` takes them.
      x: the input of all.
      repeats: how many calls of each are timed.

    Returns:
      `repeats` times for each function.

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
