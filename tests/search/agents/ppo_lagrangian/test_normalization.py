"""Running statistics against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.search.agents.ppo_lagrangian import normalization


def test_batches_of_several_sizes_are_as_one() -> None:
    generator = np.random.default_rng(0)
    batches = [generator.normal(3.0, [0.5, 2.0, 100.0], (n, 3)) for n in (1, 4, 7, 500)]
    statistics = normalization.init((3,))
    for batch in batches:
        statistics = normalization.update(statistics, jnp.asarray(batch, jnp.float32))
    together = np.concatenate(batches)
    assert statistics.count == 512
    np.testing.assert_allclose(statistics.mean, together.mean(0), rtol=1e-5)
    np.testing.assert_allclose(normalization.deviation(statistics), together.std(0), rtol=1e-5)
    np.testing.assert_allclose(
        normalization.normalize(statistics, together[:2].astype(np.float32)),
        ((together - together.mean(0)) / together.std(0))[:2],
        rtol=1e-4,
        atol=1e-5,
    )


def test_two_batches_by_hand() -> None:
    # 1, 3 have mean 2 and m2 2; with 8 the mean is 4 and m2 is 9 + 1 + 16 = 26.
    statistics = normalization.update(normalization.init(()), jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(statistics, (2.0, 2.0, 2.0))
    statistics = normalization.update(statistics, jnp.array([8.0]))
    np.testing.assert_allclose(statistics, (3.0, 4.0, 26.0), rtol=1e-6)
    assert normalization.normalize(statistics, 8.0) == pytest.approx(4 / np.sqrt(26 / 3))


def test_a_small_spread_about_a_large_mean_is_not_lost() -> None:
    # The sum of squares less the square of the sum would lose it: 1e8 has steps of 8 in float32.
    values = 1e4 + np.random.default_rng(1).normal(0, 1, 1000).astype(np.float32)
    statistics = normalization.init(())
    for batch in np.split(values, 10):
        statistics = normalization.update(statistics, jnp.asarray(batch))
    spread = values.astype(np.float64).std()
    assert normalization.deviation(statistics) == pytest.approx(spread, rel=1e-3)


def test_axes_before_the_shape_are_the_batch() -> None:
    batch = jax.random.normal(jax.random.PRNGKey(0), (4, 5, 2))
    nested = normalization.update(normalization.init((2,)), batch)
    flat = normalization.update(normalization.init((2,)), batch.reshape(20, 2))
    assert nested.count == 20
    np.testing.assert_allclose(nested.m2, flat.m2, rtol=1e-5)


def test_before_the_first_batch_nothing_changes() -> None:
    x = jnp.array([3.0, -2.0])
    np.testing.assert_array_equal(normalization.normalize(normalization.init((2,)), x), x)


@pytest.mark.parametrize("constant", [0.0, 0.1, -7.3, 512.0])
def test_a_constant_component_is_zero_and_not_amplified_rounding(constant: float) -> None:
    statistics = normalization.init((1,))
    for n in (3, 7, 11):
        statistics = normalization.update(statistics, jnp.full((n, 1), constant))
    assert normalization.deviation(statistics) == 1.0
    x = normalization.normalize(statistics, jnp.array([constant]))
    assert abs(float(x[0])) <= 1e-6 * max(1.0, abs(constant))


@pytest.mark.parametrize("shape", [(5, 2), (2,), (0, 3)])
def test_a_batch_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a batch of vectors of shape \(3,\) cannot have shape"):
        normalization.update(normalization.init((3,)), jnp.ones(shape))
