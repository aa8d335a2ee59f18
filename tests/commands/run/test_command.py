"""The whole command: its files, its numbers, its refusals, and what interruptions do to it."""

import json
import re
import signal
import time

import jax
import numpy as np
import pytest

import jaxprune
from commands.run.runs import assert_alike, read, start, stop_when
from jaxprune.commands.config import RunConfig, to_json
from jaxprune.commands.run import main
from jaxprune.files import run_folder
from jaxprune.networks.export.rebuild import rebuild
from jaxprune.search.methods import get
from jaxprune.training import data

TINY = [
    *("--model", "lenet300", "--budget", "0.9", "--search-examples", "64"),
    *("--pretrain-epochs", "2", "--finetune-epochs", "1"),
    *("--semifinal-steps", "4", "--finalists", "2"),
    *("--search.iterations", "5", "--search.games", "2", "--search.simulations", "2"),
    *("--search.width", "2", "--search.learning-steps", "2", "--search.queue-length", "64"),
]
"""A run of a few seconds, with a tree search of five iterations to interrupt."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return ["--cache-dir", str(tmp_path_factory.mktemp("cache"))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """The folder of a tiny run without interruption."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    assert main([*TINY, *cache, "--out", str(out)]) == 0
    return out


def test_result_has_the_promised_keys(finished):
    result = read(finished / "result.json")
    common = {"test_accuracy", "val_accuracy", "params", "macs", "neurons", "latency_ms"}
    pruned = common | {
        "val_accuracy_before_finetuning",
        "test_accuracy_before_finetuning",
        "widths",
    }
    assert set(result) == {
        *("method", "model", "dataset", "seed", "examples"),
        *("cost", "budget", "budgets", "feasible", "outlook", "training"),
        *("dense", "pruned", "baselines", "search", "compact_max_abs_difference"),
    }
    assert set(result["dense"]) == common
    assert set(result["pruned"]) == pruned
    assert set(result["baselines"]) == {"uniform_l1", "global_l1", "random"}
    assert all(set(row) == pruned for row in result["baselines"].values())
    assert set(result["search"]) == {
        *("seconds", "forecast", "candidates", "episodes", "statistics", "importance", "device"),
        *("semifinalists", "semifinal_steps", "finalists"),
        *("rounds", "schedule"),
    }


def test_the_network_of_a_run_is_built_again(finished):
    rebuilt = rebuild(finished)
    assert rebuilt.small.widths == read(finished / "result.json")["pruned"]["widths"]


def test_result_describes_the_networks(finished):
    result = read(finished / "result.json")
    named = (result["method"], result["model"], result["dataset"])
    assert named == ("mcts", "lenet300", "digits")
    assert result["seed"] == 0
    (budget,) = result["budgets"]
    assert (result["cost"], result["budget"]) == ("macs", 0.9)
    assert (budget["cost"], budget["limit"], budget["met"]) == ("macs", 0.9, True)
    assert budget["pruned"] == result["pruned"]["macs"]
    assert budget["dense"] == result["dense"]["macs"]
    assert result["search"]["candidates"] >= result["search"]["episodes"] == 5 * 2
    assert result["compact_max_abs_difference"] < 1e-4
    assert result["dense"]["neurons"] == 300 + 100
    for row in (result["pruned"], *result["baselines"].values()):
        assert row["neurons"] == sum(row["widths"].values())
        assert row["macs"] <= 0.9 * result["dense"]["macs"]
        assert row["params"] < result["dense"]["params"]
        assert 0 < row["test_accuracy"] <= 1
        assert row["latency_ms"] > 0
    assert result["feasible"] is True


