"""Sums over the positions of channels, joints included."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune import trace
from jaxprune.importance.positions import add_to_channels, members
from jaxprune.networks import bundled


def test_members_of_a_plain_axis():
    channels, positions = members(np.array([-1, 2, 0, 2, -1, 1]), 3, np.zeros((0, 2), int))
    np.testing.assert_array_equal(channels, [0, 1, 2, 2])
    np.testing.assert_array_equal(positions, [2, 5, 1, 3])


def test_a_joint_belongs_to_both_of_its_factors():
    # Channels 0 and 1 are heads, 2 to 4 the features of a head; 5 to 10 the pairs, in order.
    joints = np.array([(head, 2 + feature) for head in range(2) for feature in range(3)])
    channels, positions = members(np.arange(5, 11), 5, joints)
    found = {c: positions[channels == c].tolist() for c in range(5)}
    assert found == {0: [0, 1, 2], 1: [3, 4, 5], 2: [0, 3], 3: [1, 4], 4: [2, 5]}


def test_a_joint_of_a_joint_belongs_to_all_three_channels():
    joints = np.array([(0, 1), (3, 2)])  # id 3 and id 4 = (0, 1, 2)
    channels, positions = members(np.array([4, 3, 0, -1]), 3, joints)
    found = {c: positions[channels == c].tolist() for c in range(3)}
    assert found == {0: [0, 1, 2], 1: [0, 1], 2: [0]}


def test_a_joint_of_a_channel_with_itself_counts_once():
    channels, positions = members(np.array([2, 1]), 2, np.array([(0, 0)]))
    np.testing.assert_array_equal(channels, [0, 1])
    np.testing.assert_array_equal(positions, [0, 1])


def lenet_structure():
    network = bundled.build("lenet5", (28, 28, 1))
    variables = jax.eval_shape(network.init, jax.random.key(0))
    return trace(network.apply, variables, jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32))


def test_channels_tiled_over_positions():
    structure = lenet_structure()
    channels = structure.channels[structure.paths.index("fc1/kernel")][0]
    values = np.random.default_rng(0).normal(size=800).astype(np.float32)
    found = add_to_channels(structure, channels, values)
    assert found.shape == (structure.num_channels,)
    np.testing.assert_allclose(found[20:70], values.reshape(16, 50).sum(0), rtol=1e-5, atol=1e-6)
    assert not found[:20].any()
    assert not found[70:].any()


STRUCTURE = lenet_structure()


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(-1, STRUCTURE.num_channels - 1), min_size=12, max_size=12))
def test_any_axis_against_numpy(channels):
    values = np.arange(1.0, 13, dtype=np.float32)
    expected = np.zeros(STRUCTURE.num_channels + 1, np.float32)
    np.add.at(expected, channels, values)
    found = add_to_channels(STRUCTURE, np.array(channels), values)
    np.testing.assert_array_equal(found, expected[:-1])
