"""Exported networks: the same numbers, any batch size, in a process that never saw the model."""

import dataclasses
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.dependency import compact, trace
from jaxprune.errors import UserError
from jaxprune.networks import bundled, export


def mlp(params, x):
    """A plain JAX network on a list of tuples, which a plain tree holds as a list of lists."""
    *hidden, (last, offset) = params
    for kernel, bias in hidden:
        x = jnp.tanh(x @ kernel + bias)
    return x @ last + offset


def numpy_mlp(params, x):
    for kernel, bias in params[:-1]:
        x = np.tanh(x @ kernel + bias)
    return x @ params[-1][0] + params[-1][1]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run folder whose model is a 4-6-5-3 network pruned to 4-3-4-3, and its parameters."""
    rng = np.random.default_rng(0)
    sizes = [4, 6, 5, 3]
    params = [
        (rng.normal(size=(n, m)).astype(np.float32), rng.normal(size=m).astype(np.float32))
        for n, m in itertools.pairwise(sizes)
    ]
    structure = trace(mlp, params, jnp.zeros((1, 4)))
    first, second = (group.name for group in structure.groups)
    masks = {first: np.array([1, 0, 0, 1, 0, 1]), second: np.array([1, 1, 0, 1, 1])}
    small = compact(mlp, structure, params, masks)
    run = tmp_path_factory.mktemp("run")
    export.save(
        run / "model", small, np.zeros((2, 4), np.float32), metadata={"classes": ["a", "b"]}
    )
    kept = [np.flatnonzero(masks[first]), np.flatnonzero(masks[second])]
    expected = [
        (params[0][0][:, kept[0]], params[0][1][kept[0]]),
        (params[1][0][np.ix_(kept[0], kept[1])], params[1][1][kept[1]]),
        (params[2][0][kept[1]], params[2][1]),
    ]
    return run, (first, second), expected


def test_parameters_widths_and_metadata_come_back(saved):
    run, (first, second), expected = saved
    network = export.load(run)
    assert network.widths == {first: 3, second: 4}
    assert network.kept == {first: (0, 3, 5), second: (0, 1, 3, 4)}
    assert network.input_shape == (4,)
    assert network.input_dtype == np.float32
    assert network.metadata == {"classes": ["a", "b"]}
    for actual, wanted in zip(
        jax.tree.leaves(network.params), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_array_equal(actual, wanted)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_any_batch_size_gives_the_numbers_of_numpy(saved, batch):
    run, _, expected = saved
    network = export.load(run / "model")
    x = np.random.default_rng(1).normal(size=(batch, 4)).astype(np.float32)
    np.testing.assert_allclose(
        network(network.params, x), numpy_mlp(expected, x), rtol=1e-5, atol=1e-5
    )


def test_other_parameters_of_the_same_shapes_are_used(saved):
    run, _, expected = saved
    network = export.load(run)
    x = np.random.default_rng(2).normal(size=(3, 4)).astype(np.float32)
    halved = jax.tree.map(lambda leaf: leaf / 2, network.params)
    wanted = numpy_mlp(jax.tree.map(lambda leaf: leaf / 2, expected), x)
    np.testing.assert_allclose(jax.jit(network)(halved, x), wanted, rtol=1e-5, atol=1e-5)


LOADER = """
import sys
import numpy as np
from jaxprune.networks import export
network = export.load(sys.argv[1])
np.save(sys.argv[3], network(network.params, np.load(sys.argv[2])))
"""


def test_another_process_without_the_model_code_gets_the_same_outputs(saved, tmp_path):
    run, _, expected = saved
    x = np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    subprocess.run(
        [sys.executable, "-c", LOADER, str(run), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")],
        check=True,
    )
    np.testing.assert_allclose(
        np.load(tmp_path / "y.npy"), numpy_mlp(expected, x), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "shape"),
    [("cnn", (8, 8, 1)), pytest.param("resnet20", (8, 8, 3), marks=pytest.mark.slow)],
)
def test_bundled_networks_with_trained_parameters(tmp_path, name, shape):
    network = bundled.build(name, shape)
    variables = jax.jit(network.init)(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (4, *shape))
    structure = trace(network.apply, variables, x)
    masks = {group.name: np.arange(group.size) % 3 == 0 for group in structure.groups}
    small = compact(network.apply, structure, variables, masks)
    small = dataclasses.replace(small, params=jax.tree.map(lambda leaf: leaf + 0.01, small.params))
    export.save(tmp_path / "model", small, x)
    loaded = export.load(tmp_path / "model")
    np.testing.assert_allclose(
        loaded(loaded.params, x[:3]), jax.jit(small)(small.params, x[:3]), rtol=1e-4, atol=1e-5
    )


def test_widths_are_readable_json(saved):
    run, (first, _), _ = saved
    description = json.loads((run / "model" / "widths.json").read_text())
    assert description["widths"][first] == 3
    assert description["inputs"] == [{"key": [0], "shape": [None, 4], "dtype": "float32"}]
    assert description["batch"] is None
    assert description["program"]["platforms"] == ["cpu", "cuda", "tpu"]


@pytest.mark.parametrize("shape", [(4,), (2, 5), (2, 4, 1), ()])
def test_inputs_of_another_shape_are_refused(saved, shape):
    network = export.load(saved[0])
    with pytest.raises(ValueError, match=r"instead of \(batch, 4\)"):
        network(network.params, np.zeros(shape, np.float32))


def test_what_is_no_compact_network(tmp_path):
    with pytest.raises(TypeError, match=r"small is of type function; .* compact returned"):
        export.save(tmp_path / "model", mlp, np.zeros((2, 4), np.float32))
    assert not (tmp_path / "model").exists()


def test_files_of_others_stay(saved, tmp_path):
    params = saved[2]
    structure = trace(mlp, params, jnp.zeros((1, 4)))
    small = compact(mlp, structure, params, structure.full_masks())
    mine = tmp_path / "arrays" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("not a checkpoint")
    with pytest.raises(UserError, match="arrays is there and is no checkpoint: choose another"):
        export.save(tmp_path, small, np.zeros((2, 4), np.float32))
    assert mine.read_text() == "not a checkpoint"


def test_a_loaded_network_shows_what_it_is(saved):
    run, (first, second), _ = saved
    assert repr(export.load(run)) == (
        f"LoadedNetwork(widths={{'{first}': 3, '{second}': 4}}, "
        "inputs=(0: float32(batch, 4),), batch=None, metadata={'classes': ['a', 'b']})"
    )


def test_no_model(tmp_path):
    with pytest.raises(UserError, match=r"no model at .*: expected widths\.json"):
        export.load(tmp_path)


@pytest.mark.parametrize("name", ["widths.json", "model.stablehlo", "arrays/leaves.json"])
def test_damaged_files_are_recognised(saved, tmp_path, name):
    run, _, _ = saved
    model = tmp_path / "model"
    for file in (run / "model").rglob("*"):
        target = model / file.relative_to(run / "model")
        if file.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    assert export.load(model).widths == export.load(run).widths
    content = Path(model / name).read_bytes()
    Path(model / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"\A[^\n]* is damaged [^\n]* and make it again\Z"):
        export.load(model)


def test_models_of_newer_versions_are_named(saved, tmp_path):
    shutil.copytree(saved[0] / "model", tmp_path / "model")
    about = tmp_path / "model" / "widths.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"format": 3}))
    with pytest.raises(
        UserError, match=r"newer version of jaxprune \(format 3, this one reads 2\)"
    ):
        export.load(tmp_path)
