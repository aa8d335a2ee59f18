"""The replay buffer: the latest steps, in a ring of arrays.

A buffer of one round's size is overwritten every round, which is how ACNN's Algorithm 1 clears it.
AMC's holds 100 episodes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Transitions(NamedTuple):
    """Steps of episodes; shapes without leading axes.

    Attributes:
        observations: before the action, float32 `[O]`.
        actions: as the agent chose them, in [0, 1], float32 `[]`.
        rewards: float32 `[]`.
        following: observations after the action, float32 `[O]`.
        continues: 0 for the last step of an episode, else 1, float32 `[]`.
    """

    observations: Array
    actions: Array
    rewards: Array
    following: Array
    continues: Array


class Replay(NamedTuple):
    """A ring buffer of C steps.

    Attributes:
        transitions: with a leading axis `[C]`.
        written: how many steps have been added in all, int32 `[]`.
    """

    transitions: Transitions
    written: Array


def empty(capacity: int, observation_size: int) -> Replay:
    """A buffer for `capacity` steps with observations `[O]`."""
    wide, narrow = jnp.zeros((capacity, observation_size)), jnp.zeros(capacity)
    return Replay(Transitions(wide, narrow, narrow, wide, narrow), jnp.int32(0))


def add(replay: Replay, new: Transitions) -> Replay:
    """Adds n steps, `[n, ...]` with n at most the capacity, replacing the oldest."""
    capacity, count = len(replay.transitions.rewards), len(new.rewards)
    places = (replay.written + jnp.arange(count)) % capacity
    kept = jax.tree.map(lambda old, added: old.at[places].set(added), replay.transitions, new)
    return Replay(kept, replay.written + count)


def filled(replay: Replay) -> float:
    """How full the buffer is, in [0, 1]."""
    capacity = len(replay.transitions.rewards)
    return min(int(replay.written), capacity) / capacity


def minibatches(replay: Replay, count: int, size: int, key: Array) -> Transitions:
    """Mini-batches from passes over the buffer in random order, `[count, size, ...]`.

    Every step is used before any is repeated. AMC's code samples each mini-batch independently.

    Args:
        replay: holds at least one step.
        count: how many mini-batches.
        size: steps in each; if the buffer holds fewer, steps are repeated within it.
        key: consumed.
    """
    capacity = len(replay.transitions.rewards)
    filled = jnp.minimum(replay.written, capacity)
    lottery = jax.random.uniform(key, (capacity,)) + (jnp.arange(capacity) >= filled)
    order = jnp.argsort(lottery)  # filled places come first
    chosen = order[jnp.arange(count * size).reshape(count, size) % filled]
    return jax.tree.map(lambda values: values[chosen], replay.transitions)
