"""What the checks of removal share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import Structure, trace
from zoo import build
from zoo.network import Network

# Less optimised programs compile faster; what is tested does not depend on the compiler.
quick_jit = partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


@cache
def traced(name: str) -> tuple[Network, Structure]:
    """A network of the zoo and its structure."""
    network = build(name)
    return network, trace(network.apply, network.variables, network.x)


def random_masks(structure: Structure, seed: int, keep: float = 0.6) -> dict[str, np.ndarray]:
    """Masks that keep about 60% of each group, and one channel at least."""
    rng = np.random.default_rng(seed)
    masks = {g.name: (rng.random(g.size) < keep).astype(np.float32) for g in structure.groups}
    for mask in masks.values():
        mask[rng.integers(len(mask))] = 1
    return masks


def sliced(structure: Structure, tree: Any, masks: dict[str, np.ndarray]) -> Any:
    """A tree of the variables, cut to the kept channels with numpy."""
    keep = np.concatenate([structure.flatten(masks), [1]]).astype(bool)  # the last is channel -1
    leaves = [
        np.asarray(leaf)[np.ix_(*(keep[axis] for axis in axes))]
        for leaf, axes in zip(jax.tree.leaves(tree), structure.channels, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    """Equal up to float summation order, relative to the largest entry of each array."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        scale = max(float(jnp.abs(b).max()), 1e-3)
        assert float(jnp.abs(a - b).max()) <= tolerance * scale


def training_step(network: Network) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """A step of gradient descent with weight decay: the new variables and the loss."""

    def step(variables: Any, x: Any, y: Any) -> tuple[Any, Any]:
        def objective(params: Any) -> tuple[Any, Any]:
            whole = {**variables, "params": params} if network.stateful else params
            value, state = network.loss(whole, x, y)
            decay = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
            return value + 1e-4 * decay, state

        params = variables["params"] if network.stateful else variables
        (value, state), gradient = jax.value_and_grad(objective, has_aux=True)(params)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
        return ({**variables, "params": params, **state} if network.stateful else params), value

    return step


@contextmanager
def in_best_precision(network: Network) -> Iterator[tuple[Callable[[Any], Any], float]]:
    """Double precision where the network has it: a converter of trees, and the tolerance.

    In single precision, rounding can hide a mistake: a gradient may be zero but for it.
    """

    def double(leaf: Any) -> Any:
        return jnp.asarray(leaf, jnp.float64) if jnp.result_type(leaf) == "float32" else leaf

    with jax.enable_x64(network.double):
        if network.double:
            yield lambda tree: jax.tree.map(double, tree), 1e-9
        else:
            yield lambda tree: tree, 2e-5
