"""Many candidate masks in one call."""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from jaxprune.lowering import lower

EXAMPLES_AT_ONCE = {True: 512, False: 16384}
"""Candidates times examples of one chunk, on a CPU and elsewhere: a CPU gains nothing from batches
that its caches cannot hold."""


class Scores(NamedTuple):
    """How K candidates do on a batch.

    Attributes:
      loss: float32 [K] or [K, T], mean cross entropy in nats.
      accuracy: the same shape, fraction of right answers.
    """

    loss: Array
    accuracy: Array


@partial(jax.jit, static_argnames=("masked_apply", "chunk"))
def evaluate(
    masked_apply: Callable[..., Array],
    params: Any,
    masks: Mapping[str, Array],
    x: Array,
    y: Array,
    *,
    chunk: int | None = None,
) -> Scores:
    """Scores K candidates on one batch, the parameters and the batch shared by all.

    The masks multiply activations, so every kernel stays shared and the candidates of a chunk are
    folded into the batch of each convolution. What lies before the first masked layer is computed
    once a chunk.

    Candidates may come in families of T that have the masks of some groups in common, such as the
    networks after each step of one that is pruned layer by layer. What depends on the common masks
    alone is computed once a family (by XLA, which moves it out of the loop over its members).

    Args:
      masked_apply: `masked_apply(params, masks, x) -> logits [B, classes]`, from `jaxprune.masked`.
      params: the dense parameters.
      masks: {group: [K, size]}; for K families, [K, T, size] where their members differ.
      x: [B, ...], as the network takes it.
      y: int [B], the labels.
      chunk: how many candidates are evaluated at once; memory grows with it. By default as many
        as make a batch that the device handles well, at least one.

    Returns:
      The scores of each candidate, [K], or of each member of each family, [K, T].
    """
    quick = lower(masked_apply)
    common = {name: mask for name, mask in masks.items() if mask.ndim == 2}
    own = {name: mask for name, mask in masks.items() if mask.ndim == 3}

    def score(candidate: Mapping[str, Array]) -> Scores:
        logits = quick(params, candidate, x).astype(jnp.float32)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return Scores(loss, (logits.argmax(-1) == y).mean())

    if chunk is None:
        chunk = max(1, EXAMPLES_AT_ONCE[jax.default_backend() == "cpu"] // len(y))
    if not own:
        return jax.lax.map(score, common, batch_size=chunk)
    members = next(iter(own.values())).shape[1]

    def family(masks: tuple[Mapping[str, Array], Mapping[str, Array]]) -> Scores:
        shared, differing = masks
        return jax.lax.map(
            lambda one: score({**shared, **one}), differing, batch_size=min(chunk, members)
        )

    return jax.lax.map(family, (common, own), batch_size=max(1, chunk // members))


class Separated(NamedTuple):
    """A function of masks without the arrays it closes over.

    Attributes:
      function: `function(constants, masks)` -> `Scores` of the candidates.
      constants: the arrays: parameters and images.
    """

    function: Callable[[list[Array], Array], Scores]
    constants: list[Array]


@lru_cache(maxsize=8)
def separated(scores: Callable[[Array], Scores], shape: tuple[int, ...]) -> Separated:
    """Separates a function such as `Problem.evaluate` from the arrays it closes over.

    A jitted function that calls it as it is would hold images and parameters as constants, and XLA
    spends many seconds computing with constants when it compiles.

    Args:
      scores: masks -> scores.
      shape: shape of the masks, such as (K, N).
    """
    closed = jax.make_jaxpr(scores)(jnp.zeros(shape))

    def function(constants: list[Array], masks: Array) -> Scores:
        return Scores(*jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, constants))(masks))

    return Separated(function, closed.consts)