def test_small_network_comes_back_and_has_the_reported_accuracy(finished):
    result = read(finished / "result.json")
    network = jaxprune.load(finished)
    assert network.widths == result["pruned"]["widths"]
    dataset = data.load("digits")
    inputs = network.metadata["inputs"]
    x = (dataset.test.images / 255 - np.array(inputs["mean"])) / np.array(inputs["std"])
    x = x.reshape(-1, *network.input_shape).astype(np.float32)
    logits = network(network.params, x)
    accuracy = (np.asarray(logits).argmax(1) == dataset.test.labels).mean()
    assert accuracy == pytest.approx(result["pruned"]["test_accuracy"], abs=1e-9)
    assert (
        sum(np.size(leaf) for leaf in jax.tree.leaves(network.params["params"]))
        == (result["pruned"]["params"])
    )


def test_metrics_has_a_line_for_each_epoch_and_iteration(finished):
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    steps = {}
    for line in lines:
        steps.setdefault(line["phase"], []).append(line["step"])
    assert steps["pretrain"] == [1, 2]
    assert steps["search"] == [1, 2, 3, 4, 5]
    for name in ("finalist_1", "finalist_2", "uniform_l1", "global_l1", "random"):
        assert steps[f"finetune {name}"] == [1]
    found = [line["best_accuracy"] for line in lines if line["phase"] == "search"]
    assert found == sorted(found)


def test_report_and_settings_are_written(finished):
    text = (finished / "report.md").read_text()
    assert text.startswith("# lenet300 on digits, pruned by mcts\n")
    assert {path.name for path in (finished / "figures").iterdir()} == {
        *("widths.png", "candidates.png", "progress.png", "learning.png")
    }
    page = (finished / "report.html").read_text()
    assert "<h1>lenet300 on digits, pruned by mcts</h1>" in page
    assert "Visits of each group" in page
    assert read(finished / "config.json")["search"]["games"] == 2


@pytest.mark.slow
def test_another_seed_gives_another_result(finished, cache, tmp_path):
    assert main([*TINY, *cache, "--seed", "1", "--out", str(tmp_path / "other")]) == 0
    other, first = read(tmp_path / "other" / "result.json"), read(finished / "result.json")
    assert other["pruned"]["widths"] != first["pruned"]["widths"]


# --- interruptions -------------------------------------------------------------------------------


def assert_ends_like(out, finished):
    """A run that was interrupted has the metrics, result and network of one that was not."""
    assert (out / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()
    assert_alike(out, finished)


IN_TRAINING = ("config.json", signal.SIGKILL)
IN_THE_SEARCH = ("state/search/leaves.json", signal.SIGINT)
IN_FINE_TUNING = ("state/finetuned_finalist_1/leaves.json", signal.SIGKILL)
IN_THE_REPORT = ("state/result.json", signal.SIGKILL)


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param([IN_THE_SEARCH], id="once"),
        pytest.param(
            [IN_TRAINING, IN_THE_SEARCH, IN_FINE_TUNING, IN_THE_REPORT],
            marks=pytest.mark.slow,
            id="always",
        ),
    ],
)
def test_an_interrupted_run_ends_like_one_that_was_not(finished, tmp_path, moments):
    out = tmp_path / "run"
    places = ["--out", str(out), "--cache-dir", str(tmp_path / "cache")]
    words = [*TINY, *places]
    for milestone, how in moments:
        process = start(words)
        errors = stop_when(process, out / milestone, how)
        if how is signal.SIGINT:
            assert process.returncode == 130
            (line,) = errors.splitlines()
            assert line.startswith("interrupted; to continue: python -m jaxprune.run --resume")
        else:
            assert process.returncode == -signal.SIGKILL
        assert not (out / "result.json").exists()
        words = ["--resume", *places]
    assert main(words) == 0
    assert_ends_like(out, finished)


@pytest.mark.slow
def test_run_goes_on_after_the_disk_was_full(finished, tmp_path):
    out = tmp_path / "run"
    places = ["--out", str(out), "--cache-dir", str(tmp_path / "cache")]
    words = [*TINY, *places]
    for milestone in ("config.json", "state/search/leaves.json", "model/widths.json"):
        process = start(words, disk_full_at=out / milestone)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 2, errors
        *_, line = errors.splitlines()
        assert line.startswith("jaxprune: error: ")
        assert "File too large" in line  # what a limit says in place of "No space left"
        assert f"then continue: python -m jaxprune.run --resume --out {out}" in line
        assert "Traceback" not in errors
        assert not (out / "result.json").exists()
        words = ["--resume", *places]
    assert main(words) == 0
    assert_ends_like(out, finished)


