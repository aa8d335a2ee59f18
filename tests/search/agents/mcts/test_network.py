"""Table 1 of the supplement."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.search.agents.mcts.network import (
    Convolution,
    PolicyValueNetwork,
    choose_head,
    initial_variables,
    padded,
)

KEY = jax.random.PRNGKey(0)


def shapes(network: PolicyValueNetwork, num_filters: int) -> dict:
    example = jnp.zeros((1, num_filters, 7))
    return jax.eval_shape(network.init, KEY, example)["params"]


def count(params: dict) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def test_table_1_parameter_for_parameter() -> None:
    # Every row of the table at N = 70, padded to 96: inputs, outputs, kernel of 3.
    rows = {
        "conv1_1": (7, 64),
        "conv1_2": (64, 64),
        "conv2_1": (64, 128),
        "conv2_2": (128, 128),
        "conv3_1": (128, 256),
        "conv3_2": (256, 256),
        "conv3_3": (256, 256),
        "conv4_1": (256, 512),
        "conv4_2": (512, 512),
        "conv4_3": (512, 512),
        "conv5_1": (512, 512),
        "conv5_2": (512, 512),
        "conv5_3": (512, 512),
    }
    params = shapes(PolicyValueNetwork(width=64, head="dense"), 70)
    assert set(params) == {*rows, "fc6_1", "fc6_2"}
    for name, (inputs, outputs) in rows.items():
        assert params[name]["kernel"].shape == (3, inputs, outputs)
        assert params[name]["bias"].shape == (outputs,)
    # Five pools leave 96 / 32 = 3 positions of 512 feature maps.
    assert params["fc6_1"]["kernel"].shape == (3 * 512, 96)
    assert params["fc6_2"]["kernel"].shape == (3 * 512, 1)
    # By hand: 3 * (sum of inputs * outputs) + outputs of the convolutions, then both heads.
    convolutions = 3 * 1_634_752 + 4_224
    assert count(params) == convolutions + (1536 * 96 + 96) + (1536 + 1) == 5_057_569


def test_the_matrix_product_is_the_convolution() -> None:
    x = jax.random.normal(KEY, (2, 9, 5))
    reference = nn.Conv(4, (3,))
    variables = reference.init(KEY, x)
    np.testing.assert_allclose(
        Convolution(4).apply(variables, x), reference.apply(variables, x), rtol=1e-5, atol=1e-5
    )


def test_the_printed_head_for_vgg16_has_285_million_weights() -> None:
    params = shapes(PolicyValueNetwork(width=64, head="dense"), 4224)
    assert params["fc6_1"]["kernel"].shape == (132 * 512, 4224)
    assert int(np.prod(params["fc6_1"]["kernel"].shape)) == 285_474_816


def test_the_per_filter_head_does_not_grow_with_the_filters() -> None:
    network = PolicyValueNetwork(width=64, head="per_filter")
    small, large = shapes(network, 64), shapes(network, 4224)
    assert count(small["filter_hidden"]) == count(large["filter_hidden"]) == (64 + 512) * 64 + 64
    assert "fc6_1" not in large


@pytest.mark.parametrize("head", ["dense", "per_filter"])
@pytest.mark.parametrize("num_filters", [1, 33])
def test_outputs(head: str, num_filters: int) -> None:
    network = PolicyValueNetwork(width=2, head=head)
    features = jax.random.normal(KEY, (3, num_filters, 7))
    # Both heads start at zero: random weights instead, so that the outputs say something.
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32),
        jax.eval_shape(network.init, KEY, features),
    )
    apply = jax.jit(network.apply)
    logits, values = apply(variables, features)
    assert logits.shape == (3, num_filters)
    assert values.shape == (3,)
    assert (np.abs(values) <= 1).all()
    assert np.isfinite(logits).all()
    # States of a batch do not see each other.
    changed, _ = apply(variables, features.at[0].set(0.0))
    np.testing.assert_array_equal(changed[1:], logits[1:])


def test_an_untrained_network_has_no_opinion() -> None:
    network = PolicyValueNetwork(width=4)
    features = jax.random.normal(KEY, (2, 40, 7))
    logits, values = jax.jit(network.apply)(initial_variables(network, 40, KEY), features)
    np.testing.assert_array_equal(logits, 0)
    np.testing.assert_array_equal(values, 0)


def test_padding_and_the_choice_of_head() -> None:
    assert [padded(n) for n in (1, 32, 33, 4224)] == [32, 32, 64, 4224]
    assert choose_head("auto", 1024) == "dense"
    assert choose_head("auto", 1025) == "per_filter"
    assert choose_head("dense", 4224) == "dense"


def test_initial_variables() -> None:
    network = PolicyValueNetwork(width=16)
    variables = initial_variables(network, 64, KEY)
    flax_own = jax.eval_shape(network.init, KEY, jnp.zeros((1, 64, 7)))
    assert jax.tree.map(lambda leaf: leaf.shape, variables) == jax.tree.map(
        lambda leaf: leaf.shape, flax_own
    )
    params = variables["params"]
    for name, inputs in (("conv2_2", 32), ("conv3_1", 32), ("conv5_3", 128)):
        # He's deviation for a kernel of 3 over that many inputs.
        assert np.std(params[name]["kernel"]) == pytest.approx(np.sqrt(2 / (3 * inputs)), rel=0.05)
        np.testing.assert_array_equal(params[name]["bias"], 0)
    np.testing.assert_array_equal(params["fc6_1"]["kernel"], 0)
    np.testing.assert_array_equal(params["fc6_2"]["kernel"], 0)
