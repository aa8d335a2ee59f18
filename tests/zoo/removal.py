"""What the checks of removal share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import Structure, trace
from zoo import build
from zoo.network import Network


@cache
def traced(name: str) -> tuple[Network, Structure]:
    """A network of the zoo and its structure."""
    network = build(name)

    def training(variables: Any, x: Any) -> Any:
        return network.loss(variables, x, network.y)

    also = [training] if network.stateful else []
    return network, trace(network.apply, network.variables, network.x, also=also)


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
