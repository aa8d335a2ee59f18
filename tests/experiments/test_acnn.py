"""What the experiments of the ACNN paper make of rows and of the paper's numbers."""

import json
import statistics

import acnn_ablation
import acnn_figures
import acnn_paper
import acnn_tables
import jax
import jax.numpy as jnp
import l0_lenet300
import numpy as np
import pytest
import rows

from jaxprune import costs, trace
from jaxprune.commands import config
from jaxprune.commands.run import arguments
from jaxprune.networks import bundled

CASES = pytest.mark.parametrize("case", acnn_paper.CASES)


def result(seed=0, widths=(200, 100, 40), accuracy=0.97, seconds=10.0):
    """A result.json with what the tables read of one; `global_l1` loses 2 points, random 3."""
    names = ("input", "fc1", "fc2")
    size = {"params": 26_661, "macs": 26_620, "widths": dict(zip(names, widths, strict=True))}

    def network(after, before):
        return {"test_accuracy": after, "test_accuracy_before_finetuning": before, **size}

    return {
        "versions": {"jax": "0"},
        "seed": seed,
        "dense": {"test_accuracy": 0.98, "params": 266_610, "macs": 266_200},
        "pruned": network(accuracy, 0.5),
        "baselines": {
            "uniform_l1": network(0.975, 0.6),
            "global_l1": network(0.96, 0.6),
            "random": network(0.95, 0.1),
            "uniform": network(0.965, 0.6),
        },
        "search": {"seconds": seconds, "device": "here"},
    }


def keep(row, folder, made, lines=()):
    curves = {name: [line[name] for line in lines] for name in lines[0]} if lines else {}
    rows.add(row.name, {**made, "curves": curves}, folder)


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """An empty folder in place of the rows that were run."""
    monkeypatch.setattr(acnn_tables, "OUT", tmp_path)
    return tmp_path


# ------------------------------------------------------------------------------ the paper's numbers


def test_compression_and_multiply_adds_by_hand():
    mnist = acnn_paper.CASES["mnist"]
    assert acnn_paper.neuron_compression(mnist.layers, (219, 81, 43)) == 1184 / 343
    assert acnn_paper.multiply_adds((219, 81, 43)) == 219 * 81 + 81 * 43 + 43 * 10 == 21_652
    left = acnn_paper.multiply_adds_left(mnist, (219, 81, 43))
    assert left == pytest.approx(100 * 21_652 / 266_200)


@CASES
def test_the_dense_networks_are_those_of_the_tool(case):
    known = acnn_paper.CASES[case]
    model = known.options[known.options.index("--model") + 1]
    shape = (32, 32, 3) if case == "cifar10" else (28, 28, 1)
    network = bundled.build(model, shape)
    variables = jax.eval_shape(network.init, jax.random.PRNGKey(0))
    x = jnp.zeros((1, int(np.prod(shape))))
    structure = trace(network.apply, variables, x, prune_inputs=True)
    assert tuple(group.size for group in structure.groups) == known.layers
    assert costs.dense(structure, "macs") == acnn_paper.multiply_adds(known.layers)
    assert costs.dense(structure, "neurons") == sum(known.layers)
    assert costs.dense(structure, "params") == l0_lenet300.parameters(known.layers)


@CASES
def test_budgets_reach_the_ncr_and_leave_no_neuron_out(case):
    known = acnn_paper.CASES[case]
    for ncr in (acnn_tables.paper_ncr(case), *acnn_tables.OTHER_NCRS):
        allowed = acnn_paper.neurons_allowed(known, ncr)
        assert sum(known.layers) / allowed >= ncr > sum(known.layers) / (allowed + 1)


def test_what_is_printed_as_flops_is_not_multiply_adds():
    for case in acnn_paper.CASES.values():
        for row in case.quoted.values():
            assert abs(row.flops - 100 / row.ncr) < 2
            assert row.flops > 2 * acnn_paper.multiply_adds_left(case, row.layers)
            assert acnn_paper.neuron_compression(case.layers, row.layers) == pytest.approx(
                row.ncr, abs=0.02
            )


# --------------------------------------------------------------------------------------- the tables


