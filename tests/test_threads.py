"""Jobs in threads."""

import threading

import pytest

from jaxprune import devices, threads


@pytest.mark.parametrize("cores", [1, 3])
def test_results_come_in_the_order_of_the_jobs(monkeypatch, cores):
    monkeypatch.setattr(devices, "cores", lambda: cores)
    assert threads.each(lambda job: 2 * job, range(50)) == list(range(0, 100, 2))
    assert threads.each(str, []) == []


def test_as_many_jobs_run_at_once_as_there_are_cores(monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: 3)
    together = threading.Barrier(3)  # breaks unless three wait at once
    assert len(set(threads.each(lambda _: together.wait(timeout=20), range(3)))) == 3


def test_one_core_uses_no_thread(monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: 1)
    here = threading.get_ident()
    assert set(threads.each(lambda _: threading.get_ident(), range(4))) == {here}


def test_an_error_reaches_the_caller(monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        threads.each(lambda job: 1 / job, [1, 0, 2])
