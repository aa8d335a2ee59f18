"""The curves of a search: what is drawn of which numbers."""

import numpy as np
import pytest

from jaxprune.commands.report import curves, figures

BUDGETS, GROUPS = ["parameters", "latency"], ["conv1", "conv2"]


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


@pytest.fixture
def found():
    graphs = curves.graphs([line_of_learning(step) for step in (1, 2, 3)], BUDGETS, GROUPS)
    return {graph.curve.title: graph for graph in graphs}


def test_a_constrained_search_has_its_four_curves(found):
    assert list(found) == ["Reward", "Cost", "Lagrange multiplier", "Action for each group"]
    np.testing.assert_array_equal(found["Reward"].steps, [10, 20, 30])
    assert found["Reward"].axis == "timesteps"
    values = {
        title: {line.label: line.values.tolist() for line in graph.lines}
        for title, graph in found.items()
    }
    assert values["Reward"]["reward"] == pytest.approx([0.6, 0.7, 0.8])
    assert values["Cost"]["parameters"] == pytest.approx([0.4, 0.2, 0.4 / 3])
    assert values["Lagrange multiplier"] == {"parameters": [1, 2, 3], "latency": [0, 0, 0]}
    assert values["Action for each group"] == {
        **{"conv1": [0.25] * 3, "conv2": [0.75] * 3, "mean": [0.5] * 3}
    }
    assert [level.values[-1] for level in found["Cost"].levels] == [0.3, 0.5]
    # The fine-tuning changes after the second line, at timestep 20.
    assert found["Reward"].changes.tolist() == [20]


def test_the_figure_of_a_curve_shows_its_numbers(found):
    (axes,) = figures.curve(found["Cost"]).axes
    drawn = {line.get_label(): line.get_xydata() for line in axes.lines}
    np.testing.assert_allclose(drawn["parameters"], [[10, 0.4], [20, 0.2], [30, 0.4 / 3]])
    np.testing.assert_allclose(drawn["limit 0.5"][:, 1], 0.5)
    assert any(list(line.get_xdata()) == [20, 20] for line in axes.lines)


def test_the_figure_of_all_curves_has_a_panel_for_each(found):
    figure = figures.learning(list(found.values()))
    assert [axes.get_title() for axes in figure.axes] == list(found)


def test_visits_are_parts_of_all(found):
    lines = [{"iteration": 1, "visits": [30, 10]}, {"iteration": 2, "visits": [10, 10]}]
    (graph,) = curves.graphs(lines, BUDGETS, GROUPS)
    assert graph.axis == "iteration"
    assert [line.values.tolist() for line in graph.lines] == [[0.75, 0.5], [0.25, 0.5]]


def test_losses_share_a_graph_and_other_numbers_are_left_out():
    lines = [{"iteration": step, "actor_loss": -step, "critic_loss": step} for step in (1, 2)]
    (graph,) = curves.graphs([{**line, "other": 3} for line in lines], [], [])
    assert {line.label: line.values.tolist() for line in graph.lines} == {
        **{"actor": [-1, -2], "critic": [1, 2]}
    }


def test_a_single_round_has_no_curves():
    assert curves.graphs([line_of_learning(1)], BUDGETS, GROUPS) == []


def test_many_lines_are_shaded_and_only_the_ends_named():
    groups = [f"layer{number}" for number in range(8)]
    lines = [{"iteration": step, "visits": list(range(8))} for step in (1, 2)]
    (axes,) = figures.curve(curves.graphs(lines, [], groups)[0]).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["layer0", "layer7"]
