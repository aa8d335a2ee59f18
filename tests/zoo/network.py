"""What a network of the zoo consists of, and the helpers that make one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

BATCH = 3


@dataclass(frozen=True)
class Network:
    """One network of the zoo.

    Attributes:
      apply: `apply(variables, x)` in inference mode.
      variables: random parameters and statistics. If they are a mapping with an entry "params",
        only that entry is trained.
      x: an input; its leading axis is the batch.
      y: what `loss` takes as the target.
      loss: `loss(variables, x, y)` in training mode: the value, and a dict of the entries of
        `variables` that training changes without a gradient (running statistics).
      least: what must be prunable at least: {layer: the sizes of different groups that it belongs
        to}. Where there are no sizes, any group will do.
      double: can it run in double precision?
    """

    apply: Callable[[Any, Any], Any]
    variables: Any
    x: Any
    y: Any
    loss: Callable[[Any, Any, Any], tuple[Any, dict[str, Any]]]
    least: Mapping[str, tuple[int, ...]]
    double: bool = True

    @property
    def stateful(self) -> bool:
        """Do the variables hold more than parameters?"""
        return isinstance(self.variables, Mapping) and "params" in self.variables


def randomise(shapes: Any, seed: int = 0) -> Any:
    """Random numbers for a tree of arrays: no scale is one, no bias and no mean is zero.

    The numbers come from numpy: initialising through JAX would compile something for every shape.
    """
    rng = np.random.default_rng(seed)

    def fill(path: Any, leaf: Any) -> Any:
        names = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path]
        kind, shape = names[-1], leaf.shape
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return jnp.zeros(shape, leaf.dtype)
        positive = kind in ("scale", "var", "gamma") or "var_ema" in "/".join(names)
        if positive or (kind == "weight" and len(shape) == 1):
            values = rng.uniform(0.5, 1.5, shape)
        elif kind in ("bias", "mean", "offset", "average", "hidden", "b"):
            values = rng.normal(0, 0.1, shape)
        else:
            values = rng.normal(0, 1 / np.sqrt(np.prod(shape[:-1])), shape)
        return jnp.asarray(values, jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def normal(*shape: int, seed: int = 1) -> jax.Array:
    """An input of standard normal numbers."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def integers(*shape: int, below: int, seed: int = 2) -> jax.Array:
    """Labels or tokens."""
    return jnp.asarray(np.random.default_rng(seed).integers(below, size=shape), jnp.int32)


def cross_entropy(logits: Any, labels: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def squared_error(predictions: Any, targets: Any) -> Any:
    return jnp.mean((predictions - targets) ** 2)


def from_linen(
    module: Any,
    x: Any,
    least: Mapping[str, tuple[int, ...]],
    y: Any = None,
    error: Callable[[Any, Any], Any] = cross_entropy,
    double: bool = True,
) -> Network:
    """A network from a Linen module that is called as `module(x, train=...)`."""
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), x)

    def apply(variables: Any, x: Any) -> Any:
        return module.apply(variables, x, train=False)

    def loss(variables: Any, x: Any, y: Any) -> Any:
        rngs = {"dropout": jax.random.key(3)}
        predictions, state = module.apply(
            variables, x, train=True, mutable=["batch_stats"], rngs=rngs
        )
        return error(predictions, y), dict(state)

    labels = integers(BATCH, below=4) if y is None else y
    return Network(apply, randomise(shapes), x, labels, loss, least, double)
