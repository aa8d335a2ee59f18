"""The loop of a search: how often it updates, what it reports, and when it ends."""

import itertools
import time

from jaxprune.search import rounds


def count(state):
    return state + 1, {"half": state / 2}


def test_updates_until_finished_and_reports_each():
    seen = []
    last = rounds.play(
        count, lambda state: state >= 5, 2, progress=lambda *reported: seen.append(reported)
    )
    assert last == 5
    assert seen == [(3, {"half": 1.0}), (4, {"half": 1.5}), (5, {"half": 2.0})]


def test_a_finished_state_is_not_updated():
    assert rounds.play(count, lambda state: state >= 5, 7) == 7


def test_time_ends_it_after_the_update_that_passes_it(monkeypatch):
    clock = itertools.count(0.0, 10.0)  # each look at the clock finds ten seconds gone
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    assert rounds.play(count, lambda state: False, 0, seconds=25.0) == 3
