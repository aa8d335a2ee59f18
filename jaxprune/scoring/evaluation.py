"""Many candidate masks in one call."""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxprune.errors import UserError
from jaxprune.scoring import devices, memory
from jaxprune.scoring.lowering import lower

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


def classified(logits: Array, y: Array) -> Scores:
    """The scores, [] each, of logits [B, classes] for labels int [B].

    Raises:
      UserError: the network returns something else.
    """
    check_logits(logits, y)
    logits = logits.astype(jnp.float32)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    return Scores(loss, (logits.argmax(-1) == y).mean())


def check_logits(outputs: Any, y: Any) -> None:
    """Raises UserError unless outputs, or their shapes, are logits for labels y."""
    wanted = "candidates are scored by logits [B, classes] alone"
    if not hasattr(outputs, "shape"):
        keys = f" with {sorted(outputs)}" if isinstance(outputs, Mapping) else ""
        raise UserError(
            f"the network returns a {type(outputs).__name__}{keys}, and {wanted}; give a function "
            "that returns these, such as lambda params, x: apply(params, x)['logits']"
        )
    if outputs.shape[:-1] != jnp.shape(y) or not outputs.shape:
        raise UserError(
            f"the network returns shape {outputs.shape} for labels of shape {jnp.shape(y)}, and "
            f"{wanted}"
        )


@partial(jax.jit, static_argnames=("masked_apply", "chunk", "mesh"))
def evaluate(
    masked_apply: Callable[..., Array],
    params: Any,
    masks: Mapping[str, Array],
    x: Array,
    y: Array,
    *,
    chunk: int | None = None,
    mesh: Mesh | None = None,
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
      x: a tree of arrays [B, ...], as the network takes it.
      y: int [B], the labels.
      chunk: how many candidates are evaluated at once; memory grows with it. By default as many
        as make a batch that the device handles well and has the memory for, at least one.
      mesh: the devices that the candidates are divided among (`devices.make_mesh`), each with a
        copy of the parameters and the batch. With fewer candidates than devices some idle.

    Returns:
      The scores of each candidate, [K], or of each member of each family, [K, T].

    Raises:
      UserError: the device's memory does not hold a single candidate on the whole batch. (The batch
        is not divided: BatchNorm may normalise by the statistics of all of it.)
    """
    if mesh is None:
        return _scores(masked_apply, params, masks, x, y, chunk)
    count = len(next(iter(masks.values())))
    missing = -count % mesh.size
    # Replicated before they are divided, lest XLA divide what the caller makes of them, too.
    whole = devices.replicated(
        {name: jnp.concatenate([mask, *[mask[-1:]] * missing]) for name, mask in masks.items()},
        mesh,
    )
    divided = jax.shard_map(
        lambda params, masks, x, y: _scores(masked_apply, params, masks, x, y, chunk),
        mesh=mesh,
        in_specs=(P(), P(devices.AXIS), P(), P()),
        out_specs=P(devices.AXIS),
        check_vma=False,
    )(params, whole, x, y)
    return Scores(*(column[:count] for column in devices.replicated(divided, mesh)))


def _scores(
    masked_apply: Callable[..., Array],
    params: Any,
    masks: Mapping[str, Array],
    x: Array,
    y: Array,
    chunk: int | None,
) -> Scores:
    """`evaluate` on one device."""
    quick = lower(masked_apply)
    common = {name: mask for name, mask in masks.items() if mask.ndim == 2}
    own = {name: mask for name, mask in masks.items() if mask.ndim == 3}

    def score(candidate: Mapping[str, Array]) -> Scores:
        return classified(quick(params, candidate, x), y)

    if chunk is None:
        one = {name: mask[0] for name, mask in common.items()}
        one |= {name: mask[0, 0] for name, mask in own.items()}
        chunk = candidates_at_once(quick, params, one, x)
    if not own:
        return jax.lax.map(score, common, batch_size=chunk)
    members = next(iter(own.values())).shape[1]

    def family(masks: tuple[Mapping[str, Array], Mapping[str, Array]]) -> Scores:
        shared, differing = masks
        return jax.lax.map(
            lambda one: score({**shared, **one}), differing, batch_size=min(chunk, members)
        )

    return jax.lax.map(family, (common, own), batch_size=max(1, chunk // members))


def candidates_at_once(
    masked_apply: Callable[..., Array], params: Any, masks: Mapping[str, Array], x: Array
) -> int:
    """How many candidates a device evaluates together on a batch; only shapes matter.

    Raises:
      UserError: its memory does not hold the activations of one.
    """
    examples = len(jax.tree.leaves(x)[0])
    wanted = EXAMPLES_AT_ONCE[jax.default_backend() == "cpu"]
    fitting = memory.examples_that_fit(masked_apply, params, masks, x)
    if fitting is not None and fitting < examples:
        raise UserError(
            f"one candidate on {examples:,} images needs more memory than the device has; "
            f"about {fitting:,} images fit: lower the number that candidates are scored on "
            "(--search-examples)"
        )
    return max(1, (wanted if fitting is None else min(wanted, fitting)) // examples)


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
    closed = jax.make_jaxpr(scores)(jax.ShapeDtypeStruct(shape, jnp.float32))

    def function(constants: list[Array], masks: Array) -> Scores:
        return Scores(*jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, constants))(masks))

    return Separated(function, closed.consts)
