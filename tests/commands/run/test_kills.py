"""Runs of every method, killed at random moments: each ends like one that was left alone."""

import random
import time

import pytest

from commands.run.runs import assert_alike, start
from jaxprune.search import methods

KILLS = 5
"""Of each method's run: 70 in all."""

RUN = [
    *("--model", "lenet300", "--cost", "neurons", "--budget", "0.6", "--search-examples", "64"),
    *("--pretrain-epochs", "6", "--finetune-epochs", "3", "--examples", "400"),
    *("--semifinalists", "3", "--semifinal-steps", "4", "--finalists", "2"),
]
AGENT = ["--search.iterations", "12", "--search.episodes", "4"]
SEARCHES = {
    "mcts": [
        *("--search.iterations", "6", "--search.games", "2", "--search.simulations", "2"),
        *("--search.width", "2", "--search.learning-steps", "2", "--search.queue-length", "64"),
    ],
    "crl": AGENT,
    "acnn": [*AGENT, "--search.warmup", "8"],
    "amc": [*AGENT, "--search.warmup", "8"],
    "cacp": [*AGENT, "--search.warmup", "8"],
    "magnitude": [],
    "random": ["--search.candidates", "64", "--search.batch", "8"],
    "sensitivity": [],
    "knapsack": [],
    "evolution": [],
    **{
        name: ["--search.epochs", "8"]
        for name in ("l0", "autoprune", "group_lasso", "cges", "barrier", "admm")
    },
}


def whole(words):
    """Seconds of a run that is left alone."""
    begun = time.monotonic()
    process = start(words)
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    return time.monotonic() - begun


@pytest.mark.slow
@pytest.mark.parametrize("method", methods.NAMES)
def test_killed_again_and_again(method, tmp_path):
    first = ["--method", method, *RUN, *SEARCHES[method]]

    def command(folder):
        places = ["--out", str(folder), "--cache-dir", str(folder.with_suffix(".cache"))]
        return ["--resume", *places] if (folder / "config.json").exists() else [*first, *places]

    alone, folder = tmp_path / "alone", tmp_path / "killed0"
    whole(command(tmp_path / "warm"))  # compiles
    lasts = whole(command(alone))
    idle = whole(command(alone))  # what a run takes that finds nothing to do
    moments, kills = random.Random(method), 0
    while kills < KILLS:
        process = start(command(folder))
        time.sleep(idle + moments.uniform(-0.2, 0.4) * max(lasts - idle, 2.0))
        if process.poll() is None:
            process.kill()
            process.communicate()
            kills += 1
        else:  # done before it could be killed: once more from the beginning
            assert process.returncode == 0, process.stderr.read()
            assert_alike(folder, alone)
            folder = tmp_path / f"killed{kills}"
    whole(command(folder))
    assert_alike(folder, alone)
