"""The HTML pages of real runs: their numbers, their markup, and what the command refuses."""

import itertools
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jaxprune import UserError
from jaxprune.commands import report
from jaxprune.commands.report import weights, wording
from jaxprune.commands.report.command import main
from jaxprune.commands.run import main as run

html5lib = pytest.importorskip("html5lib", reason="html5lib, of the extra test, reads the pages")

TINY = [
    *("--model", "lenet300", "--prune-inputs", "--budget", "0.3", "--examples", "128"),
    *("--pretrain-epochs", "2", "--finalists", "1"),
]
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<script>alert('1')&amp;"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of two tiny runs; the name of the first means harm."""
    base = tmp_path_factory.mktemp("runs")
    cache = ["--cache-dir", str(base / "cache")]
    first, second = base / HOSTILE, base / "plain"
    one_epoch = ["--finetune-epochs", "1"]
    assert run([*TINY, *cache, "--method", "magnitude", *one_epoch, "--out", str(first)]) == 0
    words = ["--method", "random", "--search.candidates", "6", "--finetune-epochs", "0"]
    assert run([*TINY, *cache, *words, "--out", str(second)]) == 0
    return first, second


@pytest.fixture
def copy(runs, tmp_path):
    """A copy of the second run, to be spoilt."""
    return Path(shutil.copytree(runs[1], tmp_path / "copy"))


@pytest.fixture(scope="module")
def page(runs):
    return (runs[0] / "report.html").read_text()


def parsed(page):
    """The page as a tree, if it is HTML without any error."""
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    return parser.parse(page)


def table(tree, name):
    """The rows of a table's body as lists of texts."""
    (found,) = [element for element in tree.iter("table") if element.get("id") == name]
    return [
        [" ".join("".join(cell.itertext()).split()) for cell in row if cell.tag in ("th", "td")]
        for row in found.find("tbody")
    ]


def text_of(tree):
    return " ".join("".join(tree.find("body").itertext()).split())


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


# --- the page of one run -------------------------------------------------------------------------


def test_the_table_holds_the_numbers_of_the_result(runs, page):
    result = result_of(runs[0])
    rows = {"dense": result["dense"], "magnitude answer": result["pruned"]}
    for name in result["baselines"]:
        rows[wording.NETWORKS[name]] = result["baselines"][name]
    shown = table(parsed(page), "networks")
    assert [row[0] for row in shown] == list(rows)
    for (_, test, before, macs, params, neurons, call), row in zip(
        shown, rows.values(), strict=True
    ):
        assert test == f"{row['test_accuracy']:.2%}"
        given = row.get("test_accuracy_before_finetuning")
        assert before == ("\N{EN DASH}" if given is None else f"{given:.2%}")
        assert [macs, params, neurons] == [f"{row[c]:,}" for c in ("macs", "params", "neurons")]
        assert float(call) == pytest.approx(row["latency_ms"], abs=5e-4)


def test_the_first_words_say_what_was_asked_and_what_came_out(runs, page):
    result = result_of(runs[0])
    text = text_of(parsed(page))
    assert "until at most 30% of its multiply-adds remain" in text
    assert "✓ The budget is met." in text
    share = result["pruned"]["macs"] / result["dense"]["macs"]
    assert f"{share:.1%} of the multiply-adds remain (30.0% were allowed)" in text
    assert f"{result['pruned']['params'] / result['dense']['params']:.1%} of the parameters" in text
    assert "at most 128 images were used: the numbers are rough" in text
    version = json.loads((runs[0] / "config.json").read_text())["versions"]["jax"]
    assert ["jax", version] in table(parsed(page), "versions")


def test_the_layers_add_up_to_the_network(runs, page):
    result = result_of(runs[0])
    rows = table(parsed(page), "layers")
    assert [row[0] for row in rows] == ["fc1", "fc2", "fc3"]

    def totals(column):
        pairs = [row[column].replace(",", "").split(" → ") for row in rows]
        return [sum(map(int, side)) for side in zip(*pairs, strict=True)]

    for column, cost in ((5, "params"), (7, "macs")):
        assert totals(column) == [result["dense"][cost], result["pruned"][cost]]
    widths = result["pruned"]["widths"]
    assert [row[3] for row in rows[:2]] == [f"300 → {widths['fc1']}", f"100 → {widths['fc2']}"]
    assert f"input: {widths['input']} of 64" in page


def test_the_pictures_are_of_the_filters_that_stay_and_go(runs, page):
    kept = json.loads((runs[0] / "model" / "widths.json").read_text())["kept"]["fc1"]
    alts = [image.get("alt") for image in parsed(page).iter("img")]
    most = weights.MOST_FILTERS
    assert [alt for alt in alts if alt.endswith(", kept")] == [
        f"Filter {number}, kept" for number in kept[:most]
    ]
    gone = sorted(set(range(300)) - set(kept))
    assert [alt for alt in alts if alt.endswith(", removed")] == [
        f"Filter {number}, removed" for number in gone[:most]
    ]
    assert "Weights of fc3 after" in alts


