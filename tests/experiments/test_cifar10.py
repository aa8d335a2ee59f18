"""The queue of CIFAR-10's rows, on small things: order, interruptions, predictions, the page."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import cifar10
import cifar10_rows
import numpy as np
import pytest
import rows
import speed
from cifar10 import Place
from cifar10_rows import Case, Dense

from jaxprune.commands import config
from jaxprune.commands.run import arguments
from jaxprune.files import arrays

DEVICE = speed.Device("cpu", "cpu, 2 cores", {"resnet20": 100.0, "cnn": 1000.0})


@pytest.fixture
def place(tmp_path):
    found = Place(tmp_path / "runs", tmp_path / "keep", tmp_path / "out", DEVICE)
    found.runs.mkdir()
    return found


def test_rows_stand_in_the_order_of_their_worth():
    items = [item.name for item in cifar10.plan("short")]
    assert items[:3] == [
        "resnet20-dense-short-0",
        "resnet20-macs73-magnitude-short-0",
        "resnet20-macs73-mcts-short-0",
    ]
    assert len(set(items)) == len(items)
    models = [name.partition("-")[0] for name in items]
    assert "resnet20" not in models[models.index("resnet56") :]
    assert [name for name in items if name.startswith("resnet20-dense")] == [
        f"resnet20-dense-short-{seed}" for seed in (0, 1, 2)
    ]
    first_of_d = items.index("vgg11-dense-short-0")
    assert items.index("vgg16-params20-crl-fine-short-0") < first_of_d
    assert first_of_d < items.index("resnet56-dense-short-1")
    for position, item in enumerate(cifar10.plan("default")):
        if isinstance(item, rows.Row):
            model, seed = cifar10.model_of(item), int(item.name.rpartition("-")[2])
            assert Dense(model, seed, "default") in cifar10.plan("default")[:position]


@pytest.mark.parametrize("recipe", ["short", "default"])
def test_every_methods_rows_are_commands_that_can_be_run(recipe):
    items = [item for item in cifar10.plan(recipe) if isinstance(item, rows.Row)]
    for item in {item.words[1]: item for item in items}.values():
        parsed = arguments.parse(item.words)
        config.check(parsed.run)
        assert parsed.run.recipe == recipe
        assert parsed.run.baselines == (
            cifar10.BASELINES if parsed.run.method == "magnitude" else ()
        )


def test_predictions_come_from_the_work_and_then_from_rows_like_it(place):
    dense = Dense("resnet20", 0, "short")
    assert cifar10.seconds(dense, place) == 12 * 45_000 / 100
    case = Case("a", "resnet20", "macs", 50, ("amc",))
    one, other = (cifar10_rows.row(case, "amc", seed, "short") for seed in (0, 1))
    trained = 4 * 45_000 * (0.1 + 0.9 * 0.5) + 4 * 64 * 128
    assert cifar10.seconds(one, place) == pytest.approx((trained + 384 * 512 / 3) / 100)
    line = {"seconds": 77.0, "search": {"device": DEVICE.kind}}
    rows.add(other.name, line, place.out)
    assert cifar10.seconds(one, place) == 77.0
    text = cifar10.listing([dense, one, other], place)
    assert "     90 min resnet20-dense-short-0" in text
    assert "1 of 3 done; 1.5 hours left" in text


@pytest.mark.slow
def test_a_process_is_stopped_when_its_time_is_up(tmp_path):
    begin = time.monotonic()
    script = tmp_path / "sleep.py"
    script.write_text("import time; time.sleep(60)")
    assert rows.run([str(script)], tmp_path, begin + 0.5) is None
    script.write_text("raise SystemExit(3)")
    assert rows.run([str(script)], tmp_path, time.monotonic() + 60) == 3


def test_two_queues_do_not_work_in_one_folder(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    code = "import sys, cifar10, pathlib\nwith cifar10.alone(pathlib.Path(sys.argv[1])): pass"
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    try:
        with cifar10.alone(tmp_path):
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert done.returncode == 1
            assert "another queue is working" in done.stderr
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    subprocess.run(command, env=environment, check=True)


TINY = (
    *("--model", "cnn", "--dataset", "digits", "--examples", "64", "--pretrain-epochs", "1"),
    *("--finetune-epochs", "2", "--finalists", "1", "--semifinalists", "1", "--budget", "0.5"),
    *("--search-examples", "32", "--baselines"),
)


def tiny(method, *words):
    return rows.Row(f"cnn-macs50-{method}-0", ("--method", method, *TINY, *words))


ITEMS = [
    Dense("cnn", 0, "default", "digits", epochs=1, examples=64),
    tiny("magnitude", "uniform_l1"),
    tiny("random", "--search.candidates", "8"),
]


def timeless(lines):
    """The lines of rows without what is measured."""
    kept = json.loads(json.dumps(lines))
    for line in kept.values():
        line.pop("seconds", None)
        line.get("search", {}).pop("seconds", None)
        for network in (line.get("dense"), line.get("pruned"), *line.get("baselines", {}).values()):
            if network:
                del network["latency_ms"]
    return kept


@pytest.mark.slow
def test_a_queue_that_is_stopped_again_and_again_makes_the_same_rows(place, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "SHORTEST", 0.0)
    assert cifar10.work(ITEMS, place, None) == []
    expected = timeless(rows.lines(place.out))
    assert set(expected) == {item.name for item in ITEMS}
    assert sorted(path.name for path in (place.keep / "pruned").iterdir()) == [
        f"{item.name}.npz" for item in ITEMS[1:]
    ]
    (dense,) = place.keep.glob("cnn-digits-*.npz")
    assert arrays.load(dense)["params"]["conv1"]["kernel"].dtype == np.float16

    other = Place(tmp_path / "r", tmp_path / "k", tmp_path / "o", DEVICE)
    other.runs.mkdir()
    for tries in range(16):  # longer each time: the first ones end before anything is done
        cifar10.work(ITEMS, other, time.monotonic() + 2 * 1.5**tries)
        if len(rows.lines(other.out)) == len(ITEMS):
            break
    assert tries > 0
    assert timeless(rows.lines(other.out)) == expected


@pytest.mark.slow
def test_a_network_that_cannot_be_made_stops_the_queue(place):
    with pytest.raises(SystemExit):
        cifar10.work([Dense("lenet5", 0, "default", "digits"), *ITEMS], place, None)
    assert not rows.lines(place.out)
    assert not (place.runs / "done").exists()


def test_scripts_that_a_gpu_begins_with_have_the_options(monkeypatch):
    for once in cifar10.ON_A_GPU:
        path = Path(cifar10.__file__).parent / once.script
        if path.exists():
            text = path.read_text()
            assert all(word in text for word in once.words if word.startswith("--"))
