"""The queue of training positions: the newest `L` of all games, in a ring of fixed size.

Algorithm 3 of the supplement pops one sample when the queue is longer than `L`, then appends a
whole game; read literally the queue would grow without end. Here every sample that comes in
beyond `L` displaces the oldest one.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

SETTLED = -1
"""In `Queue.game`: the outcome of the sample's game is known."""


class Queue(NamedTuple):
    """Training samples (s, pi, v) of Algorithm 2.

    Attributes:
        masks: the states s, uint8 `[L, N]`.
        policies: the improved policies pi, float32 `[L, N]`.
        outcomes: the outcomes v in {-1, +1}, float32 `[L]`; 0 while the game goes on.
        game: the running game that the sample belongs to, int32 `[L]`, or `SETTLED`.
        head: where the next sample goes, int32 `[]`.
        size: number of samples held, int32 `[]`.
    """

    masks: Array
    policies: Array
    outcomes: Array
    game: Array
    head: Array
    size: Array


@functools.partial(jax.jit, static_argnums=(0, 1))
def empty(length: int, num_filters: int) -> Queue:
    """A queue without samples."""
    return Queue(
        masks=jnp.zeros((length, num_filters), jnp.uint8),
        policies=jnp.zeros((length, num_filters), jnp.float32),
        outcomes=jnp.zeros(length, jnp.float32),
        game=jnp.full(length, SETTLED, jnp.int32),
        head=jnp.zeros((), jnp.int32),
        size=jnp.zeros((), jnp.int32),
    )


def push(queue: Queue, masks: Array, policies: Array, playing: Array) -> Queue:
    """Appends one position of each game that is still playing, in the order of the games.

    Args:
        queue: the queue, of length L >= B.
        masks: uint8 `[B, N]`.
        policies: float32 `[B, N]`.
        playing: bool `[B]`; the other games leave no sample.

    Returns:
        The queue with the samples, their outcomes open until `settle`.
    """
    length = queue.game.shape[0]
    games = jnp.arange(playing.shape[0], dtype=jnp.int32)
    count = playing.sum(dtype=jnp.int32)
    # Games that are over write past the end, which is dropped.
    slots = jnp.where(playing, (queue.head + jnp.cumsum(playing) - 1) % length, length)
    return Queue(
        masks=queue.masks.at[slots].set(masks, mode="drop"),
        policies=queue.policies.at[slots].set(policies, mode="drop"),
        outcomes=queue.outcomes.at[slots].set(0.0, mode="drop"),
        game=queue.game.at[slots].set(games, mode="drop"),
        head=(queue.head + count) % length,
        size=jnp.minimum(queue.size + count, length),
    )


def settle(queue: Queue, outcomes: Array) -> Queue:
    """Gives every open sample the outcome of its game, `[B]`, and closes it."""
    is_open = queue.game != SETTLED
    return queue._replace(
        outcomes=jnp.where(is_open, outcomes[queue.game], queue.outcomes),
        game=jnp.full_like(queue.game, SETTLED),
    )


def sample(queue: Queue, key: Array, count: int) -> tuple[Array, Array, Array]:
    """Draws samples with replacement from a queue that is not empty.

    Returns:
        Masks `[count, N]`, policies `[count, N]` and outcomes `[count]`.
    """
    rows = jax.random.randint(key, (count,), 0, queue.size)
    return queue.masks[rows], queue.policies[rows], queue.outcomes[rows]