def test_the_time_of_every_phase_is_told(runs, page):
    seconds = json.loads((runs[0] / "timings.json").read_text())
    assert list(seconds) == ["pretrain", "search", "semifinal", "finetune", "evaluate"]
    shown = dict(table(parsed(page), "times"))
    assert shown["fine-tuning of all networks"] == wording.duration(seconds["finetune"])
    assert shown["search"] == wording.duration(result_of(runs[0])["search"]["seconds"])


@pytest.mark.parametrize("several", [False, True])
def test_pages_load_nothing_and_run_nothing(runs, several):
    page = report.html([report.of_run(folder) for folder in (runs if several else runs[:1])])
    assert not re.search(r'(?:src|href)="(?!data:image/png;base64,|#)', page)
    assert not re.search(r"url\((?!#)", page)
    for unwanted in ("http:", "https:", "@import", "<link", "<script", "<iframe", "<object"):
        assert unwanted not in page
    names = Counter(re.findall(r'\bid="([^"]*)"', page))
    assert max(names.values()) == 1
    assert all(image.get("alt") for image in parsed(page).iter("img"))


def test_strings_of_the_user_are_shown_and_not_obeyed(runs):
    found = report.of_run(runs[0])
    assert f"Report of the run {HOSTILE}" in text_of(parsed(report.page(found)))
    harm = "<script>$x_</script>"
    (budget,) = found.result["budgets"]
    layers = tuple(layer._replace(path=harm) for layer in found.network.layers)
    page = report.page(
        found._replace(
            result={**found.result, "budgets": [{**budget, "cost": harm}], "method": harm},
            network=found.network._replace(layers=layers, frozen=((harm, harm),)),
            settings={"versions": {harm: harm}},
            command=harm,
        )
    )
    assert "<script" not in page
    assert text_of(parsed(page)).count(harm) > 10


@pytest.mark.parametrize("command", ["run --a 1 --b '  --c'", "run"])
def test_the_command_can_be_copied(runs, command):
    tree = parsed(report.page(report.of_run(runs[0])._replace(command=command)))
    assert next("".join(pre.itertext()) for pre in tree.iter("pre")) == command


def test_a_missed_budget_is_said(runs):
    found = report.of_run(runs[0])
    page = report.page(found._replace(result={**found.result, "feasible": False}))
    assert "✗ The budget is not met." in page
    assert "✓" not in page


def test_what_an_older_run_did_not_keep_is_left_out(copy):
    (copy / "report.json").unlink()
    (copy / "timings.json").unlink()
    shutil.rmtree(copy / "state" / "answer")
    assert main([str(copy)]) == 0
    tree = parsed((copy / "report.html").read_text())
    text = text_of(tree)
    assert text.count("as it was written by an earlier version") == 3
    widths = result_of(copy)["pruned"]["widths"]
    assert dict(table(tree, "widths")) == {name: f"{width:,}" for name, width in widths.items()}
    assert len(table(tree, "networks")) == 2 + len(result_of(copy)["baselines"])


def luminance(colour):
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_letters_stand_out_from_the_paper_in_light_and_dark(page):
    """Contrasts of the Web Content Accessibility Guidelines 2.1: 4.5 for text, 3 for graphics."""
    schemes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", page, re.DOTALL)
    ]
    assert len(schemes) == 2
    for colours, (paper, name) in itertools.product(
        schemes,
        [
            *itertools.product(("paper", "panel"), ("ink", "soft", "good", "bad", "accent")),
            *itertools.product(("paper",), ("star", "blue", "purple", "grey", "green")),
        ],
    ):
        lower, upper = sorted(luminance(colours[which]) for which in (paper, name))
        least = 3 if name in ("star", "blue", "purple", "grey", "green") else 4.5
        assert (upper + 0.05) / (lower + 0.05) >= least, (name, colours[name], paper)


# --- several runs --------------------------------------------------------------------------------


def test_runs_stand_side_by_side(runs, tmp_path, capsys):
    out = tmp_path / "deep" / "both.html"
    assert main([*map(str, runs), "--out", str(tmp_path / "both.html")]) == 0
    assert main([*map(str, runs), "--out", str(out)]) == 2
    assert "cannot be written: No such file or directory" in capsys.readouterr().err
    tree = parsed((tmp_path / "both.html").read_text())
    for row, folder in zip(table(tree, "runs"), runs, strict=True):
        result = result_of(folder)
        dense, pruned = result["dense"], result["pruned"]
        change = 100 * (pruned["test_accuracy"] - dense["test_accuracy"])
        best = max(other["test_accuracy"] for other in result["baselines"].values())
        assert row[:6] == [
            *(folder.name, result["method"]),
            *(f"{pruned['test_accuracy']:.2%}", f"{dense['test_accuracy']:.2%}"),
            *(f"{change:+.2f}", f"{best:.2%}"),
        ]
        assert row[6] == f"✓ {result['budgets'][0]['share']:.1%} of multiply-adds"
        assert row[7] == f"{pruned['macs'] / dense['macs']:.1%}"
        assert row[-1] == str(result["seed"])
    (widths,) = [element for element in tree.iter("table") if element.get("class") == "widths"]
    rows = [["".join(cell.itertext()) for cell in row] for row in widths.find("tbody")]
    expected = [result_of(folder)["pruned"]["widths"] for folder in runs]
    for name, size, *left in rows:
        assert [name, size] in (["input", "64"], ["fc1", "300"], ["fc2", "100"])
        assert [int(cell) for cell in left] == [widths[name] for widths in expected]
    titles = [drawn[0].text for drawn in tree.iter(f"{SVG}svg")]
    assert titles == [
        "Test accuracy against cost of all answers",
        "Pareto fronts of the candidates of all runs",
    ]


