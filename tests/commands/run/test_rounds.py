"""Runs in several rounds."""

import signal

import numpy as np
import pytest

import jaxprune
import jaxprune.commands.report.command
from commands.run.runs import assert_alike, read, start, stop_when
from jaxprune.commands.run.command import main
from jaxprune.files import checkpoint, run_folder

TINY = [
    *("--method", "random", "--model", "lenet300", "--budget", "0.2", "--cost", "params"),
    *("--rounds", "2", "--search.candidates", "8", "--finalists", "1", "--semifinalists", "2"),
    *("--semifinal-steps", "2", "--pretrain-epochs", "3", "--finetune-epochs", "1"),
    *("--baselines", "global_l1", "--examples", "200", "--search-examples", "64"),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return ["--cache-dir", str(tmp_path_factory.mktemp("cache"))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    out = tmp_path_factory.mktemp("runs") / "rounds"
    assert main([*TINY, *cache, "--out", str(out)]) == 0
    return out


def params(widths):
    """Parameters of the network on 64 features with ten classes."""
    first, second = widths
    return 64 * first + first + first * second + second + second * 10 + 10


@pytest.mark.slow
def test_each_round_leaves_its_part(finished):
    result = read(finished / "result.json")
    dense = params((300, 100))
    assert result["dense"]["params"] == dense
    for name in ("pruned", "global_l1"):
        row = result["pruned"] if name == "pruned" else result["baselines"][name]
        assert row["params"] == params(row["widths"].values()) <= 0.2 * dense
        between = checkpoint.load(finished / "state" / f"round_1_finetuned_{name}")["params"]
        kernels = [layer["kernel"].shape for layer in between.values()]
        left = params((kernels[0][1], kernels[1][1]))
        assert 0.2 * dense < left <= 0.2**0.5 * dense
    assert result["search"]["rounds"] == 2
    assert result["feasible"]


@pytest.mark.slow
def test_the_candidates_of_the_last_round_are_counted_against_the_dense_network(finished):
    archive = checkpoint.load(finished / "state" / "answer")["archive"]
    assert archive["masks"].shape == (8, 400)
    widths = archive["masks"][:, :300].sum(1), archive["masks"][:, 300:].sum(1)
    shares = [params(pair) / params((300, 100)) for pair in zip(*map(list, widths), strict=True)]
    np.testing.assert_allclose(archive["cost"], shares, rtol=1e-5)


@pytest.mark.slow
def test_the_model_and_the_report_are_those_of_a_run(finished):
    network = jaxprune.load(finished)
    assert network(network.params, np.zeros((3, 64), np.float32)).shape == (3, 10)
    before = (finished / "report.md").read_text()
    assert jaxprune.commands.report.command.main([str(finished)]) == 0
    assert (finished / "report.md").read_text() == before
    assert "--rounds 2" in (finished / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("milestone", ["round_1_finetuned_pruned", "round_2_finalists"])
def test_an_interrupted_run_ends_as_if_it_had_not_been(milestone, finished, tmp_path, cache):
    out = tmp_path / "interrupted"
    words = [*TINY, *cache, "--out", str(out)]
    stop_when(start(words), out / run_folder.STATE / milestone, signal.SIGINT)
    assert main(["--resume", "--out", str(out), *cache]) == 0
    assert_alike(out, finished)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rounds", "0"], "--rounds 0 is too small"),
        (["--schedule", "slow"], "unknown schedule 'slow'; the schedules are: geometric, linear"),
        (["--rounds", "2", "--method", "crl", "--cost", "latency"], "not latency"),
        (["--rounds", "2", "--method", "l0"], "l0 trains its own"),
        (["--rounds", "2", "--prune-inputs"], "leave --prune-inputs out"),
    ],
)
def test_rounds_that_cannot_be_are_refused(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    line = capsys.readouterr().err
    assert says in line
    assert line.count("\n") == 1
    assert not list(tmp_path.iterdir())
