"""What may remain after each round."""

import numpy as np
import pytest

from jaxprune import costs
from jaxprune.errors import UserError


def test_schedules_are_those_of_the_field():
    np.testing.assert_allclose(costs.shares(0.0625, 4), [0.5, 0.25, 0.125, 0.0625])
    np.testing.assert_allclose(costs.shares(0.2, 4, "linear"), [0.8, 0.6, 0.4, 0.2])
    # Zhu and Gupta: sparsity s (1 - (1 - t)^3), s = 0.8, t = 1/4, 1/2, 3/4, 1
    sparsity = 0.8 * (1 - np.array([0.75, 0.5, 0.25, 0.0]) ** 3)
    np.testing.assert_allclose(costs.shares(0.2, 4, "cubic"), 1 - sparsity)


@pytest.mark.parametrize("schedule", costs.SCHEDULES)
@pytest.mark.parametrize("rounds", [1, 3, 10])
def test_every_schedule_falls_to_the_limit_itself(schedule, rounds):
    found = costs.shares(0.3, rounds, schedule)
    assert len(found) == rounds
    assert found[-1] == 0.3
    assert (np.diff([1.0, *found]) < 0).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((0.5, 0), "rounds 0 .*at least 1"),
        ((0.0, 2), r"limit 0 is outside \(0, 1\]"),
        ((0.5, 2, "slow"), "unknown schedule 'slow'; .*geometric, linear, cubic"),
    ],
)
def test_impossible_schedules_are_refused(arguments, says):
    with pytest.raises(UserError, match=says):
        costs.shares(*arguments)
