"""Joint budgets against all subsets of groups, heads against the group lasso of one matrix."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jaxprune.optim import prox


def tree_of(seed):
    keys = jax.random.split(jax.random.key(seed), 6)
    x = {
        "a": jax.random.normal(keys[0], (3, 2)),
        "b": jax.random.normal(keys[1], (2, 2, 3)),
        "c": jax.random.normal(keys[2], (2,)),
    }
    steps = {
        name: jnp.exp(jax.random.normal(key, x[name].shape))
        for name, key in zip(x, keys[3:], strict=True)
    }
    return x, steps


def columns(tree):
    """Every group of the default axes as {leaf, index: its entries}."""
    return {
        (name, c): np.asarray(leaf, np.float64)[..., c].reshape(-1)
        for name, leaf in tree.items()
        for c in range(leaf.shape[-1])
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scaled", [False, True])
def test_joint_sparsity_is_the_nearest_point(seed, scaled):
    """Seven groups of three leaves: all choices of three that become zero."""
    x, steps = tree_of(seed)
    groups = columns(x)
    lengths = columns(steps) if scaled else {k: np.ones_like(v) for k, v in groups.items()}
    distance = {k: (groups[k] ** 2 / lengths[k]).sum() for k in groups}
    best = min(itertools.combinations(groups, 3), key=lambda lost: sum(distance[k] for k in lost))
    found = columns(jax.jit(prox.joint_sparsity)(x, 3 / 7, steps if scaled else 1.0))
    for key, values in found.items():
        np.testing.assert_array_equal(values, 0 if key in best else groups[key])


def test_joint_sparsity_by_hand():
    x = {"w": jnp.array([[3.0, 0.1], [0.0, 0.2]]), "b": jnp.array([0.15, -0.18, 0.0])}
    found = prox.joint_sparsity(x, 3 / 7, axis=())  # single entries: two are zero already
    np.testing.assert_array_equal(found["w"], np.float32([[3.0, 0.0], [0.0, 0.2]]))
    np.testing.assert_array_equal(found["b"], x["b"])
    # By sums of squares 9, 0.05, 0.0225, 0.0324, 0; by means 4.5, 0.025, ...
    x = {**x, "b": x["b"].at[1].set(-0.2)}
    by_sum = prox.joint_sparsity(x, 3 / 5)
    np.testing.assert_array_equal(by_sum["w"], x["w"])
    by_mean = prox.joint_sparsity(x, 3 / 5, normalize=True)
    np.testing.assert_array_equal(by_mean["w"], np.float32([[3.0, 0.0], [0.0, 0.0]]))
    np.testing.assert_array_equal(by_mean["b"], np.float32([0.0, -0.2, 0.0]))
    for strength in (0.0, 1.0):
        whole = prox.joint_sparsity(x, strength)
        assert all((np.asarray(whole[k]) == (1 - strength) * np.asarray(x[k])).all() for k in x)


def test_a_coordinate_that_takes_no_step_stays():
    found = prox.joint_sparsity(jnp.array([0.1, 2.0, 0.0]), 2 / 3, jnp.array([0.0, 1.0, 0.0]))
    np.testing.assert_array_equal(found, np.float32([0.1, 0.0, 0.0]))


def whole_heads(attention, heads):
    """What each head of a Flax attention layer has, as rows."""
    rows = []
    for name in ("query", "key", "value"):
        kernel = np.asarray(attention[name]["kernel"], np.float64)
        rows.append(np.moveaxis(kernel, 1, 0).reshape(heads, -1))
        rows.append(np.asarray(attention[name]["bias"], np.float64))
    rows.append(np.asarray(attention["out"]["kernel"], np.float64).reshape(heads, -1))
    return np.concatenate(rows, axis=1)


class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = x + nn.MultiHeadDotProductAttention(num_heads=3, qkv_features=6)(x)
        return nn.Dense(2)(x)


@pytest.mark.parametrize("scaled", [False, True])
def test_heads_of_two_blocks_against_one_matrix_each(scaled):
    params = Two().init(jax.random.key(0), jnp.ones((1, 4, 5)))["params"]
    names = [name for name in params if name.startswith("Multi")]
    assert len(names) == 2
    # The first head of the first block is small, and must go as a whole.
    shrunk = jax.tree.map(lambda leaf: leaf + 0.3, params)
    for leaf in ("query", "key", "value"):
        for part in shrunk[names[0]][leaf]:
            where = (slice(None), 0) if part == "kernel" else (0,)
            small = shrunk[names[0]][leaf][part].at[where].multiply(0.01)
            shrunk[names[0]][leaf][part] = small
    small = shrunk[names[0]]["out"]["kernel"].at[0].multiply(0.01)
    shrunk[names[0]]["out"]["kernel"] = small
    steps = 0.5
    if scaled:
        steps = jax.tree.map(lambda leaf: 0.3 + jnp.abs(jnp.sin(leaf * 9)), shrunk)
    found = jax.jit(prox.heads)(shrunk, 0.8, steps)
    for name in names:
        matrix = jnp.asarray(whole_heads(shrunk[name], 3), jnp.float32)
        lengths = jnp.asarray(whole_heads(steps[name], 3), jnp.float32) if scaled else steps
        expected = prox.group_l2(matrix, 0.8, lengths, axis=1)
        np.testing.assert_allclose(whole_heads(found[name], 3), expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(found[name]["out"]["bias"], shrunk[name]["out"]["bias"])
    alive = np.any(whole_heads(found[names[0]], 3) != 0, axis=1)
    np.testing.assert_array_equal(alive, [False, True, True])
    np.testing.assert_array_equal(found["Dense_0"]["kernel"], shrunk["Dense_0"]["kernel"])


def test_heads_of_nnx_and_of_merged_axes():
    layer = nnx.MultiHeadAttention(3, 5, 6, rngs=nnx.Rngs(0), decode=False)
    state = nnx.state(layer, nnx.Param)
    zero = prox.heads(state, 1e3)
    assert not np.any(zero["query"]["kernel"].get_value())
    assert not np.any(zero["out"]["kernel"].get_value())

    merged = {"q": jax.random.normal(jax.random.key(0), (5, 6)), "o": jnp.ones((6, 5))}
    operator = functools.partial(prox.heads, axes={"q": 1, "o": 0}, num_heads=3)
    matrix = jnp.concatenate([merged["q"].T.reshape(3, -1), merged["o"].reshape(3, -1)], axis=1)
    expected = prox.group_l2(matrix, 2.0, axis=1)
    found = operator(merged, 2.0)
    np.testing.assert_allclose(found["q"].T.reshape(3, -1), expected[:, :10], rtol=1e-5)
    np.testing.assert_allclose(found["o"].reshape(3, -1), expected[:, 10:], rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: prox.joint_sparsity(jnp.ones(3), 1.5), r"strength must be in \[0, 1\], got 1.5"),
        (lambda: prox.joint_sparsity(jnp.ones(3), -0.5), "strength must be non-negative"),
        (lambda: prox.joint_sparsity(jnp.ones(3), 0.5, axis=1), "a leaf has shape"),
        (lambda: prox.heads({"a": jnp.ones((2, 2))}), "no leaf whose path ends in one of"),
        (
            lambda: prox.heads(
                {"q": jnp.ones((2, 3)), "k": jnp.ones((4, 3))}, axes={"q": 0, "k": 0}
            ),
            r"leaves of '/' have \[2, 4\] heads",
        ),
        (
            lambda: prox.heads({"q": jnp.ones((2, 3))}, axes={"q": 1}, num_heads=2),
            "3 features are not divisible by 2 heads",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
