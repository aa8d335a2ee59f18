"""What pruning brought on this device: dense against compact, in time and in memory."""

import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from jaxprune import costs
from jaxprune.lazy import submodules
from jaxprune.networks.export.rebuild import Rebuilt

NETWORKS = ("dense", "compact")


class Call(NamedTuple):
    """One call of a network on a batch.

    Attributes:
        median_ms: Median of its times, in milliseconds.
        quartiles_ms: Their first and third quartile.
        images_per_second: Images of the batch by the median.
        peak_bytes: What the compiled program has in memory at once: arguments, results and
            temporaries. None where the compiler does not say.
    """

    median_ms: float
    quartiles_ms: tuple[float, float]
    images_per_second: float
    peak_bytes: int | None


class Comparison(NamedTuple):
    """Dense and compact network side by side; each dict has the keys of `NETWORKS`.

    Attributes:
        params: Trainable parameters.
        macs: Multiply-adds for one image.
        param_bytes: Bytes of all variables, running statistics included.
        calls: {batch size: calls}.
    """

    params: dict[str, int]
    macs: dict[str, int]
    param_bytes: dict[str, int]
    calls: dict[int, dict[str, Call]]


def compare(
    rebuilt: Rebuilt, variables: Any, batches: Sequence[int], *, repeats: int = 30
) -> Comparison:
    """Measures dense and compact network; they take turns.

    Args:
        rebuilt: Both networks.
        variables: Of the dense one. Times do not depend on their values.
        batches: Sizes of the batches.
        repeats: Calls of each network that are timed for each batch size.

    Raises:
        ValueError: A batch size or `repeats` is below 1.
    """
    if min(batches) < 1:
        raise ValueError(f"batch sizes must be at least 1, got {min(batches)}")
    small, structure = rebuilt.small, rebuilt.structure
    networks: dict[str, tuple[Callable[..., Any], Any]] = {
        "dense": (rebuilt.network.apply, variables),
        "compact": (small, small.params),
    }
    masks = {"dense": structure.full_masks(), "compact": small.masks}
    calls = {}
    for batch in batches:
        x = _inputs(rebuilt, batch)
        times = costs.times(list(networks.values()), x, repeats=repeats)
        calls[batch] = {
            name: _call(taken, batch, _peak(*networks[name], x))
            for name, taken in zip(networks, times, strict=True)
        }
    return Comparison(
        params={name: costs.exact(structure, masks[name], "params") for name in NETWORKS},
        macs={name: costs.exact(structure, masks[name], "macs") for name in NETWORKS},
        param_bytes={name: _bytes(networks[name][1]) for name in NETWORKS},
        calls=calls,
    )


def _inputs(rebuilt: Rebuilt, batch: int) -> np.ndarray:
    loaded = rebuilt.loaded
    values = np.random.default_rng(0).standard_normal((batch, *loaded.input_shape))
    return values.astype(loaded.input_dtype)


def _call(times: list[float], batch: int, peak: int | None) -> Call:
    median = statistics.median(times)
    low, high = np.percentile(times, (25, 75))
    return Call(median, (float(low), float(high)), 1e3 * batch / median, peak)


def _peak(fn: Callable[..., Any], params: Any, x: Any) -> int | None:
    program = jax.jit(fn).lower(params, x).compile()
    memory = program.memory_analysis()
    if memory is None:
        return None
    return memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes


def _bytes(tree: Any) -> int:
    return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(tree))


if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
