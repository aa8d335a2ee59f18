"""Finished networks whose accuracies are known, so that none is evaluated twice.

Different removals in different orders end in the same network, within a tree, among the games of a
round and from one round to the next. The memory is a ring of fixed size inside compiled code.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

LENGTH = 4096
"""How many networks are remembered; then the oldest are forgotten."""

_UNUSED = -1.0


class Memory(NamedTuple):
    """Finished networks.

    Attributes:
        masks: their states, uint8 `[M, N]`.
        codes: a number that tells most states apart, uint32 `[M]`.
        accuracy: their training accuracies, float32 `[M]`; -1 in places without one.
        next: where the next one goes, int32 `[]`.
    """

    masks: Array
    codes: Array
    accuracy: Array
    next: Array


def empty(num_filters: int, length: int = LENGTH) -> Memory:
    """A memory without networks."""
    return Memory(
        masks=jnp.zeros((length, num_filters), jnp.uint8),
        codes=jnp.zeros(length, jnp.uint32),
        accuracy=jnp.full(length, _UNUSED, jnp.float32),
        next=jnp.int32(0),
    )


def look_up(memory: Memory, masks: Array) -> tuple[Array, Array]:
    """What is known of states `[B, N]`: whether they are there, and the accuracies, `[B]` each."""

    def one(mask: Array, code: Array) -> tuple[Array, Array]:
        place = jnp.argmax((memory.codes == code) & (memory.accuracy > _UNUSED))
        same = (memory.masks[place] == mask).all() & (memory.accuracy[place] > _UNUSED)
        return same, memory.accuracy[place]

    return jax.vmap(one)(masks, _codes(masks))


def remember(memory: Memory, masks: Array, accuracy: Array, wanted: Array) -> Memory:
    """Adds networks that are not there yet.

    Args:
        memory: the memory.
        masks: uint8 `[B, N]`.
        accuracy: float32 `[B]`.
        wanted: which of them to add, bool `[B]`.
    """
    length = len(memory.codes)
    known, _ = look_up(memory, masks)
    codes = _codes(masks)
    earlier = jnp.tril(codes[:, None] == codes[None], -1) & wanted[None]
    new = wanted & ~known & ~earlier.any(1)
    places = jnp.where(new, (memory.next + jnp.cumsum(new) - 1) % length, length)
    return Memory(
        masks=memory.masks.at[places].set(masks, mode="drop"),
        codes=memory.codes.at[places].set(codes, mode="drop"),
        accuracy=memory.accuracy.at[places].set(accuracy, mode="drop"),
        next=(memory.next + new.sum(dtype=jnp.int32)) % length,
    )


def _codes(masks: Array) -> Array:
    """Sums of random odd numbers, modulo 2^32: `[B, N]` -> uint32 `[B]`."""
    draws = np.random.default_rng(0).integers(0, 2**31, masks.shape[-1], np.uint32)
    return (masks.astype(jnp.uint32) * (2 * draws + 1)).sum(-1, dtype=jnp.uint32)
