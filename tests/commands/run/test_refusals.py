"""Whatever cannot work is refused with one message and exit code 2, before anything is written.

Every option of every method is tried with a value of another type and one outside its range; the
mistakes that have a message of their own are listed below them.
"""

import dataclasses
import json
import sys
from types import NoneType
from typing import get_args, get_origin, get_type_hints

import jax.numpy as jnp
import pytest

import jaxprune
import jaxprune.commands.bench.command
import jaxprune.commands.data
import jaxprune.commands.export
import jaxprune.commands.report.command
import jaxprune.commands.sweep.command
from commands.run import unprivileged
from jaxprune.commands.config import RunConfig, to_json
from jaxprune.commands.run.command import main
from jaxprune.networks import bundled
from jaxprune.search import methods
from jaxprune.training import data

# ------------------------------------------------------------------------- every option, generated


def kinds(hint):
    """The simple types of which a setting may be, such as {int} for `int | None`."""
    if get_origin(hint) is tuple:
        return {kind for inner in get_args(hint) if inner is not ... for kind in kinds(inner)}
    inner = [kind for kind in get_args(hint) if kind is not NoneType]
    return {hint} if not inner else {kind if isinstance(kind, type) else str for kind in inner}


def options(kind, prefix):
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        yield prefix + field.name, kinds(hints[field.name])


def cases():
    """(method, option, its types) of all options, those of a run once."""
    found = [("random", name, of) for name, of in options(RunConfig, "")]
    for method in methods.NAMES:
        found += [(method, *one) for one in options(methods.get(method).Config, "search.")]
    return found


def named(case):
    return "-".join(case[:2])


def refused(words, capsys, command=main):
    """What is said on stderr in refusing; nothing may be said on stdout."""
    try:
        code = command(words)
    except SystemExit as end:  # tyro's own
        code = end.code
    shown = capsys.readouterr()
    assert code == 2, (words, shown.out)
    assert "Traceback" not in shown.err
    return shown.err


NUMBERS = [case for case in cases() if case[2] & {int, float}]


def words(case, value):
    """A command that gives an option a value, as often as it takes one."""
    method, option, _ = case
    default = getattr(methods.get(method).Config(), option.split(".")[-1], None)
    times = len(default) if isinstance(default, tuple) and default else 1
    return ["--method", method, "--" + option.replace("_", "-"), *[value] * times]


@pytest.mark.parametrize("case", NUMBERS, ids=named)
def test_an_option_of_another_type_is_refused(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    typed = words(case, "many")
    shown = refused(typed, capsys)
    assert "many" in shown
    assert typed[2] in shown
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", NUMBERS, ids=named)
def test_an_option_out_of_range_is_refused(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    value = "nan" if float in case[2] else "-1"
    shown = refused(words(case, value), capsys)
    assert case[1].split(".")[-1] in shown.replace("-", "_")
    assert value in shown
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------- what stands alone


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "vgg99"], ["'vgg99'", *bundled.NAMES]),
        (["--dataset", "imagenet"], ["'imagenet'", *data.NAMES]),
        (["--method", "guess"], ["'guess'", "mcts", "magnitude", "random"]),
        (
            ["--cost", "joules"],
            ["'joules'", "macs, params, neurons, latency", "module:"],
        ),
        (["--statistics", "mean"], ["'mean'", "batch", "dense"]),
        (["--budget", "0"], ["--budget 0", "(0, 1]"]),
        (["--budget", "1.5"], ["--budget 1.5", "(0, 1]"]),
        (["--budget", "0.001"], ["0.001", "cannot be reached", "at least 0.0024"]),
        (["--budget", "1", "1"], ["1 costs", "2 amounts"]),
        (["--budget", "9ms"], ["9ms", "a time", "macs"]),
        (["--cost", "macs", "macs", "--budget", "1", "1"], ["one budget", "macs, macs"]),
        (["--cost", "nowhere:cost"], ["'nowhere:cost'", "imported", "nowhere"]),
        (["--cost", "math:energy"], ["'math:energy'", "energy"]),
        (["--cost", "math:pi"], ["'math:pi'", "float", "no function"]),
        (["--round-to", "0"], ["--round-to 0", "at least 1"]),
        (["--round-to", "64", "--keep", "conv3"], ["every group whole", "round_to 64"]),
        (["--min-size", "17"], ["min_size 17", "16 channels", "'conv1'"]),
        (["--keep", "stem*"], ["'stem*' matches no group", "conv1, conv2, conv3"]),
        (["--equal", "conv1,conv2"], ["'conv1' has 16, 'conv2' has 32"]),
        (["--keep", "conv*", "--budget", "0.9"], ["every group whole"]),
        (["--min-size", "8", "--budget", "0.05"], ["0.05", "least allowed widths", "loosen"]),
        (["--latency-margin", "1"], ["--latency-margin 1", "[0, 1)"]),
        (["--method", "mcts", "--cost", "latency"], ["mcts", "latency", "--method crl"]),
        (["--model", "vgg16"], ["'vgg16'", "8x8", "cnn"]),
        (["--dataset", "mnist", "--data-dir", "nowhere"], ["'mnist'", "nowhere", "prepare"]),
        (["--resume"], ["--resume needs --out"]),
        (["--seed", "-1"], ["--seed -1"]),
        (["--importance", "size"], ["'size'", "l1", "reconstruction"]),
        (["--baselines", "l2"], ["'l2'", "uniform_l1", "random"]),
        (["--preset", "fast"], ["'fast'", "quick", "paper"]),
        (["--log", "stdout"], ["stdout", "tensorboard", "wandb"]),
        (["--config", "nowhere.json"], ["nowhere.json"]),
    ],
)
def test_wrong_input_is_refused_in_one_line(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = refused([*([] if "--method" in words else ["--method", "random"]), *words], capsys)
    assert line.startswith("jaxprune: error: ")
    assert line.count("\n") == 1
    for part in says:
        assert part in line
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------- what is on the disk


COMMANDS = {
    "run": main,
    "data": jaxprune.commands.data.main,
    "report": jaxprune.commands.report.command.main,
    "bench": jaxprune.commands.bench.command.main,
    "export": jaxprune.commands.export.main,
    "sweep": jaxprune.commands.sweep.command.main,
}


def newer_model(folder):
    """A model as a version of jaxprune might write it that is yet to come."""
    params, x = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}, jnp.ones((1, 3))
    small = jaxprune.prune(lambda params, x: jnp.tanh(x @ params["a"]) @ params["b"], params, x)
    jaxprune.save(folder / "it", small, x)
    change(folder / "it" / "widths.json", "format", 99)


