"""The ring of training positions, against a list that is cut to its newest entries."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.search.agents.mcts import queue as queues


def test_the_newest_positions_stay() -> None:
    rng = np.random.default_rng(0)
    length, games, filters = 7, 3, 4
    push = jax.jit(queues.push)
    queue, expected = queues.empty(length, filters), []
    for _ in range(12):
        masks = rng.integers(0, 2, (games, filters)).astype(np.uint8)
        policies = rng.random((games, filters)).astype(np.float32)
        playing = rng.random(games) < 0.6
        queue = push(queue, masks, policies, playing)
        expected += [(masks[g], policies[g], g) for g in range(games) if playing[g]]
        expected = expected[-length:]  # what the queue's oldest samples are popped down to

        assert queue.size == len(expected)
        newest_first = (int(queue.head) - 1 - np.arange(len(expected))) % length
        for slot, (mask, policy, game) in zip(newest_first, reversed(expected), strict=True):
            np.testing.assert_array_equal(queue.masks[slot], mask)
            np.testing.assert_array_equal(queue.policies[slot], policy)
            assert queue.game[slot] == game


def test_settling_gives_each_position_the_outcome_of_its_game_once() -> None:
    queue = queues.empty(6, 2)
    masks, policies = jnp.ones((2, 2), jnp.uint8), jnp.full((2, 2), 0.5)
    queue = queues.push(queue, masks, policies, jnp.array([True, True]))
    queue = queues.push(queue, masks, policies, jnp.array([False, True]))
    queue = queues.settle(queue, jnp.array([1.0, -1.0]))
    np.testing.assert_array_equal(queue.outcomes[:3], [1, -1, -1])
    assert (np.asarray(queue.game) == queues.SETTLED).all()
    queue = queues.push(queue, masks, policies, jnp.array([True, False]))
    queue = queues.settle(queue, jnp.array([-1.0, 1.0]))
    np.testing.assert_array_equal(queue.outcomes[:4], [1, -1, -1, -1])


def test_samples_come_only_from_what_is_held() -> None:
    queue = queues.empty(8, 1)
    for value in range(3):
        queue = queues.push(
            queue, jnp.ones((1, 1), jnp.uint8), jnp.full((1, 1), value + 1.0), jnp.array([True])
        )
    _, policies, _ = queues.sample(queue, jax.random.PRNGKey(0), 200)
    assert set(np.asarray(policies).ravel().tolist()) == {1.0, 2.0, 3.0}
