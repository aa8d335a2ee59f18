"""`python -m jaxprune.run` with the methods that train a network to be sparse."""

import json

import pytest

import jaxprune
from commands.run.runs import lasting, read
from jaxprune.commands.run import main
from jaxprune.training import data

LONGER = [pytest.param(name, marks=pytest.mark.slow) for name in ("autoprune", "group_lasso")]
TINY = [
    *("--model", "lenet300", "--search-examples", "64", "--examples", "200", "--prune-inputs"),
    *("--cost", "neurons", "--budget", "0.4"),
    *("--pretrain-epochs", "2", "--finetune-epochs", "1", "--search.epochs", "3"),
    *("--semifinal-steps", "2"),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return ["--cache-dir", str(tmp_path_factory.mktemp("cache"))]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["l0", "autoprune", "group_lasso", "cges", "barrier", "admm"])
def test_a_run_meets_its_budget_and_the_network_loads(method, cache, tmp_path):
    out = tmp_path / "run"
    assert main(["--method", method, *TINY, *cache, "--out", str(out)]) == 0
    result = read(out / "result.json")
    assert result["method"] == method
    assert result["feasible"]
    assert result["dense"]["neurons"] == 64 + 300 + 100
    assert result["pruned"]["neurons"] <= 0.4 * 464
    assert result["pruned"]["neurons"] == sum(result["pruned"]["widths"].values())
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line["phase"] == "search"]
    assert [line["iteration"] for line in epochs] == [1, 2, 3]
    assert all(line["strength"] > 0 for line in epochs)

    network = jaxprune.load(out)
    images = data.load("digits").test.images[:5]
    logits = network(network.params, images.reshape(5, -1) / 16.0)
    assert logits.shape == (5, 10)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_result(cache, tmp_path):
    results = []
    for name in ("one", "two"):
        out = tmp_path / name
        assert main(["--method", "l0", *TINY, *cache, "--out", str(out)]) == 0
        results.append(lasting(read(out / "result.json")))
    assert results[0] == results[1]


def test_a_measured_cost_is_refused(cache, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["--method", "cges", "--cost", "latency", "--budget", "0.5", *cache]
    assert main([*words, "--out", str(out)]) == 2
    assert "--method cges needs a cost that is known before" in capsys.readouterr().err
    assert not out.exists()
