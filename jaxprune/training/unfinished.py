"""Training that goes on where it was left, within an epoch too."""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.errors import UserError
from jaxprune.files import arrays
from jaxprune.training.loop import Begun, Metrics, TrainState

AHEAD = 0.5
"""Seconds of steps that the device may have before it, where a step takes less."""


class Position(NamedTuple):
    """Where a training stands.

    Attributes:
        epoch: How many epochs are done.
        begun: What is done of the next one.
        state: The state there.
        history: The metrics of the epochs that are done.
    """

    epoch: int
    begun: Begun | None
    state: TrainState
    history: tuple[Metrics, ...] = ()


class Kept:
    """A file that always holds a recent position of a training.

    It is written anew after the step or epoch by which `every` seconds have passed. A file that
    cannot be written is done without.

    Attributes:
        path: The file.
        every: Seconds between two positions, 0 or more.
    """

    def __init__(self, path: Path, every: float = 10.0) -> None:
        self.path = path
        self.every = every
        self._next = time.monotonic() + every
        self._waited = time.monotonic()
        self._ahead, self._most = 0, 1

    def load(self, state: TrainState) -> Position | None:
        """The position in the file, or None if there is none that is whole and fits.

        Args:
            state: The state at the beginning, for its structure.
        """
        like = {"position": _Stored(0, 0, 0.0, 0.0, state), "loss": 0, "accuracy": 0}
        try:
            found = arrays.load(self.path, like)
        except UserError:
            return None
        stored = found["position"]
        if kinds(stored.state) != kinds(state):
            return None
        done = zip(jnp.asarray(found["loss"]), jnp.asarray(found["accuracy"]), strict=True)
        part = Metrics(jnp.asarray(stored.loss), jnp.asarray(stored.accuracy))
        return Position(
            int(stored.epoch),
            Begun(int(stored.step), part) if stored.step else None,
            jax.tree.map(jnp.asarray, stored.state),
            tuple(Metrics(*epoch) for epoch in done),
        )

    def due(self, metrics: Metrics) -> bool:
        """Whether it is time to save; to be asked after every step or epoch.

        Steps are handed to the device long before it takes them, and saving waits for all of them.
        So the device is waited for as often as it has taken steps for `AHEAD` seconds.

        Args:
            metrics: What the last step gave.
        """
        self._ahead += 1
        if self.every and self._ahead < self._most:
            return False
        jax.block_until_ready(metrics)
        now = time.monotonic()
        rate = self._ahead / max(now - self._waited, 1e-9)
        self._most = max(1, min(2 * self._most, int(AHEAD * rate)))
        self._ahead, self._waited = 0, now
        return now >= self._next

    def save(self, position: Position) -> None:
        """Writes a position."""
        epoch, begun, state, history = position
        step, part = begun or (0, Metrics(jnp.zeros(()), jnp.zeros(())))
        tree = {
            "position": _Stored(np.int32(epoch), np.int32(step), *part, state),
            "loss": _column([metrics.loss for metrics in history]),
            "accuracy": _column([metrics.accuracy for metrics in history]),
        }
        with suppress(OSError):
            arrays.save(self.path, jax.device_get(tree))
        self._next = time.monotonic() + self.every

    def remove(self) -> None:
        """Removes the file: the training has come to its end."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


class _Stored(NamedTuple):
    """A position as the file has it."""

    epoch: Any
    step: Any
    loss: Any
    accuracy: Any
    state: TrainState


def _column(values: Sequence[Any]) -> Any:
    return jnp.stack(values) if values else np.zeros(0, np.float32)


def kinds(tree: Any) -> list[tuple]:
    """Shape and type of each leaf of a pytree."""
    return [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(tree)]
