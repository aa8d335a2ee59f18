"""Patterns of kernels: which weights of each window may be other than zero."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.optim.common import PyTree, check_axis
from jaxprune.optim.prox.leafwise import leafwise


def kernel_patterns(
    x: PyTree,
    strength: PyTree = 1.0,
    step: PyTree = 1.0,
    *,
    patterns: Any,
    window: Sequence[int] = (0, 1),
) -> PyTree:
    r"""The nearest kernels whose weights lie in one of a few patterns: a projection.

    .. math::
      \arg\min_u \sum_i \frac{(u_i - x_i)^2}{2 \, \text{step}_i} \quad
      \text{such that every kernel's support is in one of the patterns}

    A kernel is the window that leads from one input channel to one output channel. Of each, the
    pattern is kept that holds the largest :math:`\sum x_i^2 / \text{step}_i`, of equal ones the
    first; the rest becomes zero. With one pattern of all ones nothing changes; with all patterns of
    n weights (:func:`all_patterns`) each kernel keeps its n largest.

    It makes no network faster without kernels written for it: the arrays keep their shapes.

    Args:
      x: array or pytree of kernels, in the layout of Flax: window first, then channels.
      strength: 0 leaves x as it is, anything above projects, so that a schedule such as
        :func:`jaxprune.optim.ramp` can begin with a warm-up.
      step: step length, >= 0; scalar, a prefix of x, or one step for each coordinate.
      patterns: bool [P, H, W], True where a weight may stay.
      window: the axes of the window.

    Returns:
      A pytree like x.

    Raises:
      ValueError: strength or step is negative, there is no pattern, or a leaf's window has another
        shape than the patterns.

    References:
      Tan et al., PCNN: Pattern-based fine-grained regular pruning towards optimizing CNN
      accelerators (DAC 2020, arXiv 2002.04997): the same number of weights in each kernel of a
      layer, in one of few patterns. Written after its abstract and what others report of it; its
      text was not at hand.
    """
    known = np.asarray(patterns, bool)
    if known.ndim != 1 + len(window) or not len(known):
        raise ValueError(
            f"kernel_patterns needs patterns [P, {', '.join('HWD'[: len(window)])}] with P > 0, "
            f"got shape {known.shape}."
        )

    def project(x, lam, tau):
        axes = check_axis("kernel_patterns", window, x.shape)
        sizes = tuple(x.shape[a] for a in axes)
        if sizes != known.shape[1:]:
            raise ValueError(
                f"kernel_patterns got a leaf with a window {sizes}, but patterns of "
                f"{known.shape[1:]}. Keep other leaves away with optax.masked."
            )
        rows = jnp.moveaxis(x, axes, range(len(axes)))
        lengths = jnp.moveaxis(jnp.broadcast_to(tau, x.shape), axes, range(len(axes)))
        # A coordinate with step 0 does not move: a pattern without it costs everything.
        parts = jnp.where(lengths > 0, rows**2 / jnp.where(lengths > 0, lengths, 1.0), jnp.inf)
        parts = jnp.where((lengths > 0) | (rows != 0), parts, 0.0)
        flat = known.reshape(len(known), -1)
        inside = jnp.where(flat[:, :, None], parts.reshape(1, flat.shape[1], -1), 0.0).sum(1)
        chosen = jnp.asarray(flat)[jnp.argmax(inside, axis=0)]  # [kernels, H * W]
        keep = jnp.moveaxis(chosen.T.reshape(rows.shape), range(len(axes)), axes)
        return jnp.where(keep | (lam == 0), x, 0.0)

    return leafwise(project, x, strength, step)


def all_patterns(shape: Sequence[int], keep: int) -> np.ndarray:
    """All patterns of a window that keep so many weights: bool [P, *shape].

    Args:
      shape: of the window, such as (3, 3).
      keep: how many weights stay, from 1 to all.

    Raises:
      ValueError: keep is outside its range.
    """
    size = int(np.prod(shape))
    if not 1 <= keep <= size:
        raise ValueError(f"keep must be from 1 to {size}, got {keep}.")
    chosen = np.array(list(itertools.combinations(range(size), keep)))
    patterns = np.zeros((len(chosen), size), bool)
    patterns[np.arange(len(chosen))[:, None], chosen] = True
    return patterns.reshape(-1, *shape)


def dominant_patterns(
    x: PyTree, keep: int, count: int, *, window: Sequence[int] = (0, 1)
) -> np.ndarray:
    """The patterns that most kernels would choose, had they all: bool [count, H, W].

    PCNN's pattern distillation: every kernel votes for the pattern of its `keep` largest weights.

    Args:
      x: array or pytree of kernels with known values and equal windows.
      keep: weights in a pattern.
      count: how many patterns, at least 1; fewer if the kernels choose fewer.
      window: the axes of the window.

    Raises:
      ValueError: keep or count is outside its range, windows differ, or there are no kernels.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}.")
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(x)]
    rows = []
    for leaf in leaves:
        axes = check_axis("dominant_patterns", window, leaf.shape)
        rows.append(np.moveaxis(leaf, axes, range(len(axes))))
    shapes = {row.shape[: len(window)] for row in rows}
    if len(shapes) != 1:
        raise ValueError(f"dominant_patterns needs kernels of one window, got {sorted(shapes)}.")
    (shape,) = shapes
    everything = all_patterns(shape, keep).reshape(-1, int(np.prod(shape)))
    votes = np.zeros(len(everything), int)
    for row in rows:
        energy = row.reshape(everything.shape[1], -1).astype(np.float64) ** 2
        votes += np.bincount((everything @ energy).argmax(0), minlength=len(everything))
    order = np.argsort(-votes, kind="stable")[:count]
    return everything[order[votes[order] > 0]].reshape(-1, *shape)
