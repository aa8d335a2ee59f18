"""Rows of the experiments' tables, each a run of the command."""

import json

import pytest
import rows


def test_a_run_that_fails_ends_the_experiment_with_its_code(tmp_path, capfd):
    row = rows.Row("wrong", ("--method", "acnn", "--model", "lenet5000"))
    with pytest.raises(SystemExit) as ended:
        rows.make(row, tmp_path / "runs", tmp_path / "results")
    assert ended.value.code == 2
    assert "lenet5000" in capfd.readouterr().err
    assert rows.read(row, tmp_path / "results") is None


def test_lines_are_added_and_read_by_name(tmp_path):
    one, two = rows.Row("one", ()), rows.Row("two", (), curves=True)
    assert rows.read(one, tmp_path) is None
    rows.add("one", {"command": "a"}, tmp_path)
    rows.add(
        "two", {"command": "b", "curves": {"reward": [1.5, 2.0], "cost": [[1], [2]]}}, tmp_path
    )
    assert rows.read(one, tmp_path) == {"command": "a"}
    assert rows.curves(one, tmp_path) == []
    assert rows.curves(two, tmp_path) == [
        {"reward": 1.5, "cost": [1]},
        {"reward": 2.0, "cost": [2]},
    ]
    written = (tmp_path / rows.ROWS).read_text().splitlines()
    assert [json.loads(line)["name"] for line in written] == ["one", "two"]


def test_curves_are_the_searchs_metrics_to_six_digits(tmp_path):
    metrics = [
        {"phase": "search", "step": 1, "reward": 0.12345678, "cost": [2.0000001], "action": [1]},
        {"phase": "search", "step": 2, "reward": 3, "cost": [0.5], "action": [2]},
        {"phase": "finalists", "step": 1},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in metrics))
    assert rows._columns(path) == {"reward": [0.123457, 3], "cost": [[2.0], [0.5]]}
