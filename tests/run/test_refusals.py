"""Whatever cannot work is refused with one message and exit code 2, before anything is written.

Every option of every method is tried with a value of another type and one outside its range; the
mistakes that have a message of their own are listed below them.
"""

import dataclasses
from types import NoneType
from typing import get_args, get_origin, get_type_hints

import pytest

from jaxprune import data, methods, models
from jaxprune.config import RunConfig
from jaxprune.run.command import main

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


def refused(words, capsys):
    """What is said on stderr in refusing; nothing may be said on stdout."""
    try:
        code = main(words)
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
        (["--model", "vgg99"], ["'vgg99'", *models.NAMES]),
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
