"""The command line: options of each method, defaults of a resumed run, help that reads well."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jaxprune import methods, run_folder
from jaxprune.config import PROGRAM, RunConfig, command, to_json
from jaxprune.errors import UserError
from jaxprune.run import arguments


def test_defaults():
    parsed = arguments.parse([])
    assert parsed.run == RunConfig()
    assert parsed.search == methods.get("mcts").Config()


@pytest.mark.parametrize("words", [["--method", "random"], ["--method=random"]])
def test_method_decides_the_options(words):
    parsed = arguments.parse([*words, "--search.candidates", "5", "--budget", "0.25"])
    assert parsed.search == methods.get("random").Config(candidates=5)
    assert parsed.run == RunConfig(method="random", budget=("0.25",))


def test_options_of_another_method_are_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        arguments.parse(["--method", "magnitude", "--search.candidates", "5"])
    assert caught.value.code == 2
    assert "--search.candidates" in capsys.readouterr().err


def test_unknown_method_is_refused_with_the_valid_ones():
    with pytest.raises(
        UserError,
        match="unknown method 'x'; the methods are: mcts, crl, acnn, amc, cacp, magnitude, random",
    ):
        arguments.parse(["--method", "x"])


@pytest.mark.parametrize(
    "words",
    [
        ["--method", "mcts"],
        ["--method", "mcts", "--search.baseline", "0.5", "--examples", "300", "--model", "vgg11"],
        ["--method", "acnn", "--search.unbounded", "--search.beta", "0.5"],
        [
            *("--method", "crl", "--cost", "params", "my costs:energy", "--budget", "30%", "=2e5"),
            *("--prune-inputs", "--seed", "7", "--search.finetune-schedule", "0", "4"),
        ],
    ],
)
def test_a_run_can_be_typed_again(words):
    parsed = arguments.parse(words)
    settings = {**to_json(parsed.run, parsed.search), "versions": {"jax": "0.1"}}
    line = command(settings, type(parsed.search))
    assert line.startswith(PROGRAM)
    typed = shlex.split(line.removeprefix(PROGRAM))
    assert len(typed) == len(words)  # what is at its default is left out
    again = arguments.parse(typed)
    assert again == parsed


@pytest.fixture
def interrupted(tmp_path):
    """A run folder with settings other than the defaults."""
    run = RunConfig(method="random", model="cnn", budget=("0.3",), seed=4)
    run_folder.create(
        tmp_path / "run", to_json(run, methods.get("random").Config(candidates=9))
    ).__exit__()
    return tmp_path / "run"


def test_resuming_takes_the_settings_of_the_run(interrupted):
    parsed = arguments.parse(["--resume", "--out", str(interrupted)])
    assert parsed.run == RunConfig(
        method="random", model="cnn", budget=("0.3",), seed=4, resume=True, out=interrupted
    )
    assert parsed.search.candidates == 9


def test_resuming_accepts_the_same_options_again_and_other_places(interrupted):
    words = ["--resume", f"--out={interrupted}", "--budget", "0.3", "--search.candidates", "9"]
    parsed = arguments.parse([*words, "--data-dir", "elsewhere"])
    assert parsed.run.data_dir == Path("elsewhere")


def test_a_run_of_an_older_version_goes_on_with_the_defaults_of_new_settings(interrupted):
    stored = json.loads((interrupted / "config.json").read_text())
    del stored["semifinal_steps"]
    (interrupted / "config.json").write_text(json.dumps(stored))
    parsed = arguments.parse(["--resume", "--out", str(interrupted)])
    assert parsed.run.semifinal_steps == RunConfig().semifinal_steps


@pytest.mark.parametrize(
    ("words", "difference"),
    [
        (["--budget", "0.4"], "--budget is 0.4, the run has 0.3"),
        (["--search.candidates", "8"], "--search.candidates is 8, the run has 9"),
        (["--method", "mcts"], "--method is mcts, the run has random"),
    ],
)
def test_resuming_with_other_settings_is_refused(interrupted, words, difference):
    with pytest.raises(UserError, match="cannot resume with other settings: ") as caught:
        arguments.parse(["--resume", "--out", str(interrupted), *words])
    assert difference in str(caught.value)


def test_resuming_needs_a_folder():
    with pytest.raises(UserError, match="--resume needs --out"):
        arguments.parse(["--resume"])


def test_resume_command_continues_the_run(interrupted):
    config = RunConfig(out=interrupted, data_dir=Path("some where"), model="cnn", method="random")
    command = arguments.resume_command(config)
    assert command == (
        f"python -m jaxprune.run --resume --out {interrupted} --data-dir 'some where'"
    )


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("method", methods.NAMES)
def test_help_describes_every_option_within_the_width(method, columns):
    search_fields = methods.get(method).Config.__dataclass_fields__
    shown = subprocess.run(
        [sys.executable, "-m", "jaxprune.run", "--method", method, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": str(columns), "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
    ).stdout
    assert max(map(len, shown.splitlines())) <= columns
    words = shown.split()
    for name in (*RunConfig.__dataclass_fields__, *(f"search.{name}" for name in search_fields)):
        assert f"--{name.replace('_', '-')}" in words
    assert "{None}" not in shown.split("search options")[0]