def newer_checkpoint(folder):
    """The same of the arrays alone."""
    newer_model(folder)
    change(folder / "it" / "widths.json", "format", 2)
    change(folder / "it" / "arrays" / "leaves.json", "format", 99)


def change(path, name, value):
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))


def newer_run(folder):
    """A run begun by a version that knows a setting more."""
    (folder / "it" / "state").mkdir(parents=True)
    settings = to_json(RunConfig(method="random"), methods.get("random").Config())
    (folder / "it" / "config.json").write_text(json.dumps({**settings, "colour": "red"}))


def other_config(folder):
    """A config.json of another program."""
    (folder / "it").mkdir()
    (folder / "it" / "config.json").write_text('["a list"]')


def half_prepared(folder):
    """What is left where preparing a dataset was killed."""
    (folder / "it" / ".mnist.x1y2.incomplete" / "mnist").mkdir(parents=True)


def no_run(folder):
    (folder / "it").mkdir()


@pytest.mark.parametrize(
    ("there", "command", "words", "says"),
    [
        (newer_model, "export", ["it", "--to", "stablehlo"], ["newer version", "99", "upgrade"]),
        (newer_checkpoint, "export", ["it", "--to", "stablehlo"], ["newer version", "99"]),
        (newer_run, "run", ["--resume", "--out", "it"], ["another version", "colour"]),
        (newer_run, "run", ["--config", "it/config.json"], ["another version", "colour"]),
        (other_config, "run", ["--resume", "--out", "it"], ["it/config.json", "no method"]),
        (
            half_prepared,
            "run",
            ["--dataset", "mnist", "--data-dir", "it"],
            ["no dataset 'mnist'", "interrupted", ".mnist.x1y2.incomplete", "prepare mnist"],
        ),
        (no_run, "run", ["--resume", "--out", "it"], ["it", "holds no run"]),
        (no_run, "report", ["it"], ["it", "holds no"]),
        (no_run, "bench", ["it"], ["it"]),
        (no_run, "export", ["it", "--to", "onnx"], ["it", "no model"]),
        (no_run, "data", ["prepare", "mnist", "--raw", "it", "--data-dir", "d"], ["is missing"]),
        (no_run, "sweep", ["--out", "it", "--method", "random", "--seed", "-1"], ["--seed -1"]),
    ],
)
def test_what_is_on_the_disk_is_refused_in_one_line(
    there, command, words, says, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    there(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    line = refused(words, capsys, COMMANDS[command])
    assert line.startswith("jaxprune: error: ")
    assert line.count("\n") == 1
    for part in says:
        assert part in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
@pytest.mark.parametrize(
    "words",
    [
        ["jaxprune.run", "--method", "random"],  # its runs/ would be here
        pytest.param(
            ["jaxprune.run", "--method", "random", "--out", "hidden/run"], marks=pytest.mark.slow
        ),
        ["jaxprune.run", "--resume", "--out", "hidden"],
        ["jaxprune.run", "--config", "hidden/config.json"],
        pytest.param(
            ["jaxprune.run", "--dataset", "mnist", "--data-dir", "hidden"], marks=pytest.mark.slow
        ),
        ["jaxprune", "data", "prepare", "mnist", "--data-dir", "hidden/data"],
        ["jaxprune", "data", "prepare", "mnist", "--data-dir", "data"],
        ["jaxprune", "report", "hidden"],
        ["jaxprune", "bench", "hidden"],
        ["jaxprune", "export", "hidden", "--to", "onnx"],
        ["jaxprune", "sweep", "--out", "hidden/sweep", "--method", "random", "--seed", "0"],
    ],
    ids=" ".join,
)
def test_folders_that_are_locked_are_refused_in_one_line(words, tmp_path):
    (tmp_path / "hidden").mkdir(mode=0o000)
    tmp_path.chmod(0o555)
    try:
        ended = unprivileged.run(words, tmp_path)
    finally:
        tmp_path.chmod(0o755)
        (tmp_path / "hidden").chmod(0o755)
    if ended.returncode == unprivileged.CANNOT_DROP:
        pytest.skip("root here cannot give up its rights to other people's files")
    assert ended.returncode == 2, ended.stderr
    *_, line = ended.stderr.splitlines()
    assert line.startswith("jaxprune: error: ")
    assert "Permission denied" in line
    assert "Traceback" not in ended.stderr
    assert "Warning" not in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["hidden"]
