"""Two rounds of pruning are one round with the masks of both."""

import jax
import numpy as np
import pytest

import jaxprune
from jaxprune.dependency.nesting import nested, widened
from jaxprune.networks import bundled


def drawn(structure, seed, share=0.6):
    """Masks that keep about a share of each group, at least one channel."""
    random = np.random.default_rng(seed)
    masks = {group.name: random.random(group.size) < share for group in structure.groups}
    for mask in masks.values():
        mask[random.integers(len(mask))] = True
    return {name: mask.astype(np.float32) for name, mask in masks.items()}


def attention(params, x):
    q, k, v = (jax.numpy.einsum("btc,chd->bthd", x, params[n]) for n in "qkv")
    weights = jax.nn.softmax(jax.numpy.einsum("bthd,bshd->bhts", q, k))
    y = jax.numpy.einsum("bhts,bshd->bthd", weights, v)
    return jax.numpy.einsum("bthd,hdc->btc", y, params["o"]).mean(1) @ params["last"]


def case(name):
    keys = jax.random.split(jax.random.key(0), 6)
    if name == "attention":
        shapes = dict.fromkeys("qkv", (6, 4, 5)) | {"o": (4, 5, 6), "last": (6, 3)}
        params = {
            n: jax.random.normal(key, shape)
            for key, (n, shape) in zip(keys, shapes.items(), strict=False)
        }
        return attention, params, jax.random.normal(keys[5], (2, 7, 6))
    network = bundled.build(name, (8, 8, 1))
    return network.apply, network.init(keys[0]), jax.random.normal(keys[5], (2, 8, 8, 1))


@pytest.mark.parametrize(
    "name", ["attention", "cnn", pytest.param("resnet20", marks=pytest.mark.slow)]
)
def test_two_rounds_are_one(name):
    apply, params, x = case(name)
    structure = jaxprune.trace(apply, params, x)
    first = drawn(structure, 1)
    small = jaxprune.compact(apply, structure, params, first)
    inner = jaxprune.trace(small, small.params, x)
    further = drawn(inner, 2)
    smaller = jaxprune.compact(small, inner, small.params, further)
    masks = nested(structure, first, inner, further)
    at_once = jaxprune.compact(apply, structure, params, masks)
    jax.tree.map(np.testing.assert_array_equal, at_once.params, smaller.params)
    np.testing.assert_allclose(
        at_once(at_once.params, x), smaller(smaller.params, x), rtol=1e-4, atol=1e-4
    )
    wide = widened(structure, masks, smaller.params)
    again = jaxprune.compact(apply, structure, wide, masks)
    jax.tree.map(np.testing.assert_array_equal, again.params, smaller.params)
    assert jax.tree.map(np.shape, wide) == jax.tree.map(np.shape, params)
    kept = jax.tree.map(
        lambda leaf, dense: bool(((leaf == 0) | (leaf == dense)).all()), wide, params
    )
    assert all(jax.tree.leaves(kept))


def test_masks_of_another_network_are_refused():
    apply, params, x = case("cnn")
    structure = jaxprune.trace(apply, params, x)
    masks = drawn(structure, 1)
    with pytest.raises(ValueError, match=r"has the groups .*'conv1': 16.*not those of the masks"):
        nested(structure, masks, structure, structure.full_masks())
