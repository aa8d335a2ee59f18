"""The report: every number of the result is in it, the figures show the data they are given."""

import numpy as np
import pytest
from matplotlib.image import imread

from jaxprune.problem import Archive
from jaxprune.report import figures, report_text, write_report

DENSE_WIDTHS = {"conv1": 16, "conv2": 32}
COST = np.array([0.48, 0.49, 0.51, 0.47], np.float32)
ACCURACY = np.array([0.70, 0.80, 0.95, 0.75], np.float32)
POINTS = {
    "dense": (1.0, 0.97),
    "pruned": (0.49, 0.80),
    "uniform_l1": (0.5, 0.78),
    "global_l1": (0.499, 0.74),
    "random": (0.45, 0.6),
}


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


def test_widths_figure_has_a_bar_before_and_after_for_each_group():
    (axes,) = figures.widths(DENSE_WIDTHS, {"conv1": 9, "conv2": 32}).axes
    assert [bar.get_width() for bar in axes.patches] == [16, 32, 9, 32]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["conv1", "conv2"]
    assert [text.get_text() for text in axes.texts] == ["9 of 16  (56%)", "32 of 32  (100%)"]


def test_candidates_figure_shows_every_candidate_and_every_point():
    (axes,) = figures.candidates(COST, ACCURACY, POINTS, budget=0.5, cost_name="multiply-adds").axes
    clouds = {cloud.get_label(): cloud.get_offsets() for cloud in axes.collections}
    np.testing.assert_allclose(clouds["4 candidates"], np.stack([COST, ACCURACY], axis=1))
    np.testing.assert_allclose(clouds["answer"], [POINTS["pruned"]])
    np.testing.assert_allclose(clouds["random"], [POINTS["random"]])
    levels = {line.get_label(): line.get_data() for line in axes.lines}
    assert set(levels) == {"budget 0.5", "dense network"}
    assert set(levels["dense network"][1]) == {0.97}


def test_progress_figure_ignores_infeasible_candidates():
    (axes,) = figures.progress(ACCURACY, COST <= 0.5, POINTS, rounds=[2, 4]).axes
    (best,) = [line for line in axes.lines if line.get_label() == "best so far"]
    np.testing.assert_allclose(best.get_ydata(), [0.70, 0.80, 0.80, 0.80])
    np.testing.assert_array_equal(best.get_xdata(), [1, 2, 3, 4])


def test_candidates_without_a_validation_accuracy_are_left_out():
    accuracy = np.where([True, False, True, True], ACCURACY, np.nan)
    (axes,) = figures.candidates(COST, accuracy, POINTS, budget=0.5, cost_name="macs").axes
    labels = [child.get_label() for child in axes.get_children()]
    assert "3 of 4 candidates" in labels
    (axes,) = figures.progress(accuracy, COST <= 0.5, POINTS).axes
    (best,) = (line for line in axes.lines if line.get_label() == "best so far")
    np.testing.assert_allclose(best.get_ydata(), [0.7, 0.7, 0.7, 0.75])


def line_of_learning(step):
    return {
        "timesteps": 10 * step,
        "candidates": step,
        "reward": 0.5 + 0.1 * step,
        "cost": [0.4 / step, 0.9],
        "limit": [0.3, 0.5],
        "multiplier": [1.0 * step, 0.0],
        "action": [0.25, 0.75],
        "finetune_steps": 0 if step < 3 else 32,
    }


def test_constrained_learning_shows_its_four_curves():
    lines = [line_of_learning(step) for step in (1, 2, 3)]
    figure = figures.constrained_learning(lines, ["params", "latency"], ["conv1", "conv2"])
    reward, cost, multiplier, action = figure.axes
    np.testing.assert_allclose(reward.lines[0].get_xydata(), [[10, 0.6], [20, 0.7], [30, 0.8]])
    drawn = {line.get_label(): line.get_ydata() for line in cost.lines}
    np.testing.assert_allclose(drawn["params"], [0.4, 0.2, 0.4 / 3])
    np.testing.assert_allclose(drawn["limit 0.5"], 0.5)
    np.testing.assert_allclose(multiplier.lines[0].get_ydata(), [1, 2, 3])
    drawn = {line.get_label(): line.get_ydata() for line in action.lines}
    np.testing.assert_allclose(drawn["conv2"], 0.75)
    np.testing.assert_allclose(drawn["mean"], 0.5)
    # The fine-tuning changes after the second line, at timestep 20.
    assert any(list(line.get_xdata()) == [20, 20] for line in reward.lines)


def test_the_report_of_a_constrained_search_has_its_curves(tmp_path):
    archive = Archive(np.ones((4, 48), np.uint8), COST, ACCURACY, ACCURACY, ACCURACY)
    lines = [{**line_of_learning(step), "cost": [0.4], "limit": [0.5]} for step in (1, 2)]
    write_report(
        tmp_path,
        make_result(),
        archive=archive,
        metrics=lines,
        dense_widths=DENSE_WIDTHS,
        points=POINTS,
        budget=0.5,
    )
    assert "](figures/learning.png)" in (tmp_path / "report.md").read_text()
    assert min(imread(tmp_path / "figures" / "learning.png").shape[:2]) > 100


def test_written_report_names_files_that_exist(tmp_path):
    archive = Archive(np.ones((4, 48), np.uint8), COST, ACCURACY, ACCURACY, ACCURACY)
    write_report(
        tmp_path,
        make_result(),
        archive=archive,
        metrics=[{"candidates": 2}, {"candidates": 4}],
        dense_widths=DENSE_WIDTHS,
        points=POINTS,
        budget=0.5,
    )
    text = (tmp_path / "report.md").read_text()
    for name in ("widths", "candidates", "progress"):
        assert f"](figures/{name}.png)" in text
        image = imread(tmp_path / "figures" / f"{name}.png")
        assert min(image.shape[:2]) > 100
        assert image.min() < image.max()


def test_report_of_a_single_infeasible_candidate_can_be_drawn():
    one = np.array([0.6]), np.array([0.5])
    figures.progress(one[1], one[0] <= 0.5, {}).savefig("/dev/null", format="png")
    figures.candidates(*one, {}, budget=0.5, cost_name="parameters").savefig(
        "/dev/null", format="png"
    )
