"""Operators whose groups extend over several leaves, or compete with those of others."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jaxprune.optim.common import PyTree, check_axis, check_fraction, check_non_negative, wide_dtype
from jaxprune.optim.prox.grouped import group_threshold
from jaxprune.optim.prox.leafwise import check_real

FLAX_HEADS: Mapping[str, int] = {
    **{f"{name}/kernel": 1 for name in ("query", "key", "value")},
    **{f"{name}/bias": 0 for name in ("query", "key", "value")},
    "out/kernel": 0,
}
"""Where the heads lie in the parameters of Flax's ``MultiHeadDotProductAttention``, Linen's and
NNX's: the end of a leaf's path, and the axis."""


def joint_sparsity(
    x: PyTree,
    strength: jax.typing.ArrayLike = 1.0,
    step: PyTree = 1.0,
    *,
    axis: int | Sequence[int] | None = None,
    normalize: bool = False,
) -> PyTree:
    r"""The nearest point at which a given fraction of all groups is zero: one budget for all.

    .. math::
      \arg\min_u \sum_i \frac{(u_i - x_i)^2}{2 \, \text{step}_i} \quad \text{such that} \quad
      \#\{g : u_g = 0\} \ge \text{strength} \cdot G

    where g runs over the groups of all leaves together, G of them. Those with the smallest
    :math:`\sum_{i \in g} x_i^2 / \text{step}_i` become zero, the others stay as they are; of equal
    ones the first go. The count is rounded to the nearest. One step for all has no influence.

    It is a projection, not the operator of a penalty: ``strength`` is a fraction, and a schedule of
    it, such as :func:`jaxprune.optim.ramp`, is a schedule of the sparsity.

    Args:
      x: array or pytree.
      strength: fraction of groups that are zero, one number in [0, 1].
      step: step length, >= 0; scalar, a prefix of x, or one step for each coordinate.
      axis: axis or axes that a group extends over, as in :func:`group_l2`; () for single entries;
        None for all but the last: in the layout of Flax and Haiku, what enters an output channel.
      normalize: compares sums over the number of entries instead, so that small groups do not go
        first for being small. Then it is no longer the nearest point.

    Returns:
      A pytree like x.

    Raises:
      ValueError: strength is outside [0, 1], step is negative, or a leaf lacks an axis.

    References:
      Blumensath and Davies, Iterative hard thresholding (2009), eq. 5, for entries. torchao's
      pruning-aware training has the joint budget as ``GlobalMinSparsityConstraint``, and
      ``normalize`` as its score "rms".
    """
    check_non_negative(strength=strength, step=step)
    if not isinstance(strength, jax.Array):
        check_fraction("strength", strength, or_one=True)
    leaves, tree = jax.tree.flatten(x)
    if not leaves:
        return x
    dtypes = [check_real(leaf) for leaf in leaves]
    wide = wide_dtype(*leaves)
    leaves = [jnp.asarray(leaf).astype(wide) for leaf in leaves]
    steps = [jnp.asarray(s).astype(wide) for s in jax.tree.leaves(jax.tree.broadcast(step, x))]

    scores = []
    for leaf, length in zip(leaves, steps, strict=True):
        axes = _axes("joint_sparsity", axis, leaf.shape)
        # A coordinate with step 0 does not move: its group goes last.
        parts = leaf**2 / jnp.where(length > 0, length, 1.0)
        parts = jnp.where((length > 0) | (leaf == 0), parts, jnp.inf)
        combine = jnp.mean if normalize else jnp.sum
        scores.append(combine(parts, axes, keepdims=True))
    flat = jnp.concatenate([score.reshape(-1) for score in scores])
    count = jnp.round(jnp.asarray(strength, jnp.float32) * flat.size).astype(jnp.int32)
    rank = jnp.zeros(flat.size, jnp.int32).at[jnp.argsort(flat)].set(jnp.arange(flat.size))
    kept = jnp.split(rank >= count, list(_ends(scores))[:-1])
    results = [
        jnp.where(keep.reshape(score.shape), leaf, 0.0).astype(dtype)
        for keep, score, leaf, dtype in zip(kept, scores, leaves, dtypes, strict=True)
    ]
    return jax.tree.unflatten(tree, results)


def heads(
    x: PyTree,
    strength: PyTree = 1.0,
    step: PyTree = 1.0,
    *,
    axes: Mapping[str, int] = FLAX_HEADS,
    num_heads: int | None = None,
) -> PyTree:
    r"""Group lasso over attention heads: all weights of a head are one group.

    .. math::
      \arg\min_u \tfrac12 \|u - x\|_2^2 + \text{step} \cdot \text{strength} \sum_h \|u_h\|_2

    where :math:`u_h` is what head h has of queries, keys, values and output together. A head that
    is zero can be removed: :func:`jaxprune.trace` finds heads as groups. Leaves that end like one
    of ``axes`` and agree in what comes before belong to one block; whole trees of parameters, with
    several blocks and other layers, are taken, and other leaves are left as they are.

    Args:
      x: pytree of parameters.
      strength: penalty, >= 0, one number. Groups are not weighted by their size.
      step: step length, >= 0; scalar, or one step for each coordinate (a pytree like x).
      axes: {end of a leaf's path: the axis along which its heads lie}.
      num_heads: how many heads there are, where the axis is of heads times features, heads first;
        None if it is of heads alone.

    Returns:
      A pytree like x.

    Raises:
      ValueError: strength or step is negative, no leaf is named by axes, or the leaves of a block
        do not have equally many heads.

    References:
      Yuan and Lin (2006), as :func:`group_l2`. torchao's ``AttentionHeadGrouper`` makes groups of
      each matrix apart, so that a head may keep its queries and lose its keys.
    """
    check_non_negative(strength=strength, step=step)
    paths, tree = jax.tree.flatten_with_path(x)
    if not paths:
        return x
    leaves = [leaf for _, leaf in paths]
    steps = jax.tree.leaves(jax.tree.broadcast(step, x))
    blocks: dict[str, list[tuple[int, int]]] = {}  # where a block is: its (leaf, axis)
    for number, (path, _) in enumerate(paths):
        name = "/" + jax.tree_util.keystr(path, simple=True, separator="/")
        name = name.removesuffix("/value")  # of NNX
        for end, axis in axes.items():
            if name.endswith("/" + end):
                blocks.setdefault(name.removesuffix(end), []).append((number, axis))
    if not blocks:
        raise ValueError(f"heads found no leaf whose path ends in one of {sorted(axes)}.")
    for where, places in blocks.items():
        wide = wide_dtype(*(leaves[number] for number, _ in places))
        rows = [_rows(leaves[n], axis, num_heads, wide) for n, axis in places]
        if len({len(row) for row in rows}) > 1:
            counts = sorted({len(row) for row in rows})
            raise ValueError(f"heads: the leaves of '{where}' have {counts} heads.")
        length = steps[places[0][0]]
        if jnp.ndim(length):
            length = jnp.concatenate(
                [
                    _rows(jnp.broadcast_to(steps[n], jnp.shape(leaves[n])), axis, num_heads, wide)
                    for n, axis in places
                ],
                axis=1,
            )
        shrunk = group_threshold(
            jnp.concatenate(rows, axis=1),
            jnp.asarray(strength).astype(wide),
            jnp.asarray(length).astype(wide),
            (1,),
        )
        ends = list(_ends(rows, of_row=True))[:-1]
        for (number, axis), part in zip(places, jnp.split(shrunk, ends, axis=1), strict=True):
            leaf = jnp.asarray(leaves[number])
            moved = jnp.moveaxis(leaf, axis, 0)
            part = jnp.moveaxis(part.reshape(moved.shape), 0, axis)
            leaves[number] = part.astype(check_real(leaf))
    return jax.tree.unflatten(tree, leaves)


def _axes(operator, axis, shape):
    """The axes that a group extends over; none for single entries."""
    if axis is None:
        return tuple(range(len(shape) - 1))
    if not isinstance(axis, int) and not tuple(axis):
        return ()
    return check_axis(operator, axis, shape)


def _rows(leaf, axis, num_heads, dtype):
    """A leaf as [heads, what a head has of it]."""
    (axis,) = check_axis("heads", axis, jnp.shape(leaf))
    moved = jnp.moveaxis(jnp.asarray(leaf).astype(dtype), axis, 0)
    count = num_heads or len(moved)
    if len(moved) % count:
        raise ValueError(f"heads: {len(moved)} features are not divisible by {count} heads.")
    return moved.reshape(count, -1)


def _ends(arrays, of_row=False):
    """Where each array ends when all are laid in a row, or one row of each."""
    end = 0
    for array in arrays:
        end += array.shape[1] if of_row else array.size
        yield end
