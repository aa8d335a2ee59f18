"""Runs with a network and data of the user's own, from the first command to the export."""

import json
import re
import shlex
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxprune
import jaxprune.commands.export
import jaxprune.commands.report.command
import jaxprune.commands.sweep.command
from commands.run.runs import read
from jaxprune import training
from jaxprune.commands import docs
from jaxprune.commands.run import arguments
from jaxprune.commands.run.command import main
from jaxprune.commands.run.job import Job, build
from jaxprune.training import data, pretraining

TASK = """
import numpy as np
from flax import linen as nn

with open("imported", "a") as file:
    file.write("x")


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(12)(x)))


def network():
    return Network()


def data():
    random = np.random.default_rng(0)
    images = random.normal(size=(300, 5)).astype(np.float32)
    labels = images[:, :3].argmax(1)
    return (images[:240], labels[:240]), (images[240:], labels[240:])
"""
OWN = ["--model", "task_of_mine:network", "--dataset", "task_of_mine:data"]
TINY = [
    *("--method", "random", "--budget", "0.6", "--search.candidates", "8", "--finalists", "1"),
    *("--pretrain-epochs", "20", "--finetune-epochs", "1", "--baselines", "random"),
    *("--semifinal-steps", "2", "--semifinalists", "2", "--cache-dir", "cache"),
]


def imports(folder):
    """How often the module has been imported."""
    return len((folder / "imported").read_text()) if (folder / "imported").exists() else 0


def write(folder, text=TASK):
    """Writes the task, which the next command imports anew."""
    sys.modules.pop("task_of_mine", None)
    for cached in (folder / "__pycache__").glob("*"):
        cached.unlink()
    (folder / "task_of_mine.py").write_text(text)


def says(capsys, words, command=main):
    """The one line with which a command is refused."""
    assert command(words) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A folder with a task and a finished run of it, "run"."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("task")
        patch.chdir(folder)
        write(folder)
        assert main([*TINY, *OWN, "--out", "run"]) == 0
        yield folder
    sys.modules.pop("task_of_mine", None)


def test_a_run_finds_a_network_within_the_budget(task):
    result = read(task / "run" / "result.json")
    assert (result["model"], result["dataset"]) == (OWN[1], OWN[3])
    assert result["dense"]["params"] == 5 * 12 + 12 + 12 * 3 + 3
    assert result["pruned"]["macs"] <= 0.6 * (5 * 12 + 12 * 3)
    assert set(result["baselines"]) == {"random"}
    assert result["dense"]["test_accuracy"] > 0.6  # three classes
    settings = read(task / "run" / "config.json")
    assert set(settings["content"]) == {"model", "dataset"}


def test_the_report_and_the_model_need_no_code_of_the_user(task):
    write(task, "raise RuntimeError('imported')")
    network = jaxprune.load(task / "run")
    assert network(network.params, np.zeros((7, 5), np.float32)).shape == (7, 3)
    assert network.metadata["inputs"]["what"].startswith("images as floats")
    assert jaxprune.commands.report.command.main(["run"]) == 0
    assert "--model task_of_mine:network" in (task / "run" / "report.html").read_text()
    assert jaxprune.commands.export.main(["run", "--to", "stablehlo", "--overwrite"]) == 0
    write(task)


def test_export_imports_a_function_only_if_it_is_typed(task, capsys):
    write(task)
    before = imports(task)
    words = ["run", "--to", "onnx"]
    assert "add --model task_of_mine:network" in says(capsys, words, jaxprune.commands.export.main)
    assert "bundled" in says(capsys, ["run", "--to", "linen"], jaxprune.commands.export.main)
    other = [*words, "--model", "other:network"]
    assert "the model in run is task_of_mine" in says(capsys, other, jaxprune.commands.export.main)
    assert imports(task) == before
    write(task, TASK.replace("relu", "tanh"))
    changed = [*words, "--model", OWN[1]]
    assert "computes something else" in says(capsys, changed, jaxprune.commands.export.main)
    write(task)


def test_a_dense_network_is_known_by_what_the_code_computes(task):
    def name(text):
        write(task, text)
        dataset = data.load(OWN[3])
        return pretraining.origin(build(OWN[1], dataset), dataset, training.Recipe(), 0).name

    names = [
        name(TASK),
        name(TASK + "# a comment\n"),
        name(TASK.replace("relu", "tanh")),
        name(TASK.replace("default_rng(0)", "default_rng(1)")),
    ]
    assert names[0] == names[1]
    assert len(set(names)) == 3
    assert names[0].startswith("task_of_mine.network-task_of_mine.data-")
    write(task)


