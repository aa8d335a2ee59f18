"""Which inputs hold one entry for each example, and batches of other sizes to try a program on."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.errors import UserError


class Inputs(NamedTuple):
    """The inputs of a network, as leaves.

    Attributes:
        leaves: Arrays, or anything with shape and dtype.
        tree: Their tree, that of the tuple of inputs.
        batch: How many examples they hold.
        batched: For each leaf whether its leading axis is that of the examples. It is if it has as
            many positions as that of the first leaf that has one.
    """

    leaves: tuple[Any, ...]
    tree: Any
    batch: int
    batched: tuple[bool, ...]

    @property
    def in_axes(self) -> tuple[Any, ...]:
        """For `jax.vmap` over the examples."""
        return self.tree.unflatten([0 if each else None for each in self.batched])

    def of_size(self, batch: Any) -> tuple[Any, ...]:
        """Shapes and dtypes of the inputs for another number of examples, also a symbolic one."""
        return self.tree.unflatten(
            jax.ShapeDtypeStruct((batch, *leaf.shape[1:]) if each else leaf.shape, leaf.dtype)
            for leaf, each in zip(self.leaves, self.batched, strict=True)
        )

    def trials(self, batch: int) -> list[tuple[Any, ...]]:
        """Inputs to try a program on: those given, repeated or cut, and random ones."""
        rng = np.random.default_rng(batch)
        shapes = jax.tree.leaves(self.of_size(batch))
        found: list[list[Any]] = []
        like: list[Any] = [None] * len(shapes)
        if all(isinstance(leaf, jax.Array | np.ndarray) for leaf in self.leaves):
            like = [
                jnp.asarray(leaf)[np.arange(batch) % self.batch] if each else jnp.asarray(leaf)
                for leaf, each in zip(self.leaves, self.batched, strict=True)
            ]
            found.append(like)
        pairs = zip(shapes, like, strict=True)
        found.append([_random(rng, shape, value) for shape, value in pairs])
        return [self.tree.unflatten(values) for values in found]


def read(inputs: tuple[Any, ...]) -> Inputs:
    """Takes inputs apart.

    Raises:
        UserError: There are none, or one is no array.
    """
    leaves, tree = jax.tree.flatten(inputs)
    if not leaves:
        raise UserError("a batch of inputs is missing: give those that the network is called with")
    leaves = [_array(leaf) for leaf in leaves]
    batch = next((leaf.shape[0] for leaf in leaves if leaf.shape), 1)
    if batch == 0:
        raise UserError("the inputs hold no example; give at least one")
    batched = tuple(bool(leaf.shape) and leaf.shape[0] == batch for leaf in leaves)
    return Inputs(tuple(leaves), tree, batch, batched)


def _array(leaf: Any) -> Any:
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return leaf
    try:
        return jnp.asarray(leaf)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"an input is of type {type(leaf).__name__}, no array (metadata is given by name: "
            "metadata={...})"
        ) from error


def _random(rng: np.random.Generator, shape: Any, value: Any) -> Any:
    """Standard normal numbers; integers between 0 and the largest given; flags; keys as given."""
    if jnp.issubdtype(shape.dtype, jax.dtypes.extended):
        return jnp.broadcast_to(jax.random.key(0), shape.shape) if value is None else value
    if jnp.issubdtype(shape.dtype, jnp.bool_):
        return jnp.asarray(rng.random(shape.shape) < 0.5)
    if jnp.issubdtype(shape.dtype, jnp.integer):
        most = 1 if value is None or not value.size else int(value.max())
        least = 0 if value is None or not value.size else min(0, int(value.min()))
        return jnp.asarray(rng.integers(least, max(most, least) + 1, shape.shape), shape.dtype)
    return jnp.asarray(rng.standard_normal(shape.shape), shape.dtype)


def over_examples(
    function: Callable[..., Any], leading: tuple[Any, ...], inputs: Inputs
) -> Callable[..., Any] | None:
    """The function `(*leading, *inputs)` for one example, mapped over any number of them.

    Args:
        function: `function(*leading, *inputs)` of a batch.
        leading: Its arguments before the inputs, such as parameters, or their shapes.
        inputs: A batch.

    Returns:
        A function of the same arguments; None if the shapes of what it returns rule out that
        examples are treated one by one. Results that do not grow with the batch are taken from the
        first example: compare them.
    """
    one, two = (jax.eval_shape(function, *leading, *inputs.of_size(n)) for n in (1, 2))
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    growing = [_growth(a.shape, b.shape) for a, b in pairs]
    if None in growing:
        return None

    def network(*arguments: Any) -> Any:
        before, values = arguments[: len(leading)], arguments[len(leading) :]

        def example(*values: Any) -> Any:
            leaves = zip(jax.tree.leaves(values), inputs.batched, strict=True)
            single = [leaf[None] if each else leaf for leaf, each in leaves]
            return function(*before, *inputs.tree.unflatten(single))

        outputs = jax.vmap(example, inputs.in_axes)(*values)
        results = jax.tree.leaves(outputs)
        joined = [
            each.reshape(each.shape[0] * each.shape[1], *each.shape[2:]) if grows else each[0]
            for each, grows in zip(results, growing, strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(outputs), joined)

    return network


def _growth(one: Sequence[int], two: Sequence[int]) -> bool | None:
    """Whether a result has twice the rows for twice the examples; None if it cannot be told."""
    if one == two:
        return False
    return True if one and two and two == (2 * one[0], *one[1:]) else None


def influences(function: Callable[..., Any], leading: tuple[Any, ...], inputs: Inputs) -> bool:
    """Whether the first example of a batch changes what the function returns for the others.

    Args:
        function: `function(*leading, *inputs)`, whose results grow with the batch or ignore it.
        leading: Its arguments before the inputs.
        inputs: A batch.
    """
    size = inputs.batch + 1
    for values in inputs.trials(size):
        leaves = jax.tree.leaves(values)
        changed = [
            jnp.concatenate([_other(leaf), leaf[1:]]) if each else leaf
            for leaf, each in zip(leaves, inputs.batched, strict=True)
        ]
        before = function(*leading, *values)
        after = function(*leading, *inputs.tree.unflatten(changed))
        for one, two in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            if not one.shape:
                one, two = one[None], two[None]
            first = one.shape[0] // size if one.shape[0] % size == 0 else 0
            if not _equal(two[first:], one[first:]):
                return True
    return False


def _other(leaf: Any) -> Any:
    """Another first example than an array has: zeros, or ones if it is zero."""
    first = leaf[:1]
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return leaf[1:2]
    return jnp.where((first == 0).all(), jnp.ones_like(first), jnp.zeros_like(first))


def _equal(one: Any, two: Any) -> bool:
    """Whether values are equal, up to the last places of single precision."""
    if jnp.issubdtype(one.dtype, jax.dtypes.extended):
        one, two = jax.random.key_data(one), jax.random.key_data(two)
    one, two = (
        np.asarray(each).astype(np.result_type(each.dtype, np.float32)) for each in (one, two)
    )
    scale = np.abs(one).max(initial=0, where=np.isfinite(one))
    return np.allclose(two, one, 1e-6, 1e-6 * scale, equal_nan=True)
