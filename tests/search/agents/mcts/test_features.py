"""The seven features, by hand."""

import jax.numpy as jnp
import numpy as np

from jaxprune.search.agents.mcts.features import features, savings
from jaxprune.search.envs.filterwise import Rules


def product_cost(mask):
    """Two layers of 2 and 4 filters: MACs of a layer between them, 8 for the dense network."""
    return mask[:2].sum() * mask[2:].sum() / 8


RULES = Rules(product_cost, budget=0.25, sizes=(2, 4))
IMPORTANCE = jnp.array([3.0, 1.0, 1.0, 2.0, 4.0, 3.0])


def test_dense_network() -> None:
    found = features(RULES, IMPORTANCE, jnp.ones(6, jnp.uint8))
    assert found.shape == (6, 7)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found[:, 0], 1)  # kept
    np.testing.assert_allclose(found[:, 1], [1, 0, 0, 1 / 3, 1, 2 / 3])  # rank
    np.testing.assert_allclose(found[:, 2], [1, 1 / 3, 1 / 4, 1 / 2, 1, 3 / 4])  # importance
    np.testing.assert_allclose(found[:, 3], 1)  # fraction of the group
    # From 8 to 4 or to 6, of the 6 that must go.
    np.testing.assert_allclose(found[:, 4], [4 / 6, 4 / 6, 2 / 6, 2 / 6, 2 / 6, 2 / 6], rtol=1e-6)
    np.testing.assert_allclose(found[:, 5], [0, 0, 1, 1, 1, 1])  # depth
    np.testing.assert_allclose(found[:, 6], 1)  # remaining


def test_half_way() -> None:
    found = features(RULES, IMPORTANCE, jnp.array([1, 1, 0, 1, 1, 0], jnp.uint8))
    np.testing.assert_allclose(found[:, 0], [1, 1, 0, 1, 1, 0])
    np.testing.assert_allclose(found[:, 3], [1, 1, 0.5, 0.5, 0.5, 0.5])
    # The cost is 4 of 8, 2 must go: a filter of either group saves 2.
    np.testing.assert_allclose(found[:, 4], [1, 1, 0, 1, 1, 0])
    np.testing.assert_allclose(found[:, 6], 2 / 6, rtol=1e-6)


def test_all_features_lie_between_0_and_1_even_for_odd_importances() -> None:
    rng = np.random.default_rng(0)
    for importance in (jnp.zeros(6), jnp.full(6, 1e6), IMPORTANCE):
        for _ in range(20):
            mask = jnp.asarray(rng.integers(0, 2, 6), jnp.uint8)
            found = np.asarray(features(RULES, importance, mask))
            assert np.isfinite(found).all()
            assert found.min() >= 0
            assert found.max() <= 1


def test_savings_of_a_group_with_nothing_left_are_zero() -> None:
    np.testing.assert_allclose(savings(RULES, jnp.array([1, 1, 0, 0, 0, 0], jnp.uint8)), 0)
