"""--distill: fine-tuning with the dense network as teacher, interrupted and resumed."""

import numpy as np
import pytest

import jaxprune
from commands.run.runs import assert_alike, read
from jaxprune import training
from jaxprune.commands.run.command import main

RUN = [
    *("--method", "magnitude", "--model", "cnn", "--budget", "0.4", "--examples", "200"),
    *("--pretrain-epochs", "2", "--finetune-epochs", "2", "--search-examples", "64"),
    *("--semifinalists", "1", "--finalists", "1", "--baselines", "uniform_l1"),
]


@pytest.mark.slow
def test_a_taught_run_is_resumed_within_its_fine_tuning(tmp_path, monkeypatch):
    whole, cut, plain = (tmp_path / name for name in ("whole", "cut", "plain"))
    cache = ["--cache-dir", str(tmp_path / "cache")]
    taught = [*RUN, *cache, "--distill", "0.7", "--distill-temperature", "2"]
    assert main([*taught, "--out", str(whole)]) == 0
    assert read(whole / "result.json")["training"]["distill"] == 0.7

    class Stopping(training.Kept):
        def __init__(self, path):
            super().__init__(path, every=0.0)

        def save(self, position):
            super().save(position)
            if position.epoch == 1:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "Kept", Stopping)
        assert main([*taught, "--out", str(cut)]) == 130
    (position,) = (cut / "state").glob("finetuning_*.npz")
    assert main(["--resume", *cache, "--out", str(cut)]) == 0
    assert not position.exists()
    assert_alike(cut, whole)
    lines = [line for line in read_lines(cut) if line["phase"].startswith("finetune")]
    steps = [(line["phase"], line["step"]) for line in lines]
    assert len(steps) == len(set(steps))

    assert main([*RUN, *cache, "--out", str(plain)]) == 0
    one, other = (jaxprune.load(folder).params["params"] for folder in (whole, plain))
    assert not np.array_equal(one["classifier"]["bias"], other["classifier"]["bias"])


def read_lines(folder):
    from jaxprune.files.run_folder import metrics

    return metrics(folder / "metrics.jsonl")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--distill", "1.5"], "--distill 1.5 is outside [0, 1]"),
        (["--distill-temperature", "0"], "--distill-temperature 0 is too small"),
        (["--recipe", "long"], "unknown recipe 'long'; the recipes are: short, default, paper"),
    ],
)
def test_what_cannot_work_is_refused(words, said, capsys):
    assert main(words) == 2
    assert said in capsys.readouterr().err