def test_every_row_is_a_command_that_the_tool_takes():
    names = [row.name for row in acnn_tables.all_rows(acnn_tables.CURVE_SEEDS)]
    assert len(set(names)) == len(names) == 3 * (11 * 5 + 10 * 4)
    commands = [
        *(
            acnn_tables.row(case, m, 6.0, 1)
            for case in acnn_paper.CASES
            for m in (*acnn_tables.METHODS, acnn_tables.SIMPLE, acnn_tables.DENSE)
        ),
        *(
            acnn_ablation.row("mnist", agent, step, 2)
            for agent in acnn_ablation.AGENTS
            for step in (0, 1)
        ),
        *(
            l0_lenet300.row(name, n, 0)
            for name in l0_lenet300.PUBLISHED
            for n in l0_lenet300.TRAININGS
        ),
    ]
    for row in commands:
        options = arguments.parse(list(row.words))
        config.check(options.run)
        assert options.run.prune_inputs
    targets = arguments.parse(list(acnn_tables.row("mnist", "cacp", 6.0, 0).words)).search.targets
    np.testing.assert_allclose([1 / t for t in targets], [3.46, 2, 10, 16], rtol=0.01)


def test_a_row_of_the_table_is_mean_and_deviation_over_seeds(tables):
    ncr = acnn_tables.paper_ncr("mnist")
    losses, layers = (1.0, 1.5, 3.5), ((200, 100, 40), (210, 90, 40), (190, 80, 40))
    for seed, (loss, widths) in enumerate(zip(losses, layers, strict=True)):
        made = result(seed, widths, 0.98 - loss / 100, seconds=10.0 * seed)
        row = acnn_tables.row("mnist", "amc", ncr, seed)
        keep(row, tables, made, [{"sparsity": 0.5}, {"sparsity": 0.25}])
    line = dict(zip(acnn_tables.MEASURED, acnn_tables.measured("mnist", "amc"), strict=True))
    assert line["seeds"] == "3"
    assert line["loss before fine-tuning"] == "48.00 ± 0.00"
    assert line["loss"] == f"2.00 ± {statistics.stdev(losses):.2f}"
    assert line["layers"] == "200-90-40"
    ncrs = [1184 / sum(widths) for widths in layers]
    assert line["NCR"] == f"{statistics.mean(ncrs):.2f} ± {statistics.stdev(ncrs):.2f}"
    assert line["multiply-adds left, %"] == "10.0 ± 0.0"
    assert line["parameters left, %"] == "10.0 ± 0.0"
    assert line["search, s"] == "10 ± 10"
    assert line["agent's zeros, %"] == "25.0 ± 0.0"


def test_baselines_are_taken_from_the_run_that_has_them(tables):
    ncr = acnn_tables.paper_ncr("mnist")
    keep(acnn_tables.row("mnist", "l0", ncr, 3), tables, result(3, accuracy=0.9))
    assert acnn_tables.points("mnist", "global_l1", ncr, acnn_tables.SEEDS) == []
    keep(acnn_tables.row("mnist", "baselines", ncr, 3), tables, result(3))
    (point,) = acnn_tables.points("mnist", "global_l1", ncr, acnn_tables.SEEDS)
    assert point.after == pytest.approx(2.0)
    (point,) = acnn_tables.points("mnist", "uniform_reconstruction", ncr, acnn_tables.SEEDS)
    assert point.after == pytest.approx(1.5)


def test_a_curve_passes_a_loss_on_a_straight_line():
    curve = [(2.0, -0.5), (4.0, 0.5), (6.0, 1.5)]
    assert acnn_tables.passes(curve, 0.0) == 3.0
    assert acnn_tables.passes(curve, 0.75) == 4.5
    assert acnn_tables.passes(curve, 1.5) is None
    assert acnn_tables.passes(curve, -1.0) is None


def test_the_verdict_names_the_lowest_and_compares_with_half_of_the_papers(tables):
    ncr = acnn_tables.paper_ncr("mnist")
    assert acnn_tables.verdict("mnist", (0,)) == "ACNN: not run."
    keep(acnn_tables.row("mnist", "baselines", ncr, 0), tables, result())
    keep(acnn_tables.row("mnist", "acnn", ncr, 0), tables, result(accuracy=0.97))
    verdict = acnn_tables.verdict("mnist", (0,))
    assert "order of L1 norm loses 1.00 points, more than half of the 0.20" in verdict
    assert "uniform_l1 loses least, 0.50" in verdict
    best = acnn_tables.row("mnist", "acnn_reconstruction", ncr, 0)
    keep(best, tables, result(accuracy=0.979))
    verdict = acnn_tables.verdict("mnist", (0,))
    assert "order of reconstruction loses 0.10 points, at most half of the 0.20" in verdict
    assert "acnn_reconstruction loses least" in verdict


