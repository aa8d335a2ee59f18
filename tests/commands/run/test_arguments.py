"""The command line: options of each method, defaults of a resumed run, help that reads well."""

import dataclasses
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jaxprune.commands import presets
from jaxprune.commands.config import PROGRAM, RunConfig, command, to_json
from jaxprune.commands.run import arguments
from jaxprune.errors import UserError
from jaxprune.files import run_folder
from jaxprune.search import methods


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


def test_a_preset_gives_defaults_that_options_override():
    parsed = arguments.parse(["--method", "crl", "--preset", "quick", "--search.episodes", "5"])
    quick = presets.find("quick", "crl", "cnn")
    assert dataclasses.asdict(parsed.run).items() >= quick.run.items()
    assert parsed.search == methods.get("crl").Config(iterations=10, episodes=5)
    assert parsed.run.preset == "quick"
    assert "preset" not in to_json(parsed.run, parsed.search)


@pytest.mark.parametrize(
    ("words", "iterations"),
    [(["--model", "vgg16"], 96), (["--dataset", "cifar10", "--budget", "0.1"], 104), ([], 417)],
)
def test_published_timesteps_are_rounds_of_episodes(words, iterations):
    search = arguments.parse(["--method", "crl", "--preset", "paper", *words]).search
    assert (search.iterations, search.dual) == (iterations, "ascent")
    assert search.finetune_schedule == (0, 32, 128)


def test_switches_of_a_preset_can_be_turned_off():
    words = ["--method", "acnn", "--preset", "paper"]
    parsed = arguments.parse(words)
    assert parsed.run.prune_inputs
    assert parsed.search.unbounded
    parsed = arguments.parse([*words, "--no-prune-inputs", "--search.no-unbounded"])
    assert not parsed.run.prune_inputs
    assert not parsed.search.unbounded
    assert arguments.parse([*words, "--search.unbounded"]).search.unbounded


@pytest.fixture
def config_file(tmp_path):
    """The settings of a run of CRL."""
    run = RunConfig(method="crl", model="lenet300", cost=("params", "macs"), budget=("0.3", "0.2"))
    search = methods.get("crl").Config(iterations=7, finetune_schedule=(0, 4), online=True)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**to_json(run, search), "versions": {}}))
    return file, run, search


def test_settings_of_another_run_are_defaults(config_file):
    file, run, search = config_file
    parsed = arguments.parse(["--config", str(file)])
    assert parsed.run == dataclasses.replace(run, config=file)
    assert parsed.search == search
    parsed = arguments.parse([f"--config={file}", "--seed", "3", "--search.iterations", "8"])
    assert parsed.run == dataclasses.replace(run, config=file, seed=3)
    assert parsed.search == dataclasses.replace(search, iterations=8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "mcts"], "is for --method crl, not mcts"),
        (["--preset", "quick"], "both give defaults"),
    ],
)
def test_settings_from_two_places_are_refused(config_file, words, message):
    with pytest.raises(UserError, match=message):
        arguments.parse(["--config", str(config_file[0]), *words])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "3"}, "seed is '3'"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"online": True}, "unexpected keyword argument 'online'"),
        ({"cost": "macs"}, "cost is 'macs'"),
        ({"budget": [0.25]}, r"budget is \[0.25\]"),
        ({"prune_inputs": 1}, "prune_inputs is 1"),
        ({"search": {"iterations": True}}, "iterations is True"),
        ({"search": {"dual": "adam"}}, "dual must be one of ascent, pid"),
        ({"search": {"seconds": "long"}}, "seconds is 'long'"),
        ({"method": None}, "names no method"),
        ({"method": "x"}, "unknown method 'x'"),
    ],
)
def test_files_that_are_no_settings(config_file, change, message):
    file = config_file[0]
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=message):
        arguments.parse(["--config", str(file)])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "slow"], "unknown preset 'slow'; the presets are: quick, default, paper"),
        (["--method", "random", "--preset", "paper"], "random has no published settings"),
        (["--config", "nowhere.json"], "nowhere.json is missing or damaged"),
    ],
)
def test_presets_and_files_that_are_not_there(words, message):
    with pytest.raises(UserError, match=message):
        arguments.parse(words)


@pytest.mark.parametrize("words", [["--preset", "quick"], ["--config", "a.json"]])
def test_resuming_takes_no_other_defaults(interrupted, words):
    with pytest.raises(UserError, match=f"leave {words[0]} out"):
        arguments.parse(["--resume", "--out", str(interrupted), *words])


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


@pytest.mark.parametrize(
    ("method", "columns"),
    [
        ("mcts", 120),
        *((name, 80) for name in methods.NAMES),
        *(
            pytest.param(name, 120, marks=pytest.mark.slow)
            for name in methods.NAMES
            if name != "mcts"
        ),
    ],
)
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
