"""Pytrees in one file."""

import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.errors import UserError
from jaxprune.files import arrays


class State(NamedTuple):
    weights: Any
    count: Any


TREE = {
    "state": State({"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, np.int32(4)),
    "half": np.float16([1.5, -2.0]),
    "brain": jnp.array([1.0, 3.0], jnp.bfloat16),
    "eighth": jnp.array([1.0, 3.0], jnp.float8_e4m3),
    "four": jnp.array([1, 3], jnp.uint4),
    "keys": {0: jax.random.key(1), 3: jax.random.split(jax.random.key(2, impl="rbg"), 2)},
    "none": np.zeros((0, 3), np.float32),
    "pair": (np.array([True, False]), np.array(7.0)),
}


def test_a_tree_comes_back_as_it_was(tmp_path):
    path = tmp_path / "new" / "tree.npz"
    arrays.save(path, TREE, {"seed": 3, "accuracy": {"test": 0.5}})
    found = arrays.load(path, TREE)
    assert isinstance(found["state"], State)
    assert isinstance(found["pair"], tuple)
    for (key, left), (_, right) in zip(
        arrays.leaves_by_key(TREE), arrays.leaves_by_key(found), strict=True
    ):
        assert right.dtype == left.dtype, key
        if "keys" in key:
            left, right = map(jax.random.key_data, (left, right))
        np.testing.assert_array_equal(left, right)
    assert arrays.about(path) == {"seed": 3, "accuracy": {"test": 0.5}}
    plain = arrays.load(path)
    np.testing.assert_array_equal(plain["state"]["weights"]["w"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(plain["pair"][1], 7.0)
    assert [file.name for file in path.parent.iterdir()] == ["tree.npz"]


def test_any_program_with_numpy_reads_it(tmp_path):
    path = tmp_path / "tree.npz"
    arrays.save(path, {"params": {"w": np.ones(3)}})
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["params/w"], np.ones(3))


def test_what_is_no_such_file_is_said(tmp_path):
    path = tmp_path / "tree.npz"
    with pytest.raises(UserError, match="there is no file"):
        arrays.load(path)
    arrays.save(path, {"a": np.arange(1000)})
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:-200], whole[:700] + bytes(50) + whole[750:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"is damaged \(\w+: .*remove it and make it again"):
            arrays.load(path)
    np.savez(path, a=np.ones(2))
    with pytest.raises(UserError, match=r"is damaged \(\w+: .*remove it and make it again"):
        arrays.about(path)


def test_what_does_not_fit_is_named(tmp_path):
    path = tmp_path / "tree.npz"
    arrays.save(path, {"a": np.ones(2), "b": np.ones(1)})
    with pytest.raises(UserError, match=r"1 arrays missing \['c'\], 1 not expected \['b'\]"):
        arrays.load(path, {"a": 0, "c": 0})


def test_a_newer_version_is_refused(tmp_path):
    path = tmp_path / "tree.npz"
    text = np.frombuffer(json.dumps({"format": 2}).encode(), np.uint8)
    np.savez(path, **{"about.json": text})
    with pytest.raises(UserError, match="newer version"):
        arrays.load(path)


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "tree.npz"
    arrays.save(path, {"a": np.ones(2)})
    with pytest.raises(ValueError, match="spelled alike"):
        arrays.save(path, {"a/b": np.zeros(2), "a": {"b": np.zeros(2)}})
    np.testing.assert_array_equal(arrays.load(path)["a"], np.ones(2))
