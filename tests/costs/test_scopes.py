"""Which groups of real networks are alike."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import trace
from jaxprune.costs.scopes import comparable, kinds
from jaxprune.networks import bundled


@functools.cache
def structure_of(name):
    network = bundled.build(name, (32, 32, 3), 10)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    return trace(network.apply, variables, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))


def test_channels_inside_the_blocks_of_a_resnet_are_alike():
    structure = structure_of("resnet20")
    kind = dict(zip([group.name for group in structure.groups], kinds(structure), strict=True))
    produced_once = [g.name for g in structure.groups if len(g.layers) == 1]
    assert len(produced_once) == 9
    assert len({kind[name] for name in produced_once}) == 1
    assert len(set(kind.values())) > 1


def test_the_same_part_of_each_kind_lies_below_a_value():
    structure = structure_of("resnet20")
    scores = np.random.default_rng(0).normal(size=structure.num_channels).astype(np.float32)
    worth = np.asarray(comparable(structure, scores, "isomorphic"))
    kind = kinds(structure)[structure.group_index]
    for k in np.unique(kind):
        inside = kind == k
        np.testing.assert_allclose(
            np.sort(worth[inside]), (np.arange(inside.sum()) + 0.5) / inside.sum(), rtol=1e-6
        )
        np.testing.assert_array_equal(np.argsort(worth[inside]), np.argsort(scores[inside]))


def test_heads_and_their_features_are_not():
    params = {
        name: jax.ShapeDtypeStruct(shape, jnp.float32)
        for name, shape in {"a": (3, 6), "b": (6, 3), "mix": (2, 2)}.items()
    }

    def apply(params, x):
        hidden = jnp.einsum("nrc,rs->nsc", (x @ params["a"]).reshape(-1, 2, 3), params["mix"])
        hidden = jnp.einsum("nsc,sr->nrc", jnp.sin(hidden), params["mix"])
        return hidden.reshape(-1, 6) @ params["b"]

    structure = trace(apply, params, jax.ShapeDtypeStruct((1, 3), jnp.float32))
    assert [group.size for group in structure.groups] == [2, 3]
    assert kinds(structure).tolist() == [0, 1]
