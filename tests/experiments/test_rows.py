"""Rows of the experiments' tables, each a run of the command."""

import pytest
import rows


def test_a_run_that_fails_ends_the_experiment_with_its_code(tmp_path, capfd):
    row = rows.Row("wrong", ("--method", "acnn", "--model", "lenet5000"))
    with pytest.raises(SystemExit) as ended:
        rows.make(row, tmp_path / "runs", tmp_path / "results")
    assert ended.value.code == 2
    assert "lenet5000" in capfd.readouterr().err
    assert rows.read(row, tmp_path / "results") is None