def test_what_fine_tuning_makes_of_the_whole_network_is_given(tables):
    ncr = acnn_tables.paper_ncr("mnist")
    assert "none of it removed: not run." in acnn_tables.dense("mnist")
    keep(acnn_tables.row("mnist", "dense", ncr, 0), tables, result(accuracy=0.985))
    assert "none of it removed: 98.50." in acnn_tables.dense("mnist")


def test_the_page_says_what_was_not_run(tables):
    text = acnn_tables.page(acnn_tables.CURVE_SEEDS)
    for method in acnn_tables.METHODS:
        assert text.count(f"| {method} | 0 | not run |") == 3
    for _, case in acnn_paper.CASES.items():
        for method, row in case.quoted.items():
            layers = "-".join(map(str, row.layers))
            assert f"| {method} | {layers} | {row.ncr:.2f} |" in text
    assert "± nan" not in text


# -------------------------------------------------------------------------- ablation, figures, rows


def test_what_the_step_changes_is_paired_by_seed(tables, tmp_path, monkeypatch):
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setattr(acnn_ablation, "OUT", own)
    ncr = acnn_tables.paper_ncr("mnist")

    def lines(reward):
        last = {"sparsity": 0.5, "feasible": 1.0, "best_accuracy": 0.9}
        return [last | {"reward": 100.0}] + [last | {"reward": reward}] * acnn_ablation.LAST

    for seed, accuracy in ((0, 0.97), (1, 0.96), (4, 0.95)):
        row = acnn_tables.row("mnist", "acnn", ncr, seed)
        keep(row, tables, result(seed, accuracy=accuracy), lines(3.0))
    for seed, accuracy in ((0, 0.96), (1, 0.965), (2, 0.5)):
        row = acnn_ablation.row("mnist", "bounded", False, seed)
        keep(row, own, result(seed, accuracy=accuracy), lines(2.0 + seed))
    with_step, without = (acnn_ablation.found("mnist", "bounded", s) for s in (True, False))
    assert (set(with_step), set(without)) == ({0, 1, 4}, {0, 1, 2})
    changes = acnn_ablation.differences(with_step, without)
    np.testing.assert_allclose([one.after for one in changes], [-1.0, 0.5], atol=1e-9)
    np.testing.assert_allclose([one.reward for one in changes], [1.0, 0.0])
    said = acnn_ablation.sentence("loss", lambda one: one.after, {"mnist": changes})
    assert "higher with the step in 1 of 2 pairs, lower in 1" in said
    assert "-0.25 ± 1.06" in said


def test_weights_are_spread_out_to_where_they_were():
    kernel = np.array([[1.0, 2.0], [3.0, 4.0]])
    whole = acnn_figures.spread_out(kernel, (0, 3), (1, 2), (4, 3))
    np.testing.assert_array_equal(whole, [[0, 1, 2], [0, 0, 0], [0, 0, 0], [0, 3, 4]])


def test_a_finished_run_becomes_a_row_with_the_curves_of_its_search(tmp_path):
    row = rows.Row("one", ("--method", "acnn"), curves=True)
    run, results = tmp_path / "runs" / "one", tmp_path / "results"
    run.mkdir(parents=True)
    (run / "result.json").write_text(json.dumps({"seed": 7}))
    (run / "config.json").write_text(json.dumps({"versions": {"jax": "1"}}))
    lines = [{"phase": "pretrain", "step": 1}, {"phase": "search", "step": 1, "reward": 2.0}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows.make(row, tmp_path / "runs", results)
    assert rows.curves(row, results) == [{"reward": 2.0}]
    kept = rows.read(row, results)
    assert (kept["seed"], kept["command"]) == (7, "python -m jaxprune.run --method acnn")
    assert rows.curves(row._replace(name="other"), results) == []


def test_published_l0_networks_by_hand():
    assert l0_lenet300.parameters((266, 88, 33)) == 266 * 88 + 88 + 88 * 33 + 33 + 33 * 10 + 10
    assert l0_lenet300.parameters((784, 300, 100)) == 266_610
