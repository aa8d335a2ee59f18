"""A residual network with and without normalisation, small enough to check by hand."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

import jaxprune


class Residual(nn.Module):
    """conv1 + conv2(conv1), each normalised, then a dense layer without normalisation."""

    @nn.compact
    def __call__(self, x, train=False):
        def norm(name):
            return nn.BatchNorm(use_running_average=not train, name=name)

        x = nn.relu(norm("bn1")(nn.Conv(5, (3, 3), use_bias=False, name="conv1")(x)))
        y = nn.relu(norm("bn2")(nn.Conv(4, (3, 3), use_bias=False, name="conv2")(x)))
        x = nn.relu(x + norm("bn3")(nn.Conv(5, (3, 3), use_bias=False, name="conv3")(y)))
        x = nn.relu(nn.Dense(6, name="hidden")(x.mean((1, 2))))
        return nn.Dense(3, name="out")(x)


class Case(NamedTuple):
    module: nn.Module
    apply: object
    variables: dict
    x: jax.Array
    structure: jaxprune.Structure


@pytest.fixture(scope="package")
def residual() -> Case:
    """Groups conv1 (5 channels, coupled with conv3), conv2 (4), hidden (6); all values random."""
    module = Residual()
    x = jax.random.normal(jax.random.key(1), (4, 6, 6, 2))
    shapes, tree = jax.tree.flatten(jax.eval_shape(module.init, jax.random.key(0), x))
    keys = jax.random.split(jax.random.key(2), len(shapes))
    leaves = [jax.random.normal(k, s.shape) for k, s in zip(keys, shapes, strict=True)]
    variables = tree.unflatten(leaves)
    variables["batch_stats"] = jax.tree.map(jnp.abs, variables["batch_stats"])
    structure = jaxprune.trace(module.apply, variables, x)
    sizes = {group.name: group.size for group in structure.groups}
    assert sizes == {"conv1": 5, "conv2": 4, "hidden": 6}
    return Case(module, module.apply, variables, x, structure)
