"""Checkpoints: everything comes back, a killed writer leaves a whole one, damage is recognised."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxprune.errors import UserError
from jaxprune.files import checkpoint


class Archive(NamedTuple):
    masks: Any
    accuracy: Any


class State(NamedTuple):
    params: Any
    optimizer: Any
    archive: Archive
    key: Any
    step: Any


def make_state(candidates: int) -> State:
    params = {
        "dense": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3, jnp.bfloat16)},
        "stack": [jnp.zeros((1, 2)), (jnp.ones(4, jnp.int8),)],
    }
    return State(
        params=params,
        optimizer=optax.adam(1e-3).init(params),
        archive=Archive(np.ones((candidates, 5), np.uint8), np.zeros(candidates, np.float64)),
        key=jax.random.PRNGKey(7),
        step=jnp.int32(3),
    )


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for left, right in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert isinstance(left, np.ndarray)
        assert left.dtype == np.asarray(right).dtype
        np.testing.assert_array_equal(left, np.asarray(right))


def test_state_comes_back_with_its_types_and_the_sizes_it_was_saved_with(tmp_path):
    saved = make_state(candidates=9)
    checkpoint.save(tmp_path / "state", saved)
    assert_same(checkpoint.load(tmp_path / "state", like=make_state(candidates=0)), saved)


def test_arrays_without_elements_are_kept(tmp_path):
    saved = make_state(candidates=0)
    checkpoint.save(tmp_path / "state", saved)
    assert_same(checkpoint.load(tmp_path / "state", like=saved), saved)


def test_without_template_containers_become_dicts_and_lists(tmp_path):
    tree = {"a": [np.arange(2), (np.float32(1.5),)], "b": Archive(np.ones((2, 2)), np.zeros(0))}
    checkpoint.save(tmp_path / "tree", tree)
    assert_same(
        checkpoint.load(tmp_path / "tree"),
        {
            "a": [np.arange(2), [np.float32(1.5)]],
            "b": {"masks": np.ones((2, 2)), "accuracy": np.zeros(0)},
        },
    )


def test_lists_of_more_than_ten_keep_their_order(tmp_path):
    tree = [np.full(2, index) for index in range(12)]
    checkpoint.save(tmp_path / "list", tree)
    assert_same(checkpoint.load(tmp_path / "list"), tree)


@pytest.mark.parametrize("tree", [np.arange(3), {}, np.zeros((0, 2))])
def test_trees_at_the_edge(tmp_path, tree):
    checkpoint.save(tmp_path / "tree", tree)
    assert_same(checkpoint.load(tmp_path / "tree", like=tree), tree)


@settings(max_examples=15, deadline=None)
@given(
    arrays=st.lists(
        hnp.arrays(
            dtype=st.sampled_from([np.float32, np.int32, np.uint32, np.uint8, np.bool_]),
            shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_arrays_come_back(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("any") / "tree"
    tree = {f"array {index}": array for index, array in enumerate(arrays)}
    checkpoint.save(path, tree)
    restored = checkpoint.load(path)
    for name, array in tree.items():
        assert restored[name].dtype == array.dtype
        np.testing.assert_array_equal(restored[name], array)


def test_orbax_alone_reads_the_arrays(tmp_path):
    checkpoint.save(tmp_path / "state", make_state(candidates=2))
    with ocp.PyTreeCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "state" / "arrays")
    np.testing.assert_array_equal(restored["params"]["dense"]["kernel"], [[0, 1, 2], [3, 4, 5]])


def test_relative_paths_are_resolved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save("deep/er/state", {"x": np.ones(2)})
    assert checkpoint.exists(tmp_path / "deep" / "er" / "state")
    np.testing.assert_array_equal(checkpoint.load("deep/er/state")["x"], [1, 1])


def test_saving_again_replaces_and_leaves_nothing_beside(tmp_path):
    for value in range(3):
        checkpoint.save(tmp_path / "state", {"x": np.full(2, value)})
    np.testing.assert_array_equal(checkpoint.load(tmp_path / "state")["x"], [2, 2])
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_what_is_no_checkpoint_is_not_replaced(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("mine")
    for name in ("file", "folder"):
        with pytest.raises(UserError, match=rf"{name} is there and is no checkpoint"):
            checkpoint.save(tmp_path / name, {"x": np.ones(2)})
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    checkpoint.save(tmp_path / "empty", {"x": np.ones(2)})
    np.testing.assert_array_equal(checkpoint.load(tmp_path / "empty")["x"], [1, 1])


def test_failing_save_keeps_the_old_checkpoint(tmp_path):
    checkpoint.save(tmp_path / "state", {"x": np.ones(2)})
    with pytest.raises(ValueError, match=r"arrays and numbers; y is 'text'"):
        checkpoint.save(tmp_path / "state", {"x": np.ones(2), "y": "text"})
    np.testing.assert_array_equal(checkpoint.load(tmp_path / "state")["x"], [1, 1])


def test_replacement_killed_between_its_two_renames_is_undone(tmp_path):
    checkpoint.save(tmp_path / "state", {"x": np.ones(2)})
    (tmp_path / "state").rename(tmp_path / ".state.abc.old")
    assert checkpoint.exists(tmp_path / "state")
    np.testing.assert_array_equal(checkpoint.load(tmp_path / "state")["x"], [1, 1])


WRITER = """
import sys, itertools, numpy as np
from jaxprune.files import checkpoint
for value in itertools.count():
    checkpoint.save(sys.argv[1], {"x": np.full(200_000, value), "y": np.full(3, value)})
    print(value, flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.013, 0.031])