def test_a_baseline_of_the_runs_own_criterion_is_shown(runs):
    first, second = map(report.of_run, runs)
    baselines = first.result["baselines"]
    search = {**first.result["search"], "importance": "taylor"}
    more = {**baselines, "uniform": baselines["uniform_l1"]}
    first = first._replace(result={**first.result, "baselines": more, "search": search})
    tree = parsed(report.page(first))
    assert table(tree, "networks")[-1][0] == "uniform, same criterion"
    assert "s own criterion, taylor" in text_of(tree)
    assert "uniform, same criterion" in report.html([first, second])


def test_runs_of_other_networks_are_only_in_the_table(runs):
    first, second = map(report.of_run, runs)
    other = second._replace(result={**second.result, "model": "cnn"})
    tree = parsed(report.html([first, other]))
    assert len(table(tree, "runs")) == 2
    assert "plain is the only run of this model and dataset" in text_of(tree)
    assert not list(tree.iter(f"{SVG}svg"))


def test_runs_of_other_costs_are_compared_by_their_answers_alone(runs):
    first, second = map(report.of_run, runs)
    (budget,) = second.result["budgets"]
    other = second._replace(result={**second.result, "budgets": [{**budget, "cost": "params"}]})
    text = text_of(parsed(report.html([first, other])))
    assert "The candidates are not drawn together" in text
    assert "multiply-adds left" in text


def test_runs_of_the_same_name_are_numbered(runs):
    second = report.of_run(runs[1])
    names = [row[0] for row in table(parsed(report.html([second, second])), "runs")]
    assert names == ["plain (1)", "plain (2)"]


# --- refusals ------------------------------------------------------------------------------------


def refused(capsys, *words):
    """The one line on stderr with which the command refuses."""
    assert main(list(map(str, words))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxprune: error: ")
    return line


def spoil(copy, name):
    result = result_of(copy)
    if name == "no result":
        (copy / "result.json").unlink()
    elif name == "half a result":
        (copy / "result.json").write_text('{"method":')
    elif name == "no accuracy":
        del result["pruned"]["test_accuracy"]
        (copy / "result.json").write_text(json.dumps(result))
    elif name == "no width":
        result["baselines"]["uniform"] = {**result["baselines"]["random"], "widths": None}
        (copy / "result.json").write_text(json.dumps(result))
    elif name == "no budget":
        (copy / "result.json").write_text(json.dumps({**result, "budgets": []}))
    elif name == "metrics":
        (copy / "metrics.jsonl").write_text("{\n")
    elif name == "metrics without phase":
        (copy / "metrics.jsonl").write_text('{"step": 1}\n')
    elif name == "layers":
        (copy / "report.json").write_text('{"layers": 3}')
    elif name == "candidates":
        (copy / "state" / "answer" / "leaves.json").write_text("{")
    elif name == "no run":
        shutil.rmtree(copy)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no run", ["holds no run"]),
        ("no result", ["is not finished", "python -m jaxprune.run --resume --out"]),
        ("half a result", ["result.json is missing or damaged"]),
        ("no accuracy", ["pruned.test_accuracy is missing"]),
        ("no width", ["baselines.uniform.widths is missing or of the wrong kind"]),
        ("no budget", ["budgets is missing"]),
        ("metrics", ["metrics.jsonl is damaged"]),
        ("metrics without phase", ["damaged", "KeyError", "phase"]),
        ("layers", ["damaged", "KeyError"]),
        ("candidates", ["answer is damaged"]),
    ],
)
def test_a_folder_that_cannot_be_read_is_refused_in_one_line(copy, capsys, name, says):
    before = (copy / "report.html").read_text()
    spoil(copy, name)
    line = refused(capsys, copy)
    for part in [str(copy), *says]:
        assert part in line
    if copy.exists():
        assert (copy / "report.html").read_text() == before


def test_a_file_of_the_user_is_not_overwritten(runs, tmp_path, capsys):
    (tmp_path / "notes.html").write_text("<p>mine</p>")
    line = refused(capsys, runs[0], "--out", tmp_path / "notes.html")
    assert "is there and is no report of jaxprune" in line
    assert (tmp_path / "notes.html").read_text() == "<p>mine</p>"
    assert "cannot be written: Is a directory" in refused(capsys, runs[0], "--out", tmp_path)


def test_a_run_must_be_named(capsys):
    assert "name the folder of a run" in refused(capsys)


def test_a_result_of_the_wrong_kind_is_refused(copy):
    with pytest.raises(UserError, match="is missing or of the wrong kind"):
        report.contents.of_result(copy, [])
