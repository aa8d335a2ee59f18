"""Which candidates of a search are fine-tuned to the end."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.run.runs import read
from jaxprune.commands.run import main
from jaxprune.commands.run.finalists import leaders
from jaxprune.files import checkpoint


def test_leaders_of_four_stretches_by_hand():
    # Of 12 candidates, the stretches are 0-2, 3-5, 6-8 and 9-11; nothing of 3-5 is within budget.
    ranked = np.array([7, 10, 8, 11, 0, 2])
    np.testing.assert_array_equal(leaders(ranked, 12, 4), [7, 10, 0, 8])


@given(st.permutations(range(20)), st.integers(1, 20), st.integers(1, 30))
def test_leaders_against_a_loop(order, within, count):
    ranked = np.array(order[:within])
    chosen = list(leaders(ranked, 20, count))
    best = {}
    for candidate in order[:within]:
        best.setdefault(candidate * count // 20, candidate)
    expected = [c for c in order[:within] if c in best.values()]
    expected += [c for c in order[:within] if c not in expected]
    assert chosen == expected[:count]
    assert chosen[0] == order[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "random"
    words = [
        *("--method", "random", "--model", "lenet300", "--search-examples", "64"),
        *("--pretrain-epochs", "2", "--finetune-epochs", "1", "--search.candidates", "24"),
        *("--semifinalists", "6", "--semifinal-steps", "3", "--finalists", "2"),
        *("--cache-dir", str(tmp_path_factory.mktemp("cache"))),
    ]
    assert main([*words, "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_those_of_the_lowest_loss_after_a_few_steps_go_on(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    semifinal = [line for line in lines if line["phase"] == "semifinal"]
    assert len({line["candidate"] // 4 for line in semifinal}) == len(semifinal) == 6
    by_loss = sorted(semifinal, key=lambda line: line["loss"])
    found = checkpoint.load(run / "state" / "answer")["archive"]["masks"]
    chosen = checkpoint.load(run / "state" / "finalists")["masks"]
    assert len(chosen) == 2
    for line, mask in zip(by_loss, chosen, strict=False):
        assert (mask >= found[line["candidate"]]).all()
    tuned = {line["phase"] for line in lines if line["phase"].startswith("finetune finalist")}
    assert tuned == {"finetune finalist_1", "finetune finalist_2"}


@pytest.mark.slow
def test_as_many_semifinalists_as_finalists_train_nothing(run, tmp_path, capsys):
    words = [
        *("--method", "random", "--model", "lenet300", "--search-examples", "64"),
        *("--pretrain-epochs", "2", "--finetune-epochs", "1", "--search.candidates", "24"),
        *("--semifinalists", "2", "--finalists", "2"),
        *("--cache-dir", str(tmp_path / "cache")),
    ]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert "semifinal" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    archive = checkpoint.load(tmp_path / "run" / "state" / "answer")["archive"]
    chosen = checkpoint.load(tmp_path / "run" / "state" / "finalists")["masks"]
    (first, *_) = np.flatnonzero((archive["masks"] == chosen[0]).all(1))
    assert len(chosen) == 2
    assert archive["validation"][first] == archive["validation"].max()


@pytest.mark.slow
def test_compensation_helps_before_fine_tuning(tmp_path):
    words = [
        *("--method", "magnitude", "--model", "lenet300", "--search-examples", "512"),
        *("--pretrain-epochs", "4", "--finetune-epochs", "0", "--budget", "0.1"),
        *("--cache-dir", str(tmp_path / "cache")),
    ]
    assert main([*words, "--out", str(tmp_path / "plain")]) == 0
    assert main([*words, "--compensate", "--out", str(tmp_path / "run")]) == 0
    plain, helped = read(tmp_path / "plain/result.json"), read(tmp_path / "run/result.json")
    for name in ("uniform_l1", "global_l1"):
        before, after = (result["baselines"][name] for result in (plain, helped))
        assert before["widths"] == after["widths"]
        assert after["val_accuracy_before_finetuning"] > before["val_accuracy_before_finetuning"]


@pytest.mark.slow
def test_another_criterion_is_compared_with_uniform_pruning_by_it(run, tmp_path):
    words = [
        *("--method", "magnitude", "--model", "lenet300", "--search-examples", "64"),
        *("--pretrain-epochs", "2", "--finetune-epochs", "1", "--importance", "reconstruction"),
        *("--cache-dir", str(run.parent.parent / "other"), "--out", str(tmp_path / "run")),
    ]
    assert main(words) == 0
    result = read(tmp_path / "run" / "result.json")
    assert list(result["baselines"]) == ["uniform_l1", "global_l1", "random", "uniform"]
    assert result["baselines"]["uniform"]["widths"] == result["baselines"]["uniform_l1"]["widths"]
    assert "criterion reconstruction" in (tmp_path / "run" / "report.md").read_text()
