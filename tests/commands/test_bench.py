"""`jaxprune bench`: the numbers of dense and compact network side by side."""

import json

import jax
import numpy as np
import pytest

import jaxprune
from jaxprune.commands.bench.command import main
from jaxprune.commands.run.metadata import describe
from jaxprune.files import checkpoint
from jaxprune.networks import bundled
from jaxprune.training import data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """LeNet-300-100 on the digits with 30 and 20 neurons left."""
    digits = data.load("digits")
    network = bundled.build("lenet300", (8, 8, 1))
    variables = network.init(jax.random.key(0))
    x = np.zeros((1, 64), np.float32)
    structure = jaxprune.trace(network.apply, variables, x)
    masks = {"fc1": np.arange(300) < 30, "fc2": np.arange(100) < 20}
    small = jaxprune.compact(network.apply, structure, variables, masks)
    folder = tmp_path_factory.mktemp("run")
    jaxprune.save(
        folder / "model", small, x, metadata=describe(network, digits, prune_inputs=False)
    )
    checkpoint.save(folder / "state" / "pretrained", variables)
    return folder


def test_numbers(run, tmp_path, capsys):
    file = tmp_path / "bench.json"
    words = [str(run), "--batch", "1", "8", "--repeats", "5", "--json", str(file)]
    assert main(words) == 0
    found = json.loads(file.read_text())
    dense = 64 * 300 + 300 * 100 + 100 * 10
    compact = 64 * 30 + 30 * 20 + 20 * 10
    assert found["macs"] == {"dense": dense, "compact": compact}
    assert found["params"] == {"dense": dense + 410, "compact": compact + 60}
    assert found["param_bytes"] == {"dense": 4 * (dense + 410), "compact": 4 * (compact + 60)}
    assert found["dense_weights"] == "trained"
    assert [row["batch"] for row in found["calls"]] == [1, 8]
    for row in found["calls"]:
        for name in ("dense", "compact"):
            call = row[name]
            low, high = call["quartiles_ms"]
            assert 0 < low <= call["median_ms"] <= high
            expected = 1e3 * row["batch"] / call["median_ms"]
            np.testing.assert_allclose(call["images_per_second"], expected)
            inputs, outputs = 4 * row["batch"] * 64, 4 * row["batch"] * 10
            assert call["peak_bytes"] >= found["param_bytes"][name] + inputs + outputs
        assert row["dense"]["peak_bytes"] > row["compact"]["peak_bytes"]
    table = capsys.readouterr().out
    assert f"{dense:,}" in table
    assert "initial" not in table
    assert main(words) == 2
    assert "bench.json exists already: add --overwrite" in capsys.readouterr().err


def test_without_trained_weights_it_says_so(run, tmp_path, capsys):
    (tmp_path / "model").symlink_to(run / "model")
    assert main([str(tmp_path), "--batch", "2", "--repeats", "1"]) == 0
    assert "no trained dense weights" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--batch", "0"], ["--repeats", "0"], ["--batch"]])
def test_sizes_that_cannot_be(run, words, capsys):
    assert main([str(run), *words]) == 2
    assert "must be at least 1" in capsys.readouterr().err
