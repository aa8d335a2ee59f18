"""Evolution of widths."""

import itertools

import jax
import numpy as np
import pytest

from jaxprune.search.baselines import evolution, widths

KEY = jax.random.PRNGKey(5)


def accuracy(mask):
    """Best at the widths (6, 2, 3) among those of half of the channels."""
    parts = mask[:6].sum() - 6, mask[6:12].sum() - 2, mask[12:].sum() - 3
    return 1 - sum(part**2 for part in parts) / 100


def test_it_finds_the_best_of_all_widths(known_problem) -> None:
    problem = known_problem((6, 6, 8), 11 / 20, accuracy)
    space = widths.space(problem)
    every = np.array(list(itertools.product(range(1, 7), range(1, 7), range(1, 9))))
    within = every[every.sum(1) <= 11]
    assert len(within) == 144
    config = evolution.Config(candidates=80, batch=8, population=16, sample=4, points=0)
    found = evolution.search(config, problem, KEY)
    np.testing.assert_array_equal(widths.of_masks(space, [found.mask])[0], [6, 2, 3])
    assert len(found.archive.cost) == 80
    assert (found.archive.cost <= problem.budget).all()
    assert (widths.of_masks(space, found.archive.masks).sum(1) == 11).all()


def test_the_oldest_leave_and_those_above_the_budget_never_belong(known_problem) -> None:
    problem = known_problem((6, 6, 8), 11 / 20, accuracy)
    config = evolution.Config(candidates=60, batch=8, population=12, sample=4, points=3)
    found = evolution.search(config, problem, KEY)
    # The curves are scored at the widths 1, 3, 6 of six and 1, 4, 8 of eight channels.
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(found.archive.validation)), np.arange(9))
    population = evolution.members(config, problem, found.archive)
    np.testing.assert_array_equal(population, np.arange(len(found.archive.cost))[-12:])


def test_the_seed_decides(known_problem) -> None:
    problem = known_problem((6, 6, 8), 11 / 20, accuracy)
    config = evolution.Config(candidates=48, batch=8, population=16, sample=4)
    first, again, other = (
        evolution.search(config, problem, jax.random.PRNGKey(seed)).archive.masks
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_space_that_is_used_up_does_not_hang(known_problem) -> None:
    problem = known_problem((2, 2), 0.75)
    config = evolution.Config(candidates=24, batch=8, population=8, sample=2)
    found = evolution.search(config, problem, KEY)
    assert len(found.archive.cost) >= 24
    assert found.archive.cost[found.archive.cost <= 0.75].max() == 0.75


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="points must not be negative, not -1"):
        evolution.Config(points=-1)
    with pytest.raises(ValueError, match="sample must be at least 1, not 0"):
        evolution.Config(sample=0)
