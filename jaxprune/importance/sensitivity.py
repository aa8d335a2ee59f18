"""Importance from data: how active a channel is, and how the loss would change without it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxprune.dependency import Structure, activity, masked
from jaxprune.dependency.concrete import namespace, put
from jaxprune.dependency.dtypes import dtype_of
from jaxprune.errors import UserError
from jaxprune.importance.positions import sums_at
from jaxprune.importance.weights import over_producers, producing_kernels


def taylor(structure: Structure, params: Any, gradients: Any) -> Array:
    """The squared first-order change of the loss when a channel's weights become zero.

    Molchanov et al. 2019 (arXiv 1906.10771, sec. 3), the importance of a structural set S by its
    group contribution, `(sum_{s in S} g_s w_s)^2`: squared, not absolute.

    ::

        gradients = jax.grad(lambda params: loss(apply(params, x)))(params)
        scores = importance.taylor(structure, params, gradients)

    S are the weights that produce a channel; biases and normalisation do not count. The paper
    averages the importance over minibatches: average the results of several calls, because
    averaging the gradients first lets changes of opposite sign cancel. Take the gradients in
    inference mode: where BatchNorm normalises by the batch, the loss does not depend on the scale
    of a filter, and the sum is zero for every one.

    Coupled layers: one set S of all their weights; the square is taken of the whole sum.

    Departure: none for a convolution. For BatchNorm the paper also scores gates behind the
    normalisation; `taylor_activation` is nearest to these.

    Args:
      structure: what `trace` returned.
      params: the dense parameters.
      gradients: the gradient of the loss, a tree like `params`.

    Returns:
      float32 [num_channels], at least 0.

    Raises:
      ValueError: params or gradients do not fit the structure.
    """
    kernels = producing_kernels(structure, params)
    slopes = producing_kernels(structure, gradients)
    changes = [(kernel * slope).real for kernel, slope in zip(kernels, slopes, strict=True)]
    return put(over_producers(structure, changes) ** 2)


def snip(structure: Structure, params: Any, gradients: Any) -> Array:
    """A channel's part of the loss's sensitivity to connections.

    SNIP (Lee, Ajanthan and Torr, ICLR 2019, arXiv 1810.02340, eqs. 3 to 5) multiplies each weight
    by an indicator c = 1 and gives it `|dL/dc_j| / sum_k |dL/dc_k|`, with `dL/dc = w dL/dw`. A
    channel has the sum over the weights that produce it. It is meant for networks before training,
    and for a ranking of all channels of the network: `scope="raw"` of `select`.

    Coupled layers: the sum over all of them.

    Departure: channels instead of single weights. Unlike `taylor`, which adds up with signs before
    it squares, changes of opposite sign do not cancel.

    Args:
      structure: what `trace` returned.
      params: the parameters.
      gradients: the gradient of the loss, a tree like `params`.

    Returns:
      float32 [num_channels], at least 0; over the kernels of all layers they add up to 1, over the
      channels to less where some cannot be removed.

    Raises:
      ValueError: params or gradients do not fit the structure.
    """
    kernels = producing_kernels(structure, params)
    slopes = producing_kernels(structure, gradients)
    changes = [abs(kernel * slope) for kernel, slope in zip(kernels, slopes, strict=True)]
    # A kernel with two axes that produce channels is there twice.
    of_leaf = {leaf: c for (leaf, _), c in zip(structure.producers, changes, strict=True)}
    total = sum(change.sum() for change in of_leaf.values())
    xp = namespace(changes)
    return put(over_producers(structure, changes) / xp.where(total > 0, total, 1))


def taylor_activation(
    structure: Structure,
    apply: Callable[..., Any],
    params: Any,
    x: Any,
    loss: Callable[[Any], Array],
) -> Array:
    """The first-order change of the loss when a channel's activations become zero.

    Molchanov et al. 2017 (arXiv 1611.06440, sec. 2.2): `|sum_z dL/dz z|` over the activations z of
    a channel, for each example by itself, averaged over the examples, then divided by the L2 norm
    of the scores of its layer. The sum is minus the derivative of the loss in the channel's mask,
    which is how it is computed: exactly, in one backward pass, whatever lies between the layers.

    Coupled layers and several readers: the activations are those that the channel's readers take
    in, after nonlinearity and pooling. One mask entry stands for all of them, so that their changes
    are summed, with their signs, before the absolute value.

    Departures: the sum over a feature map is not divided by the map's size; within a group this
    factor is the same for all channels, and the norm, which is a group's instead of a layer's,
    takes it away.

    Args:
      structure: what `trace` returned.
      apply: `apply(params, x)`, in inference mode: an example's outputs depend on it alone.
      params: the dense parameters.
      x: the examples, any tree of arrays [B, ...].
      loss: `loss(outputs) -> []`, a mean over the examples in `outputs` [B, ...]; labels are closed
        over.

    Returns:
      float32 [num_channels] in [0, 1].

    Raises:
      UserError: `loss` returns no scalar.
      ValueError: the params do not fit the structure.
    """
    masked_apply = masked(apply, structure)
    count = jax.tree.leaves(x)[0].shape[0]

    def outputs_of_one(mask: Array, params: Any, example: Any) -> Any:
        batch = jax.tree.map(lambda value: value[None], example)
        outputs = masked_apply(params, structure.unflatten(mask), batch)
        return jax.tree.map(lambda value: value[0], outputs)

    def loss_of_masks(masks: Array, params: Any, x: Any) -> Array:
        return scalar(loss(jax.vmap(outputs_of_one, (0, None, 0))(masks, params, x)))

    @jax.jit
    def relative_slopes(params: Any, x: Any) -> Array:
        masks = jnp.ones((count, structure.num_channels))
        scores = jnp.abs(jax.grad(loss_of_masks)(masks, params, x)).sum(0)
        group = structure.group_index
        norms = jnp.sqrt(sums_at(group, scores**2, len(structure.groups)))[group]
        return scores / jnp.where(norms > 0, norms, 1.0)

    return relative_slopes(params, x)


def activation(structure: Structure, apply: Callable[..., Any], params: Any, x: Any) -> Array:
    """The mean absolute activation of a channel.

    The mean activation is one of the criteria that Molchanov et al. 2017 (arXiv 1611.06440,
    sec. 2.2) compare: a channel that is seldom active is of little use to the next layer. The
    activations are those that the channel's readers take in, after nonlinearity and pooling, and
    the mean runs over examples and positions.

    Coupled layers and several readers: the sum over all readers of what each reads.

    Departure: the paper takes the mean itself, of activations after ReLU, which are not negative.
    The absolute value makes other nonlinearities comparable.

    Args:
      structure: what `trace` returned.
      apply: `apply(params, x)`, in inference mode.
      params: the dense parameters.
      x: the examples, any tree of arrays [B, ...].

    Returns:
      float32 [num_channels], at least 0.

    Raises:
      ValueError: the params do not fit the structure.
    """
    return activity(apply, structure, params, x)


def scalar(value: Any) -> Array:
    """A loss, which must be one number."""
    if jnp.shape(value) != ():
        raise UserError(
            f"the loss has shape {jnp.shape(value)} instead of (); return the mean over the "
            "examples, for example by .mean()"
        )
    if not jnp.issubdtype(dtype_of(value), jnp.floating):
        raise UserError(f"the loss is {dtype_of(value)}; return a real number, such as abs(loss)")
    return value