def begun(task, name):
    """A run that was left before anything was computed."""
    folder = task / name
    (folder / "state").mkdir(parents=True)
    (folder / "config.json").write_text((task / "run" / "config.json").read_text())
    return ["--resume", "--out", name, "--cache-dir", "cache"]


def test_resuming_imports_what_is_typed_again_and_has_not_changed(task, capsys):
    words, before = begun(task, "begun"), imports(task)
    assert "--model task_of_mine:network comes from a file" in says(capsys, words)
    assert "add --dataset task_of_mine:data" in says(capsys, [*words, *OWN[:2]])
    assert "comes from a file" in says(capsys, [*TINY, "--config", "begun/config.json"])
    assert imports(task) == before
    for change in (("relu", "tanh"), ("[:, :3].argmax", "[:, 1:4].argmax")):
        write(task, TASK.replace(*change))
        assert "no longer gives the" in says(capsys, [*words, *OWN])
    write(task)
    assert main([*words, *OWN]) == 0
    assert read(task / "begun" / "result.json")["pruned"]["macs"] > 0


def test_the_command_that_resumes_names_the_functions(task):
    run = arguments.parse([*TINY, *OWN, "--cost", "macs", "mine:cost", "--budget", "1", "1"]).run
    typed = shlex.split(arguments.resume_command(run))
    assert " ".join(OWN) in " ".join(typed)
    assert typed[typed.index("--cost") :][:3] == ["--cost", "macs", "mine:cost"]


def test_a_function_in_a_stored_cost_is_not_imported_either(task, capsys):
    words = begun(task, "costly")
    path = task / "costly" / "config.json"
    path.write_text(json.dumps({**read(path), "cost": ["other:cost"]}))
    assert "add --cost other:cost" in says(capsys, [*words, *OWN])


def test_a_sweep_goes_over_functions(task, capsys):
    words = ["--out", "swept", "--model", OWN[1], "lenet300", "--dataset", OWN[3], "--dry-run"]
    assert jaxprune.commands.sweep.command.main([*words, "--method", "random"]) == 0
    shown = capsys.readouterr().out
    assert "swept/random-task_of_mine.network-task_of_mine.data-0.25-seed0" in shown


def test_bundled_networks_want_images(task, capsys):
    words = [*TINY, "--model", "cnn", *OWN[2:], "--out", "other"]
    assert "those of task_of_mine:data are [5]" in says(capsys, words)
    assert "add --model with one of cnn, " in says(capsys, [*TINY, *OWN[2:], "--out", "other"])
    assert not (task / "other").exists()


@pytest.mark.slow
def test_the_example_of_the_page_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    page = next(path for path in docs.PAGES if path.stem == "bring_your_own_task").read_text()
    (source,) = re.findall(r"```python file=my_task.py\n(.*?)```", page, re.DOTALL)
    assert len(source.splitlines()) <= 35
    (tmp_path / "my_task.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    command = re.search(r"^python -m jaxprune.run (.*my_task:data --budget.*)$", page, re.MULTILINE)
    assert main([*shlex.split(command[1]), "--cache-dir", "cache", "--out", "run"]) == 0
    result = read(Path("run/result.json"))
    assert result["pruned"]["macs"] <= 0.3 * result["dense"]["macs"]
    assert result["dense"]["test_accuracy"] > 0.8
    sys.modules.pop("my_task", None)
    loaded = jaxprune.load("run")
    logits = loaded(loaded.params, np.zeros((3, 8, 8, 1), np.float32))
    assert jax.numpy.isfinite(logits).all()


def test_optimizer_and_learning_rate_can_be_chosen(task):
    def recipes(*words):
        run = arguments.parse([*TINY, *OWN, *words]).run
        network, dataset = build(OWN[1], data.load(OWN[3])), data.load(OWN[3])
        made = Job(run, None, None, dataset, network, None, None, ())
        return made.recipe("pretrain"), made.recipe("finetune")

    usual, chosen = recipes(), recipes("--optimizer", "adamw", "--learning-rate", "0.001")
    assert [recipe.optimizer for recipe in (*usual, *chosen)] == ["sgd"] * 2 + ["adamw"] * 2
    assert [recipe.learning_rate for recipe in usual] == [0.02, 0.005]
    assert [recipe.learning_rate for recipe in chosen] == [0.001, 0.00025]
    assert [recipe.epochs for recipe in chosen] == [20, 1]  # as TINY says
