"""Parts of a run that the command's tests do not see by themselves."""

import itertools

import pytest

from jaxprune.commands.run import searching


@pytest.mark.parametrize(("keeping", "round_takes"), [(0.2, 0.05), (0.2, 10.0), (3.0, 1.0)])
def test_keeping_the_search_takes_a_tenth_of_its_time_at_most(monkeypatch, keeping, round_takes):
    clock = [100.0]
    monkeypatch.setattr(searching.time, "monotonic", lambda: clock[0])
    seldom, kept = searching._Seldom(), []

    def keep():
        kept.append(clock[0])
        clock[0] += keeping

    rounds = 1000
    for _ in range(rounds):
        clock[0] += round_takes
        seldom(keep)
    assert kept[0] == 100.0 + round_takes  # what the first round made is kept at once
    spent = len(kept) * keeping
    assert spent <= 0.1 * (clock[0] - 100.0) + keeping
    # Nothing is lost by waiting longer than that: at most nine times as long as keeping takes.
    gaps = [later - earlier for earlier, later in itertools.pairwise(kept)]
    assert max(gaps) <= 10 * keeping + 2 * round_takes
    assert len(kept) == rounds or spent >= 0.05 * (clock[0] - 100.0)
