"""Criteria by name, and what they need."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import UserError, importance


def score(case, criterion, **options):
    return importance.score(
        criterion, case.structure, case.apply, case.variables, case.x, **options
    )


def mean_square(outputs):
    return (outputs**2).mean()


@pytest.mark.parametrize("name", importance.NAMES)
def test_every_criterion_scores_every_channel(residual, name):
    scores = score(residual, name, loss=mean_square, key=jax.random.key(0))
    assert scores.shape == (15,)
    assert scores.dtype == jnp.float32
    assert (np.asarray(scores) >= 0).all()
    assert len(np.unique(scores)) > 10


def test_names_stand_for_the_functions(residual):
    assert importance.get("fpgm") is importance.fpgm
    np.testing.assert_array_equal(
        score(residual, "l2"), importance.l2(residual.structure, residual.variables)
    )
    key = jax.random.key(5)
    np.testing.assert_array_equal(
        score(residual, "random", key=key), importance.random(residual.structure, key)
    )


def test_gradients_take_the_place_of_a_loss(residual):
    gradient = jax.jit(jax.grad(lambda v: mean_square(residual.apply(v, residual.x))))
    gradients = gradient(residual.variables)
    np.testing.assert_allclose(
        score(residual, "taylor", gradients=gradients),
        score(residual, "taylor", loss=mean_square),
        rtol=1e-5,
    )


def test_a_function_of_ones_own(residual):
    scores = score(residual, lambda structure, params: -np.arange(structure.num_channels))
    np.testing.assert_array_equal(scores, -np.arange(15.0))


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        ("L1", "unknown importance 'L1'; the criteria are: l1, l2, batch_norm_scale, fpgm, lamp"),
        ("random", r"'random' needs key=jax\.random\.key"),
        ("taylor", r"'taylor' needs loss=\.\.\. or gradients"),
        ("taylor_activation", r"'taylor_activation' needs loss"),
        ("snip", r"'snip' needs loss=\.\.\. or gradients"),
        ("grasp", r"'grasp' needs loss"),
        ("obd", r"'obd' needs loss"),
        (lambda structure, params: np.ones(3), r"shape \(3,\) instead of \(15,\)"),
        (lambda structure, params: np.r_[np.ones(6), np.nan, np.ones(8)], "'conv2' is not finite"),
    ],
)
def test_what_is_refused(residual, criterion, message):
    with pytest.raises(UserError, match=message):
        score(residual, criterion)
