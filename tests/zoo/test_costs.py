"""The cost functions say what the compact network has, counted on its real shapes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from dependency.checks import random_masks
from jaxprune import compact, costs
from zoo import NAMES, counting
from zoo.network import BATCH
from zoo.removal import traced


@pytest.mark.parametrize("name", NAMES)
def test_costs_are_those_of_the_compact_network(name):
    network, structure = traced(name)
    for masks in (structure.full_masks(), random_masks(structure, 3)):
        small = compact(network.apply, structure, network.variables, masks)
        count = counting.parameters(network, small.params)
        assert costs.exact(structure, masks, "params") == count
        count = counting.multiply_adds(small, small.params, network.x)
        assert count % BATCH == 0
        assert costs.exact(structure, masks, "macs") == count // BATCH


def test_the_count_of_a_convolution_by_hand():
    conv = nn.Conv(8, (3, 5), strides=2, feature_group_count=2, padding="VALID")
    x = jnp.ones((3, 9, 11, 4))
    variables = conv.init(jax.random.key(0), x)
    assert counting.multiply_adds(conv.apply, variables, x) == 3 * (4 * 4) * 8 * (3 * 5) * 2


def test_the_count_of_a_matrix_product_by_hand():
    def attention(query, key):
        return jnp.einsum("bqhd,bkhd->bhqk", query, key)

    query, key = jnp.ones((2, 5, 3, 4)), jnp.ones((2, 7, 3, 4))
    assert counting.multiply_adds(attention, query, key) == 2 * 5 * 7 * 3 * 4


def test_the_count_of_control_flow_by_hand():
    matrix = jnp.ones((4, 4))

    def scanned(x):
        return jax.lax.scan(lambda x, _: (jax.nn.relu(x @ matrix), None), x, length=5)[0]

    def chosen(x):
        return jax.lax.cond(x.sum() > 0, lambda x: x @ matrix @ matrix, lambda x: x @ matrix, x)

    x = jnp.ones((3, 4))
    assert counting.multiply_adds(scanned, x) == 5 * 3 * 4 * 4
    assert counting.multiply_adds(chosen, x) == 2 * 3 * 4 * 4
    assert counting.multiply_adds(jax.jit(jax.checkpoint(scanned)), x) == 5 * 3 * 4 * 4
