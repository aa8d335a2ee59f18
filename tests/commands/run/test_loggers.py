"""Loggers get each line of metrics.jsonl once, also when a run is resumed."""

import importlib.util
import struct

import pytest

from jaxprune.commands.run import loggers, main
from jaxprune.errors import UserError
from jaxprune.files import run_folder

LINES = [
    ("pretrain", 1, {"loss": 0.5, "accuracy": 0.25}),
    ("search", 1, {"best_accuracy": 0.75, "multiplier": [1.0, 2.5], "device": "cpu"}),
    ("finetune finalist_1", 1, {"accuracy": 0.875}),
]
SCALARS = {
    ("pretrain/loss", 1): 0.5,
    ("pretrain/accuracy", 1): 0.25,
    ("search/best_accuracy", 1): 0.75,
    ("search/multiplier/0", 1): 1.0,
    ("search/multiplier/1", 1): 2.5,
    ("finetune/finalist_1/accuracy", 1): 0.875,
}


def test_each_line_is_given_once(tmp_path):
    seen = []
    with run_folder.create(tmp_path / "run", {}) as run:
        run.log(*LINES[0])
        run.listen(lambda number, line: seen.append((number, line["phase"])))
        run.log(*LINES[0])
        run.log(*LINES[1])
    assert seen == [(1, "search")]


def records(path):
    """The records of a TensorBoard event file: length, its checksum, data, their checksum."""
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield content[12 : 12 + length]
        content = content[16 + length :]


def events(run):
    """[(name, step, value)] of all event files."""
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    return [
        (value.tag, event.step, value.simple_value)
        for path in (run / "tensorboard").iterdir()
        for event in map(proto.Event.FromString, records(path))
        for value in event.summary.value
    ]


def test_tensorboard_has_every_line_once(tmp_path):
    pytest.importorskip("tensorboardX")
    path = tmp_path / "run"
    with run_folder.create(path, {}) as run, loggers.attached(["tensorboard"], run, {}):
        for line in LINES[:2]:
            run.log(*line)
    with run_folder.reopen(path) as run, loggers.attached(["tensorboard"], run, {}):
        for line in LINES:
            run.log(*line)
    found = events(path)
    assert len(found) == len(SCALARS)
    assert {(name, step): value for name, step, value in found} == SCALARS


def leveldb_records(path):
    """The records of an offline run, after a header of 7 bytes in the format of LevelDB's log."""
    content, start, parts = path.read_bytes(), 7, b""
    while start + 7 <= len(content):
        left_of_block = 32768 - start % 32768
        if left_of_block < 7:
            start += left_of_block
            continue
        length, kind = struct.unpack("<HB", content[start + 4 : start + 7])
        parts += content[start + 7 : start + 7 + length]
        start += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_wandb_offline_has_every_line_once(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    path = tmp_path / "run"
    with run_folder.create(path, {}) as run, loggers.attached(["wandb"], run, {"method": "crl"}):
        for line in LINES[:2]:
            run.log(*line)
    with run_folder.reopen(path) as run, loggers.attached(["wandb"], run, {"method": "crl"}):
        for line in LINES:
            run.log(*line)
    found, ids = [], set()
    for file in sorted((path / "wandb").glob("offline-run-*/run-*.wandb")):
        for content in leveldb_records(file):
            record = Record.FromString(content)
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                if not name.startswith("_") and not name.endswith("/step"):
                    found.append((name, float(item.value_json)))
    assert sorted(found) == sorted((name, value) for (name, _), value in SCALARS.items())
    assert len(ids) == 1


@pytest.mark.parametrize("name", loggers.NAMES)
def test_a_missing_package_is_named_before_any_work(name, tmp_path, capsys, monkeypatch):
    found = importlib.util.find_spec

    def without(package, *rest):
        return None if package == loggers.PACKAGES[name] else found(package, *rest)

    monkeypatch.setattr(loggers, "find_spec", without)
    assert main(["--log", name, "--out", str(tmp_path / "run")]) == 2
    assert f"pip install 'jaxprune[{name}]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_of_a_packages_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "wandb_of_a_run").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(loggers.PACKAGES, "wandb", "wandb_of_a_run")
    with pytest.raises(UserError, match="needs the package wandb_of_a_run"):
        loggers.check(["wandb"])


def test_unknown_loggers_are_refused():
    with pytest.raises(
        UserError, match="unknown --log 'comet'; the loggers are: tensorboard, wandb"
    ):
        loggers.check(["comet"])
