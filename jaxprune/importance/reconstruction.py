"""Importance by what the next layers lose if their other weights make up for a channel."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.dependency import Structure, second_moments
from jaxprune.dependency.dtypes import wide
from jaxprune.importance.positions import members_of
from jaxprune.importance.weights import reading_axes


def reconstruction(
    structure: Structure,
    apply: Callable[..., Any],
    params: Any,
    x: Any,
    *,
    damping: float = 0.01,
    chunk: int = 256,
) -> Array:
    """The error of what the next layers compute, once a channel and all before it are gone.

    Optimal Brain Surgeon (Hassibi and Stork, NeurIPS 1992) for whole channels, as in ZipLM (Kurtic,
    Frantar and Alistarh, NeurIPS 2023, arXiv 2302.04089, sec. 3.1). The channels of a group are
    removed one after the other. Each time it is the one without which the outputs of the layers
    that read the group can be approximated best, in the mean square over the examples, by the
    channels that are left: the remaining weights are adjusted for it by least squares, on paper;
    the parameters stay as they are. The score of a channel is the error after its removal.

    So of channels that carry the same, such as neighbouring pixels, all but one go early, however
    large their weights are; criteria that look at channels one by one keep or remove them together.

    Several readers and windows: their covariances are added up, and so are the products of their
    weights. A channel's activations are compared place by place, not between the places of one
    window.

    Departures: activations are taken less their mean, which a bias or a normalisation can replace.
    ZipLM compares layers by the loss; these are errors of each group alone, comparable within it.
    Channels whose activations are never seen alone (attention's heads and features) count as
    uncorrelated and of equal size.

    Args:
      structure: what `trace` returned.
      apply: `apply(params, x)`, in inference mode.
      params: the dense parameters.
      x: the examples, any tree of arrays [B, ...]; a few times as many places as channels.
      damping: what is added to all variances, as a part of their mean. Above 0.
      chunk: how many examples are looked at at once; means are those of the chunk. What is left
        over at the end is not looked at.

    Returns:
      float32 [num_channels], at least 0.

    Raises:
      ValueError: the params do not fit the structure, or damping is not above 0.
    """
    if not damping > 0:
        raise ValueError(f"damping is {damping}, but must be above 0")
    seen = read_together(structure, apply, params, x, centred=True, chunk=chunk)
    scores = [
        _removal_errors(covariance, products, damping)
        for covariance, products in zip(seen, _products(structure, params), strict=True)
    ]
    return jnp.concatenate([jnp.zeros(0), *scores])


def read_together(
    structure: Structure,
    apply: Callable[..., Any],
    params: Any,
    x: Any,
    *,
    centred: bool,
    chunk: int,
) -> list[Array]:
    """`second_moments` of many examples, the mean over chunks of them.

    Args:
      structure: what `trace` returned.
      apply: `apply(params, x)`, in inference mode.
      params: the dense parameters.
      x: the examples, any tree of arrays [B, ...].
      centred: whether channels are taken less their means in a chunk.
      chunk: how many examples are looked at at once. What is left over at the end is not looked at.

    Returns:
      float32 [size, size] for each group.
    """
    total = jax.tree.leaves(x)[0].shape[0]
    count = min(chunk, total)
    chunks = total // count

    @jax.jit
    def look(params: Any, number: Array) -> list[Array]:
        part = jax.tree.map(lambda v: jax.lax.dynamic_slice_in_dim(v, number * count, count), x)
        return second_moments(apply, structure, params, part, centred=centred)

    seen = look(params, jnp.int32(0))
    for number in range(1, chunks):
        seen = jax.tree.map(jnp.add, seen, look(params, jnp.int32(number)))
    return [moments / chunks for moments in seen]


def _products(structure: Structure, params: Any) -> list[Array]:
    """The inner products of the weights that read two channels, [size, size] for each group."""
    leaves = structure.check_params(params)
    ends = np.cumsum([group.size for group in structure.groups])
    found = [jnp.zeros((group.size, group.size)) for group in structure.groups]
    for leaf, axis in reading_axes(structure):
        channels, positions = members_of(structure, structure.channels[leaf][axis])
        rows = jnp.moveaxis(jnp.asarray(leaves[leaf]), axis, 0)
        for g, (group, end) in enumerate(zip(structure.groups, ends, strict=True)):
            inside = positions[(channels >= end - group.size) & (channels < end)]
            if len(inside) and len(inside) % group.size == 0:
                own = rows[inside].reshape(group.size, -1)
                own = own.astype(wide(own.dtype))
                products = jnp.matmul(own, own.conj().T, precision=jax.lax.Precision.HIGHEST)
                found[g] += products.real.astype(jnp.float32)
    return found


BLOCK = 64
"""Removals between two updates of whole matrices, which are products of matrices then."""


class _Removals(NamedTuple):
    """Greedy elimination of n channels, the changes of the current block kept apart.

    The inverse covariance is `inverse - scaled scaled^T`, the products of the reading weights are
    `products - shares rows^T - rows shares^T`.

    Attributes:
        inverse: before the block, `[n, n]`.
        products: before the block, `[n, n]`.
        variances: the diagonal of the inverse now, `[n]`.
        squares: the diagonal of the products now, `[n]`.
        left: which channels are left, bool `[n]`.
        total: the error so far, `[]`.
        errors: after each channel's removal, `[n]`.
    """

    inverse: Array
    products: Array
    variances: Array
    squares: Array
    left: Array
    total: Array
    errors: Array


@jax.jit
def _removal_errors(covariance: Array, products: Array, damping: float) -> Array:
    """Greedy elimination: the error after each channel's removal, [n].

    With the inverse H of the covariance and the rows W of the reading weights, removing channel i
    costs `|W_i|^2 / H_ii`, adjusts the weights by `W -= H_:i / H_ii W_i`, and H by its elimination.
    Only `W W^T` is needed for this, not W.
    """
    count = len(covariance)
    size = jnp.trace(covariance) / count
    size = jnp.where(size > 0, size, 1.0)
    scaled = jnp.where(jnp.trace(covariance) > 0, covariance / size, jnp.eye(count))
    inverse = jnp.linalg.inv(scaled + damping * jnp.eye(count))
    block = min(BLOCK, count)
    state = _Removals(
        inverse,
        products,
        jnp.diagonal(inverse),
        jnp.diagonal(products),
        jnp.ones(count, bool),
        jnp.float32(0),
        jnp.zeros(count),
    )
    state = jax.lax.fori_loop(0, -(-count // block), lambda _, s: _remove_block(s, block), state)
    return state.errors * size


def _remove_block(state: _Removals, block: int) -> _Removals:
    """Removes `block` channels, or as many as are left."""
    count = len(state.left)

    def remove(step: Array, carry: tuple[_Removals, Array, Array, Array]) -> tuple:
        state, scaled, shares, rows = carry
        variances = jnp.maximum(state.variances, 1e-12)
        rises = jnp.maximum(state.squares, 0.0) / variances
        worst = jnp.argmin(jnp.where(state.left, rises, jnp.inf))
        variance, any_left = variances[worst], state.left[worst]
        column = state.inverse[:, worst] - scaled @ scaled[worst]
        row = state.products[:, worst] - shares @ rows[worst] - rows @ shares[worst]
        share = column / variance
        # Half of what is added with the share's own square goes to each of two equal terms.
        row -= share * row[worst] / 2
        column, share, row = (jnp.where(any_left, vector, 0.0) for vector in (column, share, row))
        total = state.total + jnp.where(any_left, rises[worst], 0.0)
        state = state._replace(
            variances=state.variances - column * share,
            squares=state.squares - 2 * share * row,
            left=state.left.at[worst].set(False),
            total=total,
            errors=state.errors.at[worst].set(jnp.where(any_left, total, state.errors[worst])),
        )
        scaled = scaled.at[:, step].set(column / jnp.sqrt(variance))
        return state, scaled, shares.at[:, step].set(share), rows.at[:, step].set(row)

    empty = jnp.zeros((count, block))
    state, scaled, shares, rows = jax.lax.fori_loop(0, block, remove, (state, empty, empty, empty))
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    both = product(shares, rows.T)
    return state._replace(
        inverse=state.inverse - product(scaled, scaled.T),
        products=state.products - both - both.T,
    )
