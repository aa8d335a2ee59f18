"""ACNN, AMC and CACP by the command."""

import functools
import json

import pytest

from commands.run.runs import lasting, read
from jaxprune.commands.run import main
from jaxprune.search.agents.ddpg import agent

TINY = [
    *("--model", "lenet300", "--search-examples", "64", "--prune-inputs"),
    *("--pretrain-epochs", "2", "--finetune-epochs", "0", "--finalists", "1"),
    *("--semifinal-steps", "4"),
    *("--search.iterations", "3", "--search.episodes", "4", "--search.validated", "2"),
    *("--search.warmup", "4", "--search.hidden", "16", "16"),
]
BUDGETS = {
    "acnn": ("--cost", "neurons", "--budget", "0.4"),
    "amc": ("--cost", "params", "macs", "--budget", "50%", "40%"),
    "cacp": ("--budget", "0.4"),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return ["--cache-dir", str(tmp_path_factory.mktemp("cache"))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """The folder of a finished run of each method."""

    @functools.cache
    def run(method):
        out = tmp_path_factory.mktemp("runs") / method
        words = ["--method", method, *TINY, *BUDGETS[method], *cache]
        assert main([*words, "--out", str(out)]) == 0
        return out

    return run


def metrics_of(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["phase"] == "search"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["acnn", "amc", "cacp"])
def test_every_method_ends_in_a_small_network(method, finished):
    out = finished(method)
    result = read(out / "result.json")
    assert result["method"] == method
    assert result["feasible"]
    for budget in result["budgets"]:
        assert budget["pruned"] <= budget["limit"] * budget["dense"]
    assert (result["search"]["episodes"], result["search"]["candidates"]) == (12, 15)
    search = metrics_of(out)
    assert [line["step"] for line in search] == [1, 2, 3]
    assert all(len(line["cost"]) == len(line["limit"]) for line in search)
    assert all(len(line["action"]) == 3 for line in search)  # pixels are a group of their own
    assert search[0]["critic_loss"] == 0 < search[-1]["critic_loss"]


@pytest.mark.slow
def test_an_interrupted_run_ends_like_one_that_was_not(finished, cache, tmp_path, monkeypatch):
    update, out = agent.update, tmp_path / "run"

    def interrupted(config, problem, state):
        if int(state.iteration) == 2:
            raise KeyboardInterrupt
        return update(config, problem, state)

    words = ["--method", "acnn", *TINY, *BUDGETS["acnn"], *cache, "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(agent, "update", interrupted)
        assert main(words) == 130
    assert main(["--resume", *cache, "--out", str(out)]) == 0
    assert lasting(read(out / "result.json")) == lasting(read(finished("acnn") / "result.json"))
    assert metrics_of(out) == metrics_of(finished("acnn"))


def test_a_cost_that_must_be_measured_is_refused(capsys):
    assert main(["--method", "acnn", "--cost", "latency"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--method acnn needs a cost that is known before it is measured" in line
    assert "--method crl takes any" in line
