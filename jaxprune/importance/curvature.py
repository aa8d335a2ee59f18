"""Importance from second derivatives of the loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from jaxprune.dependency import Structure
from jaxprune.importance.sensitivity import scalar
from jaxprune.importance.weights import over_producers


def obd(
    structure: Structure,
    apply: Callable[..., Any],
    params: Any,
    x: Any,
    loss: Callable[[Any], Array],
    *,
    probes: int | None = 16,
    key: Array | None = None,
) -> Array:
    """By how much the loss rises, to second order, when a channel's weights become zero.

    Optimal Brain Damage (LeCun, Denker and Solla, NeurIPS 1989, eq. 5) gives a weight the saliency
    `h_ii w_i^2 / 2`, with `h_ii` the diagonal of the loss's Hessian. A channel has the sum of the
    saliencies of the weights that produce it.

    The diagonal is estimated as Hutchinson estimates a trace: for signs z drawn at random, the mean
    of `v_i (H v)_i` with `v = z w` is `h_ii w_i^2`. One probe is one Hessian-vector product. With
    `probes=None` there is a product for each weight, and nothing is estimated; that is for networks
    of a few thousand weights.

    Coupled layers: the sum over all of them.

    Departures: the paper finds the diagonal by a backward pass of its own that leaves out what is
    not on the diagonal of each layer; here it is that of the whole Hessian, exact or without bias.
    A negative sum, impossible at a minimum of the loss, counts as 0.

    Args:
      structure: what `trace` returned.
      apply: `apply(params, x)`, in inference mode.
      params: the dense parameters, trained: the first derivative is taken for zero.
      x: the examples, any tree of arrays [B, ...].
      loss: `loss(outputs) -> []`, a mean over the examples; labels are closed over.
      probes: how many random directions, at least 1; None for the exact diagonal.
      key: of the random directions; by default a fixed one, so that equal calls agree.

    Returns:
      float32 [num_channels], at least 0.

    Raises:
      UserError: `loss` returns no scalar.
      ValueError: the params do not fit the structure, or there are no probes.
    """
    if probes is not None and probes < 1:
        raise ValueError(f"probes is {probes}, but must be at least 1, or None for no estimate")
    kernels, loss_of = _kernels_and_loss(structure, apply, params, loss)
    _, unravel = ravel_pytree(kernels)

    def curved(direction: Array, kernels: Kernels, x: Any) -> Array:
        """The direction times the Hessian times the direction, before the sum."""
        return direction * _hessian_product(loss_of, kernels, unravel(direction), x)

    @jax.jit
    def probe(key: Array, kernels: Kernels, x: Any) -> Array:
        vector, _ = ravel_pytree(kernels)
        return curved(jax.random.rademacher(key, vector.shape) * vector, kernels, x)

    @jax.jit
    def exact(kernels: Kernels, x: Any) -> Array:
        vector, _ = ravel_pytree(kernels)

        def entry(i: Array) -> Array:
            return curved(jnp.zeros_like(vector).at[i].set(vector[i]), kernels, x)[i]

        return jax.lax.map(entry, jnp.arange(vector.size))

    if probes is None:
        products = exact(kernels, x)
    else:
        # Not a loop inside one program: there, gradients of convolutions are slow on a CPU.
        keys = jax.random.split(jax.random.key(0) if key is None else key, probes)
        products = sum(probe(key, kernels, x) for key in keys) / probes
    return jnp.maximum(_over_channels(structure, unravel(products / 2)), 0.0)


def grasp(
    structure: Structure,
    apply: Callable[..., Any],
    params: Any,
    x: Any,
    loss: Callable[[Any], Array],
) -> Array:
    """How much of the gradient's norm a channel's weights keep up.

    Gradient Signal Preservation (Wang, Zhang and Grosse, ICLR 2020, arXiv 2002.07376, eq. 8) looks
    at the change of the squared norm of the loss's gradient when weights become zero, which is
    `-2 w_i (H g)_i` to first order, and removes the weights for which `-w_i (H g)_i` is largest. So
    the importance is `w_i (H g)_i`, summed over the weights that produce a channel. H and g are in
    the kernels of all layers. The product is exact, by one forward derivative of the gradient.

    It is meant for networks before training, and for a ranking of all channels of the network by
    these values as they are: `scope="raw"` of `select`.

    Coupled layers: the sum over all of them.

    Departures: sums over channels instead of single weights. The least of all scores is subtracted,
    so that they are not negative, as other criteria's; no ranking changes by it. The paper divides
    the logits by 200 before the loss: do so in `loss` if wanted.

    Args:
      structure: what `trace` returned.
      apply: `apply(params, x)`, in inference mode.
      params: the parameters.
      x: the examples, any tree of arrays [B, ...].
      loss: `loss(outputs) -> []`, a mean over the examples; labels are closed over.

    Returns:
      float32 [num_channels], at least 0.

    Raises:
      UserError: `loss` returns no scalar.
      ValueError: the params do not fit the structure.
    """
    kernels, loss_of = _kernels_and_loss(structure, apply, params, loss)

    @jax.jit
    def kept_up(kernels: Kernels, x: Any) -> Kernels:
        vector, unravel = ravel_pytree(kernels)
        slopes = jax.grad(loss_of)(kernels, x)
        return unravel(vector * _hessian_product(loss_of, kernels, slopes, x))

    scores = _over_channels(structure, kept_up(kernels, x))
    return scores - scores.min(initial=jnp.inf)


Kernels = dict[int, Array]
"""{leaf: kernel in float32}: the kernel of every layer."""


def _kernels_and_loss(
    structure: Structure,
    apply: Callable[..., Any],
    params: Any,
    loss: Callable[[Any], Array],
) -> tuple[Kernels, Callable[[Kernels, Any], Array]]:
    """The kernels, and the loss as a function of them and of the examples."""
    leaves = structure.check_params(params)
    kernels = {leaf: jnp.asarray(leaves[leaf], jnp.float32) for leaf, _ in structure.producers}

    def loss_of(kernels: Kernels, x: Any) -> Array:
        known = list(leaves)
        for leaf, kernel in kernels.items():
            known[leaf] = kernel.astype(jnp.result_type(leaves[leaf]))
        return scalar(loss(apply(jax.tree.unflatten(structure.treedef, known), x)))

    return kernels, loss_of


def _hessian_product(
    loss_of: Callable[[Kernels, Any], Array], kernels: Kernels, direction: Kernels, x: Any
) -> Array:
    """The Hessian of the loss times a direction, as one vector."""
    slope = jax.grad(lambda kernels: loss_of(kernels, x))
    return ravel_pytree(jax.jvp(slope, (kernels,), (direction,))[1])[0]


def _over_channels(structure: Structure, values: Kernels) -> Array:
    """The sum of values over the weights that produce each channel."""
    return over_producers(structure, [values[leaf] for leaf, _ in structure.producers])
