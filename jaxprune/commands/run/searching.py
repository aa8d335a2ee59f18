"""The search of a run or of one of its rounds, kept between its iterations."""

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxprune.commands.run import forecast, measuring
from jaxprune.commands.run.display import Display
from jaxprune.commands.run.job import Job
from jaxprune.files.run_folder import RunFolder
from jaxprune.search.baselines import candidates
from jaxprune.search.problem import Archive, Problem


def search(job: Job, problem: Problem, folder: RunFolder, display: Display) -> dict[str, Any]:
    """The answer: {"mask", "archive", "episodes", "seconds"}, of numpy arrays.

    Where the search trained the network itself, its weights are the entry "variables".
    """
    display.begin("search", _planned(job.search))
    if folder.has("answer"):
        answer: dict[str, Any] = folder.load("answer")
        display.end(_found(problem, Archive(**answer["archive"]), float(answer["seconds"])))
        return answer

    state, seconds = None, 0.0
    if folder.has("search"):
        first = job.method.init(job.search, problem, job.key("search"))
        kept = folder.load("search", like={"state": first, "seconds": 0.0})
        state, seconds = kept["state"], float(kept["seconds"])
    clock, seldom = _Clock(seconds), _Seldom()
    longest = getattr(job.search, "seconds", None)
    pace = forecast.Pace(_planned(job.search), longest, clock.seconds, display.say)
    since: list[float] = []  # seconds after which there were results; most compiles come first

    def keep(state: Any) -> None:
        folder.save("search", {"state": state, "seconds": clock.seconds()})

    def progress(state: Any, metrics: dict[str, Any]) -> None:
        folder.log("search", int(metrics["iteration"]), metrics)
        if not since:
            since.append(clock.seconds())
        if problem.traceable:
            seldom(functools.partial(keep, state))
        else:  # what was measured would not be measured alike again
            keep(state)
            folder.save_json("known_costs", measuring.known_costs(problem))
        done = metrics["candidates"] if hasattr(job.search, "candidates") else metrics["iteration"]
        pace.round(done, metrics["iteration"])
        display.step(
            done,
            f"{_so_far(metrics['best_accuracy'])}, "
            f"{metrics['candidates'] / clock.seconds():.2g} candidates/s, "
            f"iteration {metrics['iteration']}, episode {metrics['episodes']}",
        )

    found = job.method.search(
        job.search, problem, job.key("search"), state=state, progress=progress
    )
    answer = {
        "mask": np.asarray(found.mask, np.uint8),
        "archive": found.archive._asdict(),
        "episodes": np.int64(found.episodes),
        "seconds": np.float64(clock.seconds()),
    }
    if pace.estimate is not None:
        answer["forecast"] = np.float64(pace.estimate)
    if found.variables is not None:
        answer["variables"] = found.variables
    folder.save("answer", answer)
    begun = f", the first after {since[0] - seconds:.1f} s" if since else ""
    display.end(_found(problem, found.archive, clock.seconds()) + begun)
    return answer


def _so_far(best_accuracy: float) -> str:
    """The best validation accuracy of a network that meets the budget; 0 where there is none."""
    return f"best {best_accuracy:.2%} in budget" if best_accuracy else "none in budget yet"


class _Clock:
    """Seconds of work on a phase, those before an interruption included."""

    def __init__(self, before: float):
        self._before = before
        self._start = time.monotonic()

    def seconds(self) -> float:
        return self._before + time.monotonic() - self._start


class _Seldom:
    """Does something so seldom that it takes no more than about a tenth of the time."""

    def __init__(self) -> None:
        self._next = time.monotonic()

    def __call__(self, action: Callable[[], None]) -> None:
        start = time.monotonic()
        if start >= self._next:
            action()
            end = time.monotonic()
            self._next = end + 9 * (end - start)


def _planned(search: Any) -> int | None:
    """How many iterations or candidates a method plans, where its settings say so."""
    names = ("candidates", "iterations", "epochs")
    return next((getattr(search, name) for name in names if hasattr(search, name)), None)


def _found(problem: Problem, archive: Archive, seconds: float) -> str:
    best = candidates.best_validation(archive, problem.budget)
    return f"{_so_far(best)}, {len(archive.cost)} candidates in {seconds:.1f} s"
