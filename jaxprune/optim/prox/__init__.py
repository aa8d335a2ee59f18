r"""Proximal operators: pure functions of an array or a pytree.

Every operator has the signature ``operator(x, strength=1.0, step=1.0, ...)`` and solves

.. math::
  \operatorname{prox}(x) = \arg\min_u \tfrac{1}{2} \|u - x\|^2
    + \text{step} \cdot \text{penalty}(u; \text{strength}).

``step`` is the length of the gradient step that came before, so that ``strength`` is in units of
the loss. It may be a pytree like ``x``: then coordinate :math:`i` has its own step, and the
operator solves the problem in that diagonal metric,

.. math::
  \arg\min_u \sum_i \frac{(u_i - x_i)^2}{2\, \text{step}_i} + \text{penalty}(u; \text{strength}).

``strength`` and ``step`` may also be prefixes of the pytree (one number for each subtree).
Operators compute in float32 at least and return the dtypes they were given; ``None`` leaves stay
``None``. Options beyond the first three arguments are bound with ``functools.partial``:

    rows = functools.partial(prox.group_l2, axis=1)

| operator | penalty | makes |
|---|---|---|
| ``l1`` | sum of magnitudes | zero entries |
| ``squared_l2`` | half the squared norm | small entries |
| ``elastic_net`` | l1 and squared l2 | zero entries, correlated ones together |
| ``l0`` | number of nonzeros | zero entries, no shrinkage (nonconvex) |
| ``mcp``, ``scad`` | l1 that levels off | zero entries, large ones unbiased (nonconvex) |
| ``l2`` | norm of the whole tree | all or nothing |
| ``group_l2`` | sum of the groups' norms | zero groups |
| ``sparse_group`` | l1 and group_l2 | zero groups, zero entries in the others |
| ``heads`` | sum of the norms of attention heads | zero heads |
| ``joint_sparsity`` | a constraint: that many zero groups, of all leaves together | zero groups |
| ``kernel_patterns`` | a constraint: each window in one of a few patterns | zeros within windows |
| ``exclusive`` | half the sum of squared l1 norms | few entries in each group |
| ``nuclear`` | sum of singular values | low rank |
| ``nonnegative(op)`` | that of ``op`` | the same, and no negative entry |
"""

from jaxprune.optim.prox.grouped import exclusive, group_l2, l2, sparse_group
from jaxprune.optim.prox.joint import FLAX_HEADS, heads, joint_sparsity
from jaxprune.optim.prox.patterns import all_patterns, dominant_patterns, kernel_patterns
from jaxprune.optim.prox.separable import elastic_net, l0, l1, mcp, scad, squared_l2
from jaxprune.optim.prox.signed import nonnegative
from jaxprune.optim.prox.spectral import nuclear

__all__ = [
    "FLAX_HEADS",
    "all_patterns",
    "dominant_patterns",
    "elastic_net",
    "exclusive",
    "group_l2",
    "heads",
    "joint_sparsity",
    "kernel_patterns",
    "l0",
    "l1",
    "l2",
    "mcp",
    "nonnegative",
    "nuclear",
    "scad",
    "sparse_group",
    "squared_l2",
]
