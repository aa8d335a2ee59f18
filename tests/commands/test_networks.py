"""Pretrained networks as files: made, carried to another cache, found there."""

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from jaxprune import training
from jaxprune.commands import networks
from jaxprune.errors import UserError
from jaxprune.files import arrays
from jaxprune.networks import bundled
from jaxprune.training import data, pretraining

WORDS = networks.words("cnn", "digits", epochs=2, examples=128, seed=3)


@pytest.fixture(autouse=True, scope="module")
def compiled_cache():
    """What `make` sets for a process of its own is taken back."""
    before = jax.config.jax_compilation_cache_dir
    yield
    reset_cache()
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A network's file, and the cache of the machine that made it."""
    folder, cache = (tmp_path_factory.mktemp(name) for name in ("made", "cache"))
    words = ["make", *WORDS, "--out", str(folder), "--cache-dir", str(cache)]
    assert networks.main(words) == 0
    (file,) = folder.iterdir()
    return file, cache


def pretrained(cache, epochs):
    dataset = data.subset(data.load("digits"), 128)
    recipe = training.default_recipe("cnn", "digits")
    return training.pretrained(
        bundled.build("cnn", (8, 8, 1)),
        dataset,
        training.Recipe(**{**vars(recipe), "epochs": 2}),
        3,
        cache,
        progress=lambda epoch, metrics: epochs.append(epoch),
    )


def test_a_file_has_half_the_bytes_and_says_what_it_is(made):
    file, _ = made
    about, tree = arrays.about(file), arrays.load(file)
    assert about["command"] == (
        "jaxprune networks make --model cnn --dataset digits --recipe default --epochs 2 "
        "--examples 128 --seed 3 --out ."
    )
    assert (about["model"], about["dataset"], about["seed"]) == ("cnn", "digits", 3)
    assert about["recipe"]["epochs"] == 2
    kinds = {leaf.ndim > 1: leaf.dtype for leaf in jax.tree.leaves(tree)}
    assert kinds == {True: np.float16, False: np.float32}
    network = bundled.build("cnn", (8, 8, 1))
    dataset = data.subset(data.load("digits"), 128)
    wide = pretraining.widen(tree, jax.eval_shape(network.init, jax.random.key(0)))
    accuracy = training.accuracy(
        network.apply, wide, dataset.test, data.preprocess(dataset, network.flat)
    )
    assert about["accuracy"]["test"] == accuracy


def test_all_who_use_a_file_begin_with_the_same_weights(made, tmp_path, capsys):
    file, cache = made
    epochs = []
    here = pretrained(cache, epochs)
    assert networks.main(["add", str(file), "--cache-dir", str(tmp_path)]) == 0
    there = pretrained(tmp_path, epochs)
    assert epochs == []
    jax.tree.map(np.testing.assert_array_equal, here, there)
    assert here["params"]["conv1"]["kernel"].dtype == np.float32
    networks.main(["list", "--cache-dir", str(tmp_path)])
    assert f"{file.name}: seed 3, test accuracy" in capsys.readouterr().out


def test_one_that_comes_with_the_package_is_found(made, tmp_path, monkeypatch):
    file, cache = made
    monkeypatch.setattr(pretraining, "SHIPPED", file.parent)
    epochs = []
    jax.tree.map(np.testing.assert_array_equal, pretrained(tmp_path, epochs), pretrained(cache, []))
    assert epochs == []


def test_unfinished_training_is_carried_in_the_same_folder(tmp_path, monkeypatch):
    class Stopping(training.Kept):
        def save(self, position):
            super().save(position)
            raise KeyboardInterrupt

    words = ["make", *WORDS, "--out"]
    monkeypatch.setattr(pretraining, "Kept", lambda path, every: Stopping(path, 0.0))
    one = [str(tmp_path / "one"), "--cache-dir", str(tmp_path / "cache1")]
    assert networks.main([*words, *one]) == 130
    (position,) = (tmp_path / "one").iterdir()
    assert position.name.endswith(".unfinished.npz")
    monkeypatch.undo()
    # On another machine: the folder alone is carried.
    other = [str(tmp_path / "one"), "--cache-dir", str(tmp_path / "cache2")]
    assert networks.main([*words, *other]) == 0
    (file,) = (tmp_path / "one").iterdir()
    alone = [str(tmp_path / "two"), "--cache-dir", str(tmp_path / "cache3")]
    assert networks.main([*words, *alone]) == 0
    jax.tree.map(
        np.testing.assert_array_equal, arrays.load(file), arrays.load(tmp_path / "two" / file.name)
    )


def test_files_that_are_no_networks_are_refused(tmp_path, capsys):
    path = tmp_path / "other.npz"
    arrays.save(path, {"a": np.ones(3)})
    assert networks.main(["add", str(path), "--cache-dir", str(tmp_path)]) == 2
    assert "does not say what made it" in capsys.readouterr().err
    assert networks.main(["add", str(tmp_path / "none.npz")]) == 2
    assert "there is no file" in capsys.readouterr().err
    with pytest.raises(UserError, match="unknown model"):
        networks.make("lenet6", "digits", tmp_path)


def test_weights_that_are_too_large_for_half_precision_are_not_written(tmp_path):
    with pytest.raises(UserError, match="not finite in half precision"):
        pretraining.write(tmp_path / "a.npz", {"params": {"w": np.full((2, 2), 1e6)}}, {})