def test_writer_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path, delay):
    path = tmp_path / "state"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        for _ in range(3):
            completed = int(writer.stdout.readline())
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
    restored = checkpoint.load(path)
    value = restored["y"][0]
    assert value >= completed
    np.testing.assert_array_equal(restored["x"], np.full(200_000, value))


def test_nothing_there(tmp_path):
    assert not checkpoint.exists(tmp_path / "state")
    with pytest.raises(UserError, match=r"no checkpoint at .*state"):
        checkpoint.load(tmp_path / "state")


def files_of(path: Path) -> list[Path]:
    """The files that reading needs: all but orbax's notes about the writing."""
    notes = {"_CHECKPOINT_METADATA", "commit_success.txt", "_sharding"}
    return sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and file.name not in notes and "ocdbt.process" not in str(file)
    )


@pytest.mark.parametrize("damage", ["empty", "cut", "flip", "remove"])
def test_damage_is_recognised_in_every_file(tmp_path, damage):
    # Random values do not compress, so every byte of the data file carries some of them.
    tree = {"x": np.random.default_rng(0).normal(size=2000), "n": np.zeros(0)}
    checkpoint.save(tmp_path / "good", tree)
    for number, file in enumerate(files_of(tmp_path / "good")):
        path = tmp_path / f"bad{number}"
        checkpoint.save(path, tree)
        # Orbax gives its data files random names: take the file with the same rank.
        target = files_of(path)[number]
        content = target.read_bytes()
        if damage == "remove":
            target.unlink()
        elif damage == "empty":
            target.write_bytes(b"")
        elif damage == "cut":
            target.write_bytes(content[: len(content) // 2])
        else:
            middle = len(content) // 2
            flipped = bytes([content[middle] ^ 0x5A])
            target.write_bytes(content[:middle] + flipped + content[middle + 1 :])
        with pytest.raises(
            UserError, match=r"\A[^\n]*(damaged|no checkpoint at)[^\n]*\Z"
        ) as caught:
            checkpoint.load(path)
        assert str(path) in str(caught.value), f"{damage} {file.name}"


def test_another_structure_is_refused(tmp_path):
    checkpoint.save(tmp_path / "state", {"x": np.ones(2), "y": np.ones(3)})
    with pytest.raises(UserError, match=r"1 arrays missing \['z'\], 1 not expected \['y'\]"):
        checkpoint.load(tmp_path / "state", like={"x": 0, "z": 0})


TYPES = "bfloat16 float8_e4m3 float8_e4m3fn float8_e5m2 float4_e2m1fn int4 uint4 bool_ complex64"


def test_arrays_of_every_type_come_back(tmp_path):
    tree = {name: jnp.array([0, 1, 1], getattr(jnp, name)) for name in TYPES.split()}
    checkpoint.save(tmp_path / "types", tree)
    for name, array in checkpoint.load(tmp_path / "types").items():
        assert array.dtype == tree[name].dtype
        np.testing.assert_array_equal(array, np.asarray(tree[name]))


def test_typed_keys_come_back_as_keys(tmp_path):
    keys = {"one": jax.random.key(3), "many": jax.random.split(jax.random.key(4, impl="rbg"), 5)}
    checkpoint.save(tmp_path / "keys", keys)
    found = checkpoint.load(tmp_path / "keys")
    for name, key in keys.items():
        assert found[name].dtype == key.dtype
        np.testing.assert_array_equal(*map(jax.random.key_data, (found[name], key)))


def test_dicts_with_numbers_as_keys_are_lists_or_have_names(tmp_path):
    tree = {"layers": {0: np.zeros(1), 1: np.ones(1)}, "sparse": {0: np.zeros(2), 3: np.ones(2)}}
    checkpoint.save(tmp_path / "numbers", tree)
    plain = checkpoint.load(tmp_path / "numbers")
    np.testing.assert_array_equal(plain["layers"], [[0.0], [1.0]])
    np.testing.assert_array_equal(plain["sparse"]["3"], [1.0, 1.0])
    found = checkpoint.load(tmp_path / "numbers", tree)
    assert list(found["sparse"]) == [0, 3]
