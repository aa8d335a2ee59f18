"""`jaxprune sweep`: which runs are made, which are not made again, and their table."""

import json
import subprocess
import sys

import pytest

from jaxprune.commands.config import to_json, versions
from jaxprune.commands.sweep import main, table
from jaxprune.commands.sweep.plan import plan
from jaxprune.errors import UserError
from jaxprune.files import run_folder

TINY = [
    *("--method", "magnitude", "--model", "lenet300", "--examples", "100"),
    *("--pretrain-epochs", "1", "--finetune-epochs", "1", "--search-examples", "64"),
    *("--semifinalists", "1", "--finalists", "1"),
]


def test_runs_are_the_product_of_the_listed_values(tmp_path):
    words = ["--method", "mcts", "crl", "--budget", "0.5", "25%,=9000", "--seed", "0", "7"]
    with pytest.raises(UserError, match="--cost names 2 costs and --budget 1 amounts"):
        plan([*words, "--cost", "params", "macs", "--out", str(tmp_path)])
    words[4:6] = ["0.5,0.4", "25%,=9000"]
    _, runs = plan([*words, "--cost", "params", "macs", "--out", str(tmp_path)])
    settings = [run.options.run for run in runs]
    assert [(s.method, s.budget, s.seed) for s in settings] == [
        (method, budget, seed)
        for method in ("mcts", "crl")
        for budget in (("0.5", "0.4"), ("25%", "=9000"))
        for seed in (0, 7)
    ]
    assert {s.cost for s in settings} == {("params", "macs")}
    assert runs[3].name == "mcts-cnn-digits-25pct-is9000-seed7"
    assert settings[3].out == tmp_path / runs[3].name
    assert len({run.name for run in runs}) == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "1", "2", "1"], "--seed lists 1 twice"),
        (["--method", "mcts", "x"], "unknown method 'x'"),
        (["--budget", "0.5", "2"], "--budget 2"),
        (["--resume"], "leave --resume out"),
        (["--method", "magnitude", "random", "--preset", "paper"], "no published settings"),
    ],
)
def test_mistakes_are_found_before_any_run(tmp_path, capsys, words, message):
    assert main([*words, "--out", str(tmp_path / "sweep")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_dry_run_lists_and_leaves_nothing(tmp_path, capsys):
    assert main([*TINY, "--seed", "0", "1", "--out", str(tmp_path / "sweep"), "--dry-run"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["new", "new"]
    assert last == "--dry-run: 2 runs, none was begun"
    assert not (tmp_path / "sweep").exists()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    cache, out = tmp_path_factory.mktemp("cache"), tmp_path_factory.mktemp("sweeps") / "sweep"
    return out, [*TINY, "--cache-dir", str(cache), "--out", str(out)]


@pytest.mark.slow
def test_a_sweep_goes_on_and_makes_what_is_missing(places, capsys):
    out, words = places
    words = [*words, "--seed", "3"]
    begun, out_of_reach = plan([*words, "--budget", "0.5", "0.00001"])[1]
    settings = to_json(begun.options.run, begun.options.search) | {"versions": versions()}
    run_folder.create(begun.path, settings).__exit__()
    assert [begun.state, out_of_reach.state] == ["begun", "new"]

    assert main([*words, "--budget", "0.5", "0.00001"]) == 2
    assert "0.00001 macs | 0 of 1 | not run |" in (out / "sweep.md").read_text()
    assert [begun.state, out_of_reach.state] == ["finished", "new"]
    written = (begun.path / "result.json").stat().st_mtime_ns

    assert main([*words, "--budget", "0.5"]) == 0
    assert (begun.path / "result.json").stat().st_mtime_ns == written
    found = json.loads((out / "sweep.json").read_text())
    (row,) = found["rows"]
    assert (row["seeds"], row["planned"], row["met"]) == ([3], 1, 1)
    accuracy = json.loads((begun.path / "result.json").read_text())["pruned"]["test_accuracy"]
    assert row["accuracy"]["pruned"] == {"mean": accuracy, "deviation": None}
    assert "lenet300 on digits" in (out / "sweep.md").read_text()
    assert f"{out / 'sweep.md'}" in capsys.readouterr().out


def test_another_sweep_in_the_same_folder_is_refused(tmp_path, capsys):
    words = [*TINY, "--out", str(tmp_path), "--budget", "0.5", "--seed", "3"]
    (begun,) = plan(words)[1]
    settings = to_json(begun.options.run, begun.options.search) | {"versions": versions()}
    run_folder.create(begun.path, settings).__exit__()
    assert main([*words, "--finalists", "2"]) == 2
    error = capsys.readouterr().err
    assert "holds a run with other settings: --finalists is 2, the run has 1" in error


def run(budget, seed, accuracy):
    """A run with a result, or one of no accuracy without."""
    network = {
        "test_accuracy": accuracy,
        "test_accuracy_before_finetuning": accuracy and accuracy / 2,
    }
    result = {
        "dense": {"test_accuracy": 0.9},
        "pruned": network,
        "baselines": dict.fromkeys(("uniform_l1", "global_l1", "random"), network),
        "budgets": [{"cost": "macs", "share": 0.2}],
        "feasible": seed > 0,
        "search": {"seconds": 10.0 * seed},
    }
    settings = {"method": "crl", "model": "cnn", "dataset": "digits", "cost": ["macs"]}
    result = result if accuracy is not None else None
    error = None if result else "out of reach"
    return {
        **settings,
        "name": "n",
        "budget": [budget],
        "seed": seed,
        "result": result,
        "error": error,
    }


def test_table():
    runs = [run("0.5", 0, 0.8), run("0.5", 1, 0.7), run("0.5", 2, 0.6), run("0.1", 0, None)]
    runs.append(run("0.1", 1, 0.5))
    half, tenth = table.rows(runs)
    assert half["seeds"] == [0, 1, 2]
    assert half["met"] == 2
    assert half["accuracy"]["pruned"] == {
        "mean": pytest.approx(0.7),
        "deviation": pytest.approx(0.1),
    }
    assert half["before"]["pruned"]["mean"] == pytest.approx(0.35)
    assert tenth["accuracy"]["pruned"] == {"mean": 0.5, "deviation": None}
    lines = table.markdown([half, tenth], runs).splitlines()
    assert lines[2] == (
        "| crl | 0.5 macs | 3 | 2 of 3 | 20.0 ± 0.0 | 90.00 ± 0.00 | 70.00 ± 10.00 "
        "| 70.00 ± 10.00 | 70.00 ± 10.00 | 70.00 ± 10.00 | 10 ± 10 |"
    )
    assert lines[3].startswith("| crl | 0.1 macs | 1 of 2 | 1 of 1 | 20.0 | 90.00 | 50.00 |")
    assert lines[-1] == "- n: out of reach"


def test_a_baseline_that_some_runs_lack_has_empty_cells():
    more = run("0.4", 1, 0.5)
    more["result"]["baselines"] = more["result"]["baselines"] | {
        "uniform": more["result"]["pruned"]
    }
    runs = [run("0.5", 1, 0.8), more]
    header, _, first, second = table.markdown(table.rows(runs), runs).splitlines()
    assert "| random | uniform | search, s |" in header
    assert first.endswith("| 80.00 |  | 10 |")
    assert second.endswith("| 50.00 | 50.00 | 10 |")


def test_help():
    shown = subprocess.run(
        [sys.executable, "-m", "jaxprune", "sweep", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "80", "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
    ).stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert {"--out", "--method", "--budget", "--seed", "--dry-run"} <= set(shown.split())
