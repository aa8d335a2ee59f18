"""Random pruning."""

import jax
import numpy as np
import pytest
import scipy.stats

from jaxprune.files import checkpoint
from jaxprune.search.baselines import random, random_mask

KEY = jax.random.PRNGKey(3)


def test_the_budget_is_met_and_one_filter_more_would_break_it(known_problem) -> None:
    problem = known_problem((4, 6), budget=0.55)
    for seed in range(20):
        mask = np.asarray(random_mask(problem, jax.random.PRNGKey(seed)))
        assert mask.sum() == 5  # of ten filters of equal cost, 0.55 allows five
        assert mask[:4].sum() >= 1
        assert mask[4:].sum() >= 1


def test_all_filters_are_equally_likely_to_go(known_problem) -> None:
    problem = known_problem((5, 5), budget=0.91)
    gone = np.zeros(10)
    for seed in range(400):
        gone += 1 - np.asarray(random_mask(problem, jax.random.PRNGKey(seed)))
    assert gone.sum() == 400
    assert scipy.stats.chisquare(gone).pvalue > 1e-3


def test_search_returns_the_best_of_exactly_as_many_candidates(known_problem) -> None:
    problem = known_problem((4, 4), 0.5, lambda mask: (mask * np.arange(8)).sum() / 28)
    config = random.Config(candidates=20, batch=8)
    seen = []
    result = random.search(config, problem, KEY, progress=lambda _, metrics: seen.append(metrics))
    assert [metrics["candidates"] for metrics in seen] == [8, 16, 20]
    scores = result.archive.masks @ np.arange(8) / 28
    np.testing.assert_allclose(result.archive.validation, scores, rtol=1e-6)
    np.testing.assert_array_equal(result.mask, result.archive.masks[scores.argmax()])
    assert len(np.unique(result.archive.masks, axis=0)) > 10


def test_resuming_from_a_checkpoint_continues_bit_for_bit(known_problem, tmp_path) -> None:
    problem = known_problem((4, 4), 0.5, lambda mask: (mask * np.arange(8)).sum() / 28)
    config = random.Config(candidates=20, batch=8)
    whole = random.search(config, problem, KEY)
    state, _ = random.update(config, problem, random.init(config, problem, KEY))
    checkpoint.save(tmp_path / "state", state)
    state = checkpoint.load(tmp_path / "state", like=random.init(config, problem, KEY))
    resumed = random.search(config, problem, jax.random.PRNGKey(99), state=state)
    for expected, found in zip(whole.archive, resumed.archive, strict=True):
        np.testing.assert_array_equal(expected, found)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="candidates must be at least 1, not 0"):
        random.Config(candidates=0)
