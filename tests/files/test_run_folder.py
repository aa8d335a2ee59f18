"""The folder of a run: refused when taken, locked while in use, whole after a kill."""

import json
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest

from jaxprune.errors import UserError
from jaxprune.files import run_folder as folder

SETTINGS = {"method": "random", "search": {}}


def test_created_folder_holds_its_settings(tmp_path):
    with folder.create(tmp_path / "deep" / "run", SETTINGS) as run:
        assert not run.finished
    assert folder.read_config(tmp_path / "deep" / "run") == SETTINGS


def test_results_are_kept_from_one_process_to_the_next(tmp_path):
    with folder.create(tmp_path / "run", SETTINGS) as run:
        run.save("weights", {"x": np.arange(3)})
        run.save_json("numbers", {"y": 1.5})
    with folder.reopen(tmp_path / "run") as run:
        assert run.has("weights")
        assert run.has("numbers")
        assert not run.has("nothing")
        np.testing.assert_array_equal(run.load("weights")["x"], [0, 1, 2])
        assert run.load_json("numbers") == {"y": 1.5}


def test_the_seconds_of_a_phase_add_up_over_its_attempts(tmp_path):
    started = time.monotonic()
    with folder.create(tmp_path / "run", SETTINGS) as run:
        with suppress(KeyboardInterrupt), run.timed("search"):
            time.sleep(0.02)
            raise KeyboardInterrupt
        first = run.seconds()["search"]
        assert first >= 0.02
    with folder.reopen(tmp_path / "run") as run:
        with run.timed("search"):
            time.sleep(0.03)
        with run.timed("evaluate"):
            pass
        assert first + 0.03 <= run.seconds()["search"] <= time.monotonic() - started
        assert list(run.seconds()) == ["search", "evaluate"]


def test_a_run_is_not_begun_twice(tmp_path):
    folder.create(tmp_path / "run", SETTINGS).__exit__()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"holds a run already: add --resume"):
        folder.create(tmp_path / "run", {"method": "other", "search": {}})
    assert folder.read_config(tmp_path / "run") == SETTINGS
    assert sorted(tmp_path.rglob("*")) == before


def test_other_files_are_not_mixed_with_a_run(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is not empty \(it has notes\.txt\)"):
        folder.create(tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_killed_before_its_settings_were_written_can_begin_again(tmp_path):
    (tmp_path / "run" / "state").mkdir(parents=True)
    with folder.create(tmp_path / "run", SETTINGS):
        assert folder.read_config(tmp_path / "run") == SETTINGS


def test_paths_that_cannot_be_folders_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=r"--out .* cannot be (used|written): Not a directory"):
            folder.create(path, SETTINGS)


def test_resuming_needs_a_run(tmp_path):
    with pytest.raises(UserError, match="holds no run to resume"):
        folder.reopen(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_damaged_settings_are_recognised(tmp_path):
    folder.create(tmp_path / "run", SETTINGS).__exit__()
    (tmp_path / "run" / "config.json").write_text('{"method":')
    with pytest.raises(UserError, match=r"config\.json is missing or damaged"):
        folder.reopen(tmp_path / "run")


def test_a_second_process_is_refused(tmp_path):
    reopen = (
        "import sys; from pathlib import Path; from jaxprune.files import run_folder\n"
        "run_folder.reopen(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", reopen, str(tmp_path / "run")]
    with folder.create(tmp_path / "run", SETTINGS):
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "another process is working on the run" in refused.stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_half_written_checkpoints_are_cleared_away(tmp_path):
    folder.create(tmp_path / "run", SETTINGS).__exit__()
    leftover = tmp_path / "run" / "state" / ".search.abc.new"
    leftover.mkdir()
    with folder.reopen(tmp_path / "run"):
        assert not leftover.exists()


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_keep_each_step_once_over_an_interruption(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    with folder.create(tmp_path / "run", SETTINGS) as run:
        run.log("search", 1, {"best": 0.5})
        run.log("search", 2, {"best": 0.6})
    with path.open("a") as file:
        file.write('{"phase": "search", "st')  # killed while writing
    with folder.reopen(tmp_path / "run") as run:
        run.log("search", 2, {"best": 0.6})  # done again, for its state was not kept
        run.log("search", 3, {"best": 0.7})
        run.log("finetune", 3, {"loss": 1.0})
        assert [line["best"] for line in run.metrics("search")] == [0.5, 0.6, 0.7]
    assert read_lines(path) == [
        {"phase": "search", "step": 1, "best": 0.5},
        {"phase": "search", "step": 2, "best": 0.6},
        {"phase": "search", "step": 3, "best": 0.7},
        {"phase": "finetune", "step": 3, "loss": 1.0},
    ]
