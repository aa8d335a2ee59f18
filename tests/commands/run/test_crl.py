"""CRL by the command: budgets of every kind, settings, interruptions."""

import json
import signal

import jax
import numpy as np
import pytest

import jaxprune
from commands.run.runs import lasting, read, start, stop_when
from jaxprune import costs
from jaxprune.commands.run import main
from jaxprune.files import checkpoint

TINY = [
    *("--method", "crl", "--model", "lenet300", "--search-examples", "64"),
    *("--pretrain-epochs", "2", "--finetune-epochs", "1", "--finalists", "2"),
    *("--semifinal-steps", "4"),
    *("--search.iterations", "4", "--search.episodes", "4", "--search.validated", "2"),
    *("--search.epochs", "2"),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return ["--cache-dir", str(tmp_path_factory.mktemp("cache"))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    out = tmp_path_factory.mktemp("runs") / "crl"
    words = ["--cost", "params", "macs", "--budget", "60%", "0.5"]
    assert main([*TINY, *words, *cache, "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_several_budgets_are_met(finished):
    result = read(finished / "result.json")
    params, macs = result["budgets"]
    assert (params["cost"], params["limit"]) == ("params", pytest.approx(0.6))
    assert (macs["cost"], macs["limit"]) == ("macs", 0.5)
    for budget in (params, macs):
        assert budget["pruned"] == result["pruned"][budget["cost"]]
        assert budget["pruned"] <= budget["limit"] * budget["dense"]
        assert budget["met"]
    assert result["feasible"]
    for row in result["baselines"].values():
        assert row["macs"] <= 0.5 * macs["dense"]
        assert row["params"] <= 0.6 * params["dense"]
    assert jaxprune.load(finished).widths == result["pruned"]["widths"]


@pytest.mark.slow
def test_its_curves_are_kept_and_drawn(finished):
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    search = [line for line in lines if line["phase"] == "search"]
    assert [line["step"] for line in search] == [1, 2, 3, 4]
    assert [line["timesteps"] for line in search] == [8, 16, 24, 32]
    assert all(len(line["multiplier"]) == 2 for line in search)
    assert (finished / "figures" / "learning.png").exists()
    assert "figures/learning.png" in (finished / "report.md").read_text()


@pytest.mark.slow
def test_run_interrupted_and_killed_ends_like_one_that_was_not(finished, tmp_path):
    out = tmp_path / "run"
    places = ["--out", str(out), "--cache-dir", str(tmp_path / "cache")]
    words = [*TINY, "--cost", "params", "macs", "--budget", "60%", "0.5", *places]
    for milestone, how in (
        ("state/search/leaves.json", signal.SIGINT),
        ("state/answer/leaves.json", signal.SIGKILL),
    ):
        stop_when(process := start(words), out / milestone, how)
        assert process.returncode == (130 if how is signal.SIGINT else -signal.SIGKILL)
        words = ["--resume", *places]
    assert main(words) == 0
    assert lasting(read(out / "result.json")) == lasting(read(finished / "result.json"))
    assert (out / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_fine_masks_and_a_network_that_learns_with_its_policy(cache, tmp_path):
    out = tmp_path / "run"
    words = ["--strategy", "fine", "--online", "--budget", "0.6", "--search.online-steps", "8"]
    assert main([*TINY, *words, *cache, "--out", str(out)]) == 0
    settings = read(out / "config.json")["search"]
    assert (settings["strategy"], settings["online"]) == ("fine", True)
    result = read(out / "result.json")
    assert result["feasible"]
    # The small network comes from the weights that the search trained, not from the dense ones.
    answer = checkpoint.load(out / "state" / "answer")
    pretrained = checkpoint.load(out / "state" / "pretrained")
    trained = answer["variables"]["params"]["fc1"]["kernel"]
    assert trained.shape == pretrained["params"]["fc1"]["kernel"].shape
    assert np.abs(trained - pretrained["params"]["fc1"]["kernel"]).max() > 0.01


@pytest.mark.slow
def test_rewards_after_fine_tuning(cache, tmp_path):
    out = tmp_path / "run"
    words = ["--budget", "0.6", "--search.finetune-schedule", "0", "3", "--search.iterations", "2"]
    assert main([*TINY, *words, *cache, "--out", str(out)]) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line["finetune_steps"] for line in lines if line["phase"] == "search"]
    assert steps == [0, 3]


# ----------------------------------------------------------------------------------------- latency


def times_of_widths(fn, params, x, *, repeats=30):
    """A clock that follows the number of parameters: 0.1 ms for 10,000."""
    return 1e-5 * sum(np.size(leaf) for leaf in jax.tree.leaves(params["params"]))


def set_clock(monkeypatch, clock):
    """Has every latency told by a clock instead of measured."""
    monkeypatch.setattr(costs, "latency", clock)
    monkeypatch.setattr(
        costs,
        "latencies",
        lambda networks, x, *, repeats: [clock(fn, params, x) for fn, params in networks],
    )


@pytest.mark.slow
def test_a_latency_budget_is_kept(cache, tmp_path, monkeypatch, capsys):
    set_clock(monkeypatch, times_of_widths)
    out = tmp_path / "run"
    words = ["--cost", "latency", "--budget", "0.3ms", "--latency-margin", "0.2"]
    assert main([*TINY, *words, *cache, "--out", str(out)]) == 0
    assert "0.3 ms latency" in capsys.readouterr().out
    (budget,) = read(out / "result.json")["budgets"]
    dense = 1e-5 * (65 * 300 + 301 * 100 + 101 * 10)
    assert budget["dense"] == pytest.approx(dense)
    assert budget["pruned"] <= 0.24  # the margin is left free
    assert (budget["amount"], budget["limit"]) == (0.3, pytest.approx(0.3 / dense))
    assert budget["met"]
    assert (out / "state" / "known_costs.json").exists()
    assert "0.3 ms were allowed" in (out / "report.md").read_text()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    limits = [line["limit"] for line in lines if line["phase"] == "search"]
    np.testing.assert_allclose(limits, 0.24 / dense, rtol=1e-6)


@pytest.mark.slow
def test_a_clock_that_drifts_beyond_the_margin_never_gives_a_wrong_answer(
    cache, tmp_path, monkeypatch, capsys
):
    """After the search the machine is half as fast: nothing holds, and nothing is claimed."""
    out = tmp_path / "run"

    def slower_at_the_end(fn, params, x, *, repeats=30):
        slow = (out / "state" / "answer").exists()
        return times_of_widths(fn, params, x) * (2 if slow else 1)

    set_clock(monkeypatch, slower_at_the_end)
    words = ["--cost", "latency", "--budget", "0.3ms", "--search.initial-ratio", "0.4"]
    assert main([*TINY, *words, *cache, "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no network that the search found is within its budget" in line
    assert "--latency-margin" in line
    assert not (out / "result.json").exists()


@pytest.mark.slow
def test_a_real_latency_budget_holds_when_measured_afresh(cache, tmp_path):
    out = tmp_path / "run"
    words = [
        *("--method", "crl", "--cost", "latency", "--budget", "0.6", "--latency-batch", "512"),
        *("--model", "lenet300"),  # of small convolutions the width hardly changes the time
        *("--search.iterations", "12", "--search.episodes", "8"),
        *("--pretrain-epochs", "10", "--finetune-epochs", "2"),
    ]
    assert main([*words, *cache, "--out", str(out)]) == 0
    result = read(out / "result.json")
    assert result["feasible"]
    assert result["pruned"]["latency_ms"] <= 0.6 * result["dense"]["latency_ms"]


# ------------------------------------------------------------------------------- functions of users


@pytest.mark.slow
def test_a_failing_cost_function_ends_the_run_with_its_state(cache, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken_costs.py").write_text(
        "import pathlib\n"
        "def weight(network):\n"
        "    log = pathlib.Path(__file__).with_name('calls')\n"
        "    log.write_text(log.read_text() + '.')\n"
        "    if len(log.read_text()) > 24 and not log.with_name('mended').exists():\n"
        "        raise RuntimeError('the scale is broken')\n"
        "    return float(sum(network.widths.values()))\n"
    )
    (tmp_path / "calls").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "run"
    words = ["--cost", "broken_costs:weight", "--budget", "=250"]
    assert main([*TINY, *words, *cache, "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "broken_costs:weight raised RuntimeError: the scale is broken" in line
    assert "fc1" in line  # which network it was
    assert (out / "state" / "search" / "leaves.json").exists()
    assert not (out / "result.json").exists()

    (tmp_path / "mended").write_text("")
    assert main(["--resume", *cache, "--out", str(out)]) == 0
    (budget,) = read(out / "result.json")["budgets"]
    assert budget["cost"] == "broken_costs:weight"
    assert budget["pruned"] == sum(read(out / "result.json")["pruned"]["widths"].values()) <= 250
    assert budget["met"]
