"""The figures show the data that they are given."""

import re

import numpy as np

from jaxprune.commands.report import figures
from jaxprune.commands.report.svg import inline

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
    assert set(levels) == {"budget 0.5", "dense network", "Pareto front"}
    # By cost: 0.47 with 75 %, 0.49 with 80 %, 0.51 with 95 %; 0.48 with 70 % is beaten.
    np.testing.assert_allclose(levels["Pareto front"], [[0.47, 0.49, 0.51], [0.75, 0.80, 0.95]])
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


def test_report_of_a_single_infeasible_candidate_can_be_drawn():
    one = np.array([0.6]), np.array([0.5])
    figures.progress(one[1], one[0] <= 0.5, {}).savefig("/dev/null", format="png")
    figures.candidates(*one, {}, budget=0.5, cost_name="parameters").savefig(
        "/dev/null", format="png"
    )


def test_many_candidates_become_one_image():
    rng = np.random.default_rng(0)
    cost, accuracy = rng.random((2, figures.MANY + 1))
    figure = figures.candidates(cost, accuracy, {}, budget=0.5, cost_name="parameters")
    assert len(inline(figure, "many", 1)) < 100_000
    few = figures.candidates(cost[:10], accuracy[:10], {}, budget=0.5, cost_name="parameters")
    assert "<image" not in inline(few, "few", 1)


def test_names_of_a_user_are_no_formulas():
    figure = figures.candidates(*([[0.5]] * 2), {}, budget=0.5, cost_name=r"$\frac{1$_<b>")
    drawn = inline(figure, "a <b> & c", 7)
    assert r"$\frac{1$_&lt;b&gt;" in drawn
    assert "<title>a &lt;b&gt; &amp; c</title>" in drawn


def test_a_drawing_has_its_own_names_and_the_colours_of_the_page():
    figure = figures.widths(DENSE_WIDTHS, {"conv1": 9, "conv2": 32})
    drawn = inline(figure, "widths", 3)
    assert "var(--accent)" in drawn
    assert not re.search(r"#[0-9a-f]{6}", drawn)
    ids = re.findall(r'\bid="([^"]*)"', drawn)
    assert ids
    assert all(name.startswith("figure3-") for name in ids)
    used = re.findall(r'(?:url\(|href=")#([^")]*)', drawn)
    assert set(used) <= set(ids)
    for unwanted in ("<metadata", "<style", "<?xml", "<!DOCTYPE", "DejaVu"):
        assert unwanted not in drawn


def test_fronts_and_answers_of_several_runs():
    (axes,) = figures.fronts(
        {"one": ([0.2, 0.4], [0.5, 0.9]), "two": ([0.3], [0.8])}, budgets=[0.4], cost_name="macs"
    ).axes
    drawn = {line.get_label(): line.get_xydata() for line in axes.lines}
    np.testing.assert_allclose(drawn["one"], [[0.2, 0.5], [0.4, 0.9]])
    np.testing.assert_allclose(drawn["two"], [[0.3, 0.8]])
    (axes,) = figures.comparison(
        {"one": (0.25, 0.9), "two": (0.5, 0.95)}, {"random": [(0.25, 0.6), (0.5, 0.7)]}, [0.97], "m"
    ).axes
    clouds = [cloud.get_offsets().tolist() for cloud in axes.collections]
    assert clouds == [[[0.25, 0.6], [0.5, 0.7]], [[0.25, 0.9]], [[0.5, 0.95]]]
    assert [text.get_text() for text in axes.texts] == ["one", "two"]


def test_equal_answers_share_a_star_and_a_label():
    def labels(count):
        runs = {f"r{number}": (0.25, 0.9) for number in range(count)} | {"other": (0.5, 0.95)}
        (axes,) = figures.comparison(runs, {}, [0.97], "macs").axes
        assert len(axes.collections) == 2
        return [text.get_text() for text in axes.texts]

    assert labels(2) == ["r0, r1", "other"]
    assert labels(4) == ["r0 and 3 more", "other"]