def test_finished_run_is_left_alone_when_resumed(finished, cache, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert main(["--resume", *cache, "--out", str(finished)]) == 0
    assert "is finished" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert after == before


def test_damaged_state_is_recognised(finished, tmp_path, cache, capsys):
    out = tmp_path / "run"
    for path in finished.rglob("*"):
        if path.is_file():
            (out / path.relative_to(finished)).parent.mkdir(parents=True, exist_ok=True)
            (out / path.relative_to(finished)).write_bytes(path.read_bytes())
    (out / "result.json").unlink()
    (out / "state/answer/leaves.json").write_text("{")
    assert main(["--resume", *cache, "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "damaged" in line
    assert not (out / "result.json").exists()


# --- refusals ------------------------------------------------------------------------------------


def refused(capsys, *words: str) -> str:
    """The one line on stderr with which the command refuses."""
    assert main(list(words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxprune: error: ")
    return line


def test_damaged_dataset_is_refused(tmp_path, capsys):
    version = tmp_path / "data" / "mnist" / "3.0.1"
    version.mkdir(parents=True)
    (version / "dataset_info.json").write_text("{")
    (version / "features.json").write_text("{")
    (version / "mnist-train.array_record-00000-of-00001").write_bytes(b"not a record")
    line = refused(
        capsys,
        *(
            "--dataset",
            "mnist",
            "--data-dir",
            str(tmp_path / "data"),
            "--out",
            str(tmp_path / "run"),
        ),
    )
    assert "cannot be read" in line
    assert not (tmp_path / "run").exists()


def test_folder_of_another_run_is_refused(finished, capsys):
    before = read(finished / "result.json")
    line = refused(capsys, "--method", "magnitude", "--out", str(finished))
    assert "holds a run already" in line
    assert "--resume" in line
    assert read(finished / "result.json") == before


def test_folder_that_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "Not a directory" in refused(capsys, "--out", str(tmp_path / "file" / "run"))


def test_resuming_is_refused_without_a_run_or_with_other_settings(finished, tmp_path, capsys):
    assert "no run to resume" in refused(capsys, "--resume", "--out", str(tmp_path))
    line = refused(capsys, "--resume", "--out", str(finished), "--finetune-epochs", "2")
    assert "--finetune-epochs is 2, the run has 1" in line


def test_second_process_on_the_same_run_is_refused(tmp_path, capsys):
    settings = to_json(RunConfig(method="magnitude", model="cnn"), get("magnitude").Config())
    with run_folder.create(tmp_path / "run", settings):
        line = refused(capsys, "--resume", "--out", str(tmp_path / "run"))
    assert "another process is working" in line


def test_dry_run_shows_the_plan_and_begins_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--dry-run", "--method", "magnitude", "--budget", "0.25"]) == 0
    shown = capsys.readouterr().out
    assert "conv1        16" in shown
    assert "budget: 25% of macs" in shown
    assert "multiply-adds   378,496   89,158  23.6%   874   0.2%   94,624  25.0%" in shown
    assert re.search(r"^ +budget +0\.25$", shown, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_default_run_keeps_the_accuracy_within_its_budget(tmp_path):
    begin = time.monotonic()
    assert main(["--cache-dir", str(tmp_path / "cache"), "--out", str(tmp_path / "run")]) == 0
    assert time.monotonic() - begin < 240
    result = read(tmp_path / "run" / "result.json")
    assert result["feasible"]
    assert result["pruned"]["test_accuracy"] >= result["dense"]["test_accuracy"] - 0.01
    assert result["pruned"]["test_accuracy"] >= result["baselines"]["random"]["test_accuracy"]
