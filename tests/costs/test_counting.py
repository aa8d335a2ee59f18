import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import UserError, compact, costs, trace
from jaxprune.networks.bundled import build


def bundled(name, image_shape, **options):
    network = build(name, image_shape)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    shape = (2, int(np.prod(image_shape))) if network.flat else (2, *image_shape)
    return network, trace(
        network.apply, variables, jax.ShapeDtypeStruct(shape, jnp.float32), **options
    )


def masks_of_widths(structure, *widths):
    return {
        group.name: (np.arange(group.size) < width).astype(np.float32)
        for group, width in zip(structure.groups, widths, strict=True)
    }


PUBLISHED = [  # parameters, multiply-adds, each with the precision it is published in
    ("lenet300", (28, 28, 1), 266_610, 0, 266_200, 0),
    ("lenet5", (28, 28, 1), 431_080, 0, 2_293_000, 0),
    ("vgg16", (32, 32, 3), 14.72e6, 0.005e6, 313.2e6, 0.05e6),
    ("resnet18", (32, 32, 3), 11.17e6, 0.005e6, 0.56e9, 0.005e9),
    ("resnet50", (32, 32, 3), 23.52e6, 0.005e6, 1.30e9, 0.005e9),
    ("resnet20", (32, 32, 3), 0.27e6, 0.005e6, 40.8e6, 0.05e6),
    ("resnet56", (32, 32, 3), 0.85e6, 0.006e6, 125.7e6, 0.3e6),
]


@pytest.mark.parametrize(("name", "shape", "params", "dp", "macs", "dm"), PUBLISHED)
def test_published_costs(name, shape, params, dp, macs, dm):
    _, structure = bundled(name, shape)
    assert abs(costs.dense(structure, "params") - params) <= dp
    assert abs(costs.dense(structure, "macs") - macs) <= dm


def test_costs_by_hand():
    """LeNet-300-100 cut to 40-7: the counts are those of a 784-40-7-10 network."""
    _, structure = bundled("lenet300", (28, 28, 1))
    masks = masks_of_widths(structure, 40, 7)
    assert costs.exact(structure, masks, "params") == 785 * 40 + 41 * 7 + 8 * 10
    assert costs.exact(structure, masks, "macs") == 784 * 40 + 40 * 7 + 7 * 10
    assert costs.exact(structure, masks, "neurons") == 47
    kept = (785 * 40 + 41 * 7 + 8 * 10) / 266_610
    np.testing.assert_allclose(costs.sparsity(structure, masks), 1 - kept, rtol=1e-6)


def test_input_neurons_count_where_inputs_are_prunable():
    _, structure = bundled("lenet300", (28, 28, 1), prune_inputs=True)
    assert costs.dense(structure, "neurons") == 784 + 300 + 100
    masks = masks_of_widths(structure, 219, 81, 43)
    assert costs.exact(structure, masks, "neurons") == 219 + 81 + 43
    assert costs.exact(structure, masks, "macs") == 219 * 81 + 81 * 43 + 43 * 10


def test_flattened_channels_cost_all_their_positions():
    _, structure = bundled("lenet5", (28, 28, 1))
    masks = masks_of_widths(structure, 3, 5, 11)
    macs = 24 * 24 * 25 * 3 + 8 * 8 * 25 * 3 * 5 + 16 * 5 * 11 + 11 * 10
    assert costs.exact(structure, masks, "macs") == macs
    params = 26 * 3 + (25 * 3 + 1) * 5 + (16 * 5 + 1) * 11 + 12 * 10
    assert costs.exact(structure, masks, "params") == params


@pytest.mark.parametrize("name", ["cnn", pytest.param("resnet20", marks=pytest.mark.slow)])
def test_costs_are_those_of_the_compact_network(name):
    shape = (8, 8, 3)
    network, structure = bundled(name, shape)
    variables = network.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    masks = {g.name: (rng.random(g.size) < 0.5).astype(np.float32) for g in structure.groups}
    for mask in masks.values():
        mask[0] = 1
    small = compact(network.apply, structure, variables, masks)
    count = sum(leaf.size for leaf in jax.tree.leaves(small.params["params"]))
    assert costs.exact(structure, masks, "params") == count
    again = trace(small, small.params, jnp.ones((3, *shape)))
    assert costs.exact(structure, masks, "macs") == costs.dense(again, "macs")


def test_traced_costs_equal_exact_ones():
    _, structure = bundled("resnet20", (32, 32, 3))
    rng = np.random.default_rng(1)
    flat = (rng.random((8, structure.num_channels)) < 0.5).astype(np.float32)
    for name in costs.NAMES:
        cost = costs.get(name)
        traced = jax.jit(jax.vmap(lambda m, cost=cost: cost(structure, structure.unflatten(m))))
        exact = [costs.exact(structure, structure.unflatten(mask), name) for mask in flat]
        np.testing.assert_allclose(traced(flat), exact, rtol=1e-6)


def test_the_smallest_network_has_one_channel_a_group():
    _, structure = bundled("lenet300", (28, 28, 1))
    assert costs.smallest(structure, "macs") == 784 + 1 + 10
    assert costs.smallest(structure, "neurons") == 2


def test_unknown_cost():
    with pytest.raises(UserError, match="unknown cost 'flops'; the costs are: macs, params"):
        costs.get("flops")


def test_latency_grows_with_the_work():
    def power(params, x):
        return jax.lax.fori_loop(0, 40, lambda _, y: jnp.tanh(y @ params), x)

    small = costs.latency(power, jnp.eye(8), jnp.ones((8, 8)), repeats=5)
    large = costs.latency(power, jnp.eye(512), jnp.ones((512, 512)), repeats=5)
    assert 0 < small < large
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        costs.latency(power, jnp.eye(8), jnp.ones((8, 8)), repeats=0)
