"""`jaxprune export`: what it writes computes the run's network, without jaxprune."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export

import jaxprune
from jaxprune.commands.export import main
from jaxprune.commands.run.metadata import describe
from jaxprune.networks import bundled
from jaxprune.networks.export.rebuild import rebuild
from jaxprune.training import data

DIGITS = data.load("digits")


def save(run, name, prune_inputs=False, metadata=None):
    """A model as a run leaves it, a random half of each group pruned; returns its inputs."""
    network = bundled.build(name, (8, 8, 1))
    variables = jax.tree.map(lambda leaf: leaf + 0.01, network.init(jax.random.key(0)))
    x = data.preprocess(DIGITS, network.flat)(DIGITS.test.images[:5])
    structure = jaxprune.trace(network.apply, variables, x, prune_inputs=prune_inputs)
    rng = np.random.default_rng(1)
    masks = {g.name: rng.permutation(np.arange(g.size) % 2) for g in structure.groups}
    small = jaxprune.compact(network.apply, structure, variables, masks)
    if metadata is None:
        metadata = describe(network, DIGITS, prune_inputs)
    jaxprune.save(run / "model", small, x, metadata=metadata)
    return np.asarray(x)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A pruned LeNet-300-100 that reads half of its inputs, and inputs for it."""
    folder = tmp_path_factory.mktemp("run")
    return folder, save(folder, "lenet300", prune_inputs=True)


def expected(folder, x):
    network = jaxprune.load(folder)
    return np.asarray(network(network.params, x))


WITHOUT_JAXPRUNE = """
import sys

sys.modules["jaxprune"] = None  # importing it fails
sys.path.append(sys.argv[1])
import jax
import numpy as np
import network

x = np.load(sys.argv[2])
variables = network.load()
logits = np.asarray(network.apply(variables, x))
fresh = network.init(jax.random.key(0))
assert jax.tree.map(np.shape, fresh) == jax.tree.map(np.shape, variables)
training = network.apply(variables, x, train=True, mutable=["batch_stats"])
assert training[0].shape == logits.shape
images = np.load(sys.argv[3])
np.testing.assert_allclose(network.preprocess(images), x, rtol=1e-5, atol=1e-6)
np.save(sys.argv[4], logits)
"""


