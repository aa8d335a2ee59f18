"""report.md: every number of the result is in it."""

import pytest

from jaxprune.commands.report import report_text

DENSE_WIDTHS = {"conv1": 16, "conv2": 32}


def row(accuracy, **more):
    return {
        "test_accuracy": accuracy,
        "params": 24058,
        "macs": 378496,
        "neurons": 48,
        "latency_ms": 0.25,
        **more,
    }


def pruned_row(accuracy):
    return row(
        accuracy,
        macs=189248,
        val_accuracy_before_finetuning=0.801,
        test_accuracy_before_finetuning=0.7902,
        widths={"conv1": 9, "conv2": 32},
    )


def make_result(**changes):
    return {
        "method": "mcts",
        "model": "cnn",
        "dataset": "digits",
        "seed": 3,
        "examples": None,
        "budgets": [
            {
                "cost": "macs",
                "unit": "multiply-adds",
                "limit": 0.5,
                "amount": None,
                "dense": 378496,
                "pruned": 189248,
                "share": 0.5,
                "met": True,
            }
        ],
        "feasible": True,
        "dense": row(0.98),
        "pruned": pruned_row(0.975),
        "baselines": {
            "uniform_l1": pruned_row(0.961),
            "global_l1": pruned_row(0.952),
            "random": pruned_row(0.943),
        },
        "search": {
            "seconds": 12.34,
            "candidates": 4,
            "episodes": 4,
            "semifinalists": 16,
            "semifinal_steps": 64,
            "finalists": 3,
            "statistics": "batch",
            "importance": "l1",
            "device": "cpu, 2 cores",
        },
        "compact_max_abs_difference": 2.5e-7,
        **changes,
    }


def cells(text, start):
    """The cells of the table row that starts with a word."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_text_holds_the_numbers():
    text = report_text(make_result(), DENSE_WIDTHS)
    assert "50.0% of the multiply-adds remain (50.0% were allowed)" in text
    assert "The test accuracy is 97.50%, 0.50 points below the dense network's 98.00%" in text
    assert cells(text, "**mcts**") == [
        "**mcts**", "97.50%", "79.02%", "80.10%", "189,248", "24,058", "48", "0.250",
    ]  # fmt: skip
    assert cells(text, "dense")[:4] == ["dense", "98.00%", "", ""]
    assert cells(text, "random")[1] == "94.30%"
    assert cells(text, "conv1") == ["conv1", "16", "9", "56%"]
    assert "4 candidates, 4 episodes, 12.3 s on cpu, 2 cores; seed 3" in text
    assert "at most 2.5e-07" in text


@pytest.mark.parametrize(
    ("accuracy", "words"),
    [(0.98, "the same as the dense"), (0.991, "1.10 points above the dense")],
)
def test_text_says_in_which_direction_the_accuracy_changed(accuracy, words):
    assert words in report_text(make_result(pruned=pruned_row(accuracy)), DENSE_WIDTHS)


def test_text_says_what_was_allowed_in_the_units_of_the_costs():
    latency = {
        **{"cost": "latency", "unit": "ms", "limit": 0.5, "amount": 0.4},
        **{"dense": 0.8, "pruned": 0.35, "share": 0.4375, "met": True},
    }
    params = {
        **{"cost": "params", "unit": "parameters", "limit": 0.5, "amount": 200_000.0},
        **{"dense": 400_000, "pruned": 150_000, "share": 0.375, "met": True},
    }
    text = report_text(make_result(budgets=[latency, params]), DENSE_WIDTHS)
    assert "0.35 ms latency remain (0.4 ms were allowed, the dense network has 0.8)" in text
    assert "150,000 parameters remain (200,000 parameters were allowed" in text


def test_text_says_when_the_budget_is_missed():
    assert "The budget is not met" in report_text(make_result(feasible=False), DENSE_WIDTHS)
    assert "not met" not in report_text(make_result(), DENSE_WIDTHS)
