"""After its first iteration a search compiles nothing any more."""

import datetime

import jax
import pytest

from jaxprune.commands import config
from jaxprune.commands.run import job as jobs
from jaxprune.search import methods
from marks import slow_if_in

compiled: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **__: (
        compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
)

AGENT = {"iterations": 5, "episodes": 4}
SEARCHES = {
    "mcts": {"iterations": 4, "games": 2, "simulations": 2, "width": 2, "learning_steps": 2},
    "crl": AGENT,
    "acnn": {**AGENT, "warmup": 4},
    "amc": {**AGENT, "warmup": 4},
    "cacp": {**AGENT, "warmup": 4},
    "magnitude": {},
    "random": {"candidates": 40, "batch": 8},
    "sensitivity": {"iterations": 3, "points": 4},
    "knapsack": {"iterations": 3, "points": 4},
    "evolution": {"candidates": 50, "batch": 8, "points": 4},
    **{
        name: {"epochs": 5}
        for name in ("l0", "autoprune", "group_lasso", "cges", "barrier", "admm")
    },
}


def test_all_methods_are_tested():
    assert set(SEARCHES) == set(methods.NAMES)


@pytest.fixture(scope="module")
def problem():
    settings = config.RunConfig(
        method="magnitude", model="lenet300", cost=("neurons",), budget=("0.6",), examples=128,
        search_examples=64,
    )  # fmt: skip
    resolved = config.resolve(settings, datetime.datetime(2026, 1, 1))
    method = methods.get("magnitude")
    job = jobs.prepare(resolved, method.Config(), method)
    return jobs.pose(job, job.network.init(jax.random.PRNGKey(0)), {})


@pytest.mark.parametrize("method", slow_if_in(("acnn", "amc", "cacp"), SEARCHES))
def test_nothing_is_compiled_after_the_first_iteration(method, problem):
    module = methods.get(method)
    counts = []
    module.search(
        module.Config(**SEARCHES[method]),
        problem,
        jax.random.PRNGKey(0),
        progress=lambda state, metrics: counts.append((metrics["iteration"], len(compiled))),
    )
    assert counts
    later = [count for iteration, count in counts if iteration > counts[0][0]]
    assert all(count == counts[0][1] for count in later), counts
