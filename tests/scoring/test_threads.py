"""Jobs in threads."""

import threading
import time

import pytest

from jaxprune.scoring import devices, threads


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


def test_a_job_that_fails_ends_the_others(monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: 2)
    begun, ended = threading.Event(), []

    def job(number):
        if number == 0:
            begun.wait(timeout=20)
            raise KeyError(number)
        begun.set()
        for _ in range(4000):
            threads.go_on()
            time.sleep(0.005)
        ended.append(number)

    with pytest.raises(KeyError):
        threads.each(job, range(6))
    assert not ended
    threads.go_on()  # nothing is abandoned any more
    assert threads.each(lambda _: threads.go_on(), range(3)) == [None] * 3