def check_linen(folder, x, tmp_path):
    assert main([str(folder), "--to", "linen", "--out", str(tmp_path / "linen")]) == 0
    assert sorted(f.name for f in (tmp_path / "linen").iterdir()) == [
        "network.py",
        "variables.msgpack",
    ]
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "images.npy", DIGITS.test.images[:5])
    files = [str(tmp_path / name) for name in ("linen", "x.npy", "images.npy", "logits.npy")]
    subprocess.run([sys.executable, "-c", WITHOUT_JAXPRUNE, *files], check=True)
    logits = np.load(tmp_path / "logits.npy")
    np.testing.assert_allclose(logits, expected(folder, x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_linen_needs_flax_alone(run, tmp_path):
    check_linen(*run, tmp_path)
    source = (tmp_path / "linen" / "network.py").read_text()
    for line in ('    "fc1": 150,', '    "fc2": 50,', "MODULE = MLP(widths=(300, 100), "):
        assert line in source
    assert "import jaxprune" not in source


def test_linen_divides_float_images_by_nothing(tmp_path):
    bright = 100 + 3 * np.random.default_rng(0).normal(size=(40, 8, 8, 1))
    pair = bright, np.arange(40) % 10
    dataset = data.own.made("mine:data", (pair, pair, pair))
    network = bundled.build("lenet300", (8, 8, 1))
    save(tmp_path / "run", "lenet300", metadata=describe(network, dataset, prune_inputs=False))
    assert main([str(tmp_path / "run"), "--to", "linen", "--out", str(tmp_path / "linen")]) == 0
    names: dict = {"__file__": str(tmp_path / "linen" / "network.py"), "__name__": "network"}
    source = (tmp_path / "linen" / "network.py").read_text()
    functions = source[source.index("INPUT_SHAPE") : source.index("def load")]
    exec("import jax\nimport jax.numpy as jnp\nfrom typing import Any\n" + functions, names)
    expected = data.preprocess(dataset, flat=True)(dataset.test.images)
    np.testing.assert_allclose(names["preprocess"](dataset.test.images), expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "resnet20", "resnet50"])
def test_linen_of_networks_with_normalisation_and_shortcuts(name, tmp_path):
    check_linen(tmp_path / "run", save(tmp_path / "run", name), tmp_path)


def test_stablehlo_takes_any_batch_size(run, tmp_path, capsys):
    folder, x = run
    out = tmp_path / "deep" / "network.stablehlo"
    assert main([str(folder), "--to", "stablehlo", "--out", str(out)]) == 0
    network = jax_export.deserialize(bytearray(out.read_bytes()))
    for size in (1, 5):
        logits = network.call(jnp.asarray(x[:size]))
        np.testing.assert_allclose(logits, expected(folder, x[:size]), rtol=1e-4, atol=1e-4)
    assert str(out) in capsys.readouterr().out
    assert [file.name for file in out.parent.iterdir()] == [out.name]


@pytest.mark.slow
def test_onnx(run, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("jax2onnx")
    folder, x = run
    out = tmp_path / "network.onnx"
    assert main([str(folder), "--to", "onnx", "--out", str(out)]) == 0
    session = runtime.InferenceSession(out, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"x": x})
    np.testing.assert_allclose(logits, expected(folder, x), rtol=1e-4, atol=1e-4)


def test_what_a_command_prints_works(run, tmp_path, capsys):
    folder, x = run
    out = tmp_path / "network.stablehlo"
    main([str(folder / "model"), "--to", "stablehlo", "--out", str(out)])
    _, code = capsys.readouterr().out.split("\n\n", 1)
    names = {"x": jnp.asarray(x)}
    exec(code, names)
    np.testing.assert_allclose(names["logits"], expected(folder, x), rtol=1e-4, atol=1e-4)


def test_the_network_is_built_again(run):
    rebuilt = rebuild(run[0])
    assert rebuilt.small.widths == rebuilt.loaded.widths
    assert {group.name: group.size for group in rebuilt.structure.groups} == {
        "input": 64,
        "fc1": 300,
        "fc2": 100,
    }


def says(capsys, *words):
    """The one line of an error."""
    assert main(list(map(str, words))) == 2
    line = capsys.readouterr().err.rstrip("\n")
    assert "\n" not in line
    assert line.startswith("jaxprune: error: ")
    return line


def test_nothing_is_overwritten_unless_told(run, tmp_path, capsys):
    folder, _ = run
    (tmp_path / "network.py").write_text("mine")
    words = (folder, "--to", "linen", "--out", tmp_path)
    assert "network.py exists already: add --overwrite" in says(capsys, *words)
    assert (tmp_path / "network.py").read_text() == "mine"
    assert main([*map(str, words), "--overwrite"]) == 0
    assert "FEATURES" in (tmp_path / "network.py").read_text()
    assert "is a folder" in says(capsys, folder, "--to", "stablehlo", "--out", tmp_path)
    file = tmp_path / "network.py"
    assert "is a file" in says(capsys, folder, "--to", "linen", "--out", file)


def test_a_place_that_cannot_be_written(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "network.stablehlo"
    line = says(capsys, run[0], "--to", "stablehlo", "--out", out)
    assert f"--out {out} cannot be written" in line


def with_metadata(run, folder, change):
    """A copy of a model with other metadata."""
    shutil.copytree(run[0] / "model", folder / "model")
    about = folder / "model" / "widths.json"
    description = json.loads(about.read_text())
    description["metadata"] = change(description["metadata"])
    about.write_text(json.dumps(description))


def test_networks_of_ones_own_are_stablehlo_only(run, tmp_path, capsys):
    with_metadata(run, tmp_path, lambda metadata: {"mine": True})
    line = says(capsys, tmp_path, "--to", "linen")
    assert "does not say how it was built (model, classes" in line
    assert not (tmp_path / "exported").exists()
    assert main([str(tmp_path), "--to", "stablehlo"]) == 0
    assert (tmp_path / "exported" / "network.stablehlo").is_file()


@pytest.mark.parametrize(
    "change", [{"model": "cnn"}, {"model": "lenet400"}, {"prune_inputs": False}, {"classes": 9}]
)
def test_models_that_are_not_what_they_say(run, tmp_path, capsys, change):
    with_metadata(run, tmp_path, lambda metadata: metadata | change)
    assert "that it says" in says(capsys, tmp_path, "--to", "linen")


def test_unfinished_runs_and_missing_models(tmp_path, capsys):
    assert "no model at" in says(capsys, tmp_path / "nowhere", "--to", "onnx")
    (tmp_path / "config.json").write_text("{}")
    line = says(capsys, tmp_path, "--to", "onnx")
    assert f"python -m jaxprune.run --resume --out {tmp_path}" in line
