"""What the trees remember of finished networks."""

import jax.numpy as jnp
import numpy as np

from jaxprune.search.agents.mcts import memory as memories

MASKS = jnp.array([[1, 0, 2], [0, 1, 1], [1, 0, 2], [2, 2, 2]], jnp.uint8)
ACCURACY = jnp.array([0.5, 0.0, 0.5, 0.75])


def test_networks_are_remembered_once():
    memory = memories.remember(memories.empty(3, 4), MASKS, ACCURACY, jnp.ones(4, bool))
    assert memory.next == 3
    known, accuracy = memories.look_up(memory, MASKS)
    assert known.all()
    np.testing.assert_array_equal(accuracy, ACCURACY)
    again = memories.remember(memory, MASKS, ACCURACY + 0.1, jnp.ones(4, bool))
    np.testing.assert_array_equal(again.accuracy, memory.accuracy)


def test_only_those_that_are_wanted():
    wanted = jnp.array([False, True, False, False])
    memory = memories.remember(memories.empty(3, 4), MASKS, ACCURACY, wanted)
    np.testing.assert_array_equal(memories.look_up(memory, MASKS)[0], [False, True, False, False])


def test_the_oldest_are_forgotten():
    memory = memories.empty(3, 2)
    for mask, accuracy in zip(MASKS[1:], ACCURACY[1:], strict=True):
        memory = memories.remember(memory, mask[None], accuracy[None], jnp.ones(1, bool))
    known, _ = memories.look_up(memory, MASKS)
    np.testing.assert_array_equal(known, [True, False, True, True])


def test_nothing_is_known_at_first_not_even_an_empty_state():
    known, _ = memories.look_up(memories.empty(3), jnp.zeros((1, 3), jnp.uint8))
    assert not known.any()


def test_states_of_the_same_code_are_told_apart(monkeypatch):
    monkeypatch.setattr(memories, "_codes", lambda masks: jnp.zeros(len(masks), jnp.uint32))
    memory = memories.remember(memories.empty(3), MASKS[:1], ACCURACY[:1], jnp.ones(1, bool))
    np.testing.assert_array_equal(memories.look_up(memory, MASKS)[0], [True, False, True, False])
