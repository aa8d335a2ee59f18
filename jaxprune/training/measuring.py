"""Loss and accuracy of a network on a split."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxprune.scoring.lowering import lower
from jaxprune.training.arguments import as_argument
from jaxprune.training.data import Split


def scores(
    apply: Callable[[Any, Array], Array],
    variables: Any,
    split: Split,
    preprocess: Callable[[Array], Array],
    batch_size: int = 500,
) -> tuple[float, float]:
    """Measures a network on a split.

    Args:
        apply: `apply(variables, x) -> logits [B, classes]`, for inference.
        variables: The network's variables.
        split: The examples; every one counts once, whatever the batch size.
        preprocess: Maps uint8 `[B, H, W, C]` to what the network takes.
        batch_size: Examples evaluated together, 1 or more.

    Returns:
        The mean cross-entropy, and the accuracy as a share in [0, 1].

    Raises:
        ValueError: If the split is empty or `batch_size` is below 1.
    """
    count = len(split.labels)
    if count == 0:
        raise ValueError("the split has no examples to measure on")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, but must be 1 or more")
    batch_size = min(batch_size, count)
    functions = as_argument(apply), as_argument(preprocess)
    examples = jax.device_put((split.images, split.labels))
    sums = [
        _sums(functions, variables, examples, first, batch_size=batch_size)
        for first in range(0, count, batch_size)
    ]
    losses, corrects = zip(*jax.device_get(sums), strict=True)
    return float(np.sum(losses, dtype=np.float64)) / count, float(np.sum(corrects)) / count


def accuracy(
    apply: Callable[[Any, Array], Array],
    variables: Any,
    split: Split,
    preprocess: Callable[[Array], Array],
    batch_size: int = 500,
) -> float:
    """The share of a split that a network classifies correctly; see `scores`."""
    return scores(apply, variables, split, preprocess, batch_size)[1]


@partial(jax.jit, static_argnames="batch_size")
def _sums(functions, variables, examples, first, *, batch_size: int):
    """Sums of the losses and of the correct answers over the batch that starts at `first`."""
    apply, preprocess = functions
    images, labels = examples
    index = first + jnp.arange(batch_size)
    inside = index < len(labels)  # the last batch is filled up with examples that do not count
    index = jnp.minimum(index, len(labels) - 1)
    logits = lower(apply)(variables, preprocess(images[index])).astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[index])
    correct = logits.argmax(-1) == labels[index]
    return jnp.sum(jnp.where(inside, losses, 0)), jnp.sum(correct & inside)
