"""What is said before a search: what each cost can come to, and how long it will take."""

import pytest

from jaxprune.commands.run.forecast import Pace, text
from jaxprune.costs.outlook import Outlook


def shown(rows):
    return [line.split() for line in text(rows).splitlines() if line.strip(" ─")]


def test_the_table_has_amounts_and_parts_of_the_dense_network():
    rows = [
        Outlook("macs", "multiply-adds", 378496, 89158, 874, 94623.6),
        Outlook("neurons", "neurons", 112, 54, 3, None),
    ]
    assert shown(rows) == [
        ["cost", "dense", "uniform", "least", "budget"],
        ["multiply-adds", "378,496", "89,158", "23.6%", "874", "0.2%", "94,624", "25.0%"],
        ["neurons", "112", "54", "48.2%", "3", "2.7%"],
    ]


def test_what_is_not_known_is_left_out_and_measured_costs_have_their_unit():
    assert shown([Outlook("latency", "ms", 0.8125, None, 0.1, 0.4)]) == [
        ["cost", "dense", "least", "budget"],
        ["latency", "(ms)", "0.8125", "0.1", "12.3%", "0.4", "49.2%"],
    ]


class Rounds:
    """A search whose rounds take known times."""

    def __init__(self, planned, limit=None, before=0.0):
        self.now, self.lines = before, []
        self.pace = Pace(planned, limit, lambda: self.now, self.lines.append)

    def round(self, seconds, done, iteration):
        self.now += seconds
        self.pace.round(done, iteration)
        return self.pace.estimate


def test_the_first_round_gives_a_bound_and_the_second_an_estimate():
    search = Rounds(planned=10)
    assert search.round(20, 1, 1) == 200
    assert search.round(5, 2, 2) == 25 + 8 * 5
    assert search.round(100, 3, 3) == 65  # of the first two alone
    assert search.lines == [
        "search: the first round took 20.0 s, compiling included; at most about 3 min 20 s in all",
        "search: the second round took 5.0 s; about 1 min 5 s in all",
    ]


def test_candidates_are_counted_by_what_a_round_has():
    search = Rounds(planned=64)  # eight in a round
    assert search.round(2, 8, 1) == 16
    assert search.round(2, 16, 2) == 16
    assert len(search.lines) == 1  # nothing new to say


def test_a_search_that_goes_on_counts_what_it_took_before():
    search = Rounds(planned=10, before=30.0)
    assert search.round(4, 7, 7) == 34 + 3 * 4


@pytest.mark.parametrize(("planned", "limit", "expected"), [(None, None, None), (10, 15.0, 15.0)])
def test_without_a_plan_nothing_is_said_and_a_time_limit_holds(planned, limit, expected):
    search = Rounds(planned, limit)
    assert search.round(3, 1, 1) == expected
    assert len(search.lines) == (planned is not None)
