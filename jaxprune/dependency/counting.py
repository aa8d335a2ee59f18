"""Counts of parameters and multiply-adds as functions of the groups' widths."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np


class Counts(NamedTuple):
    """Products of axis sizes, as functions of the groups' widths.

    Term t is `factor[t] * prod_d (fixed[t, d] + sum_g multiple[t, d, g] * width[g])`.

    Attributes:
      factor: float64 [T].
      fixed: int64 [T, D].
      multiple: int64 [T, D, G].
    """

    factor: np.ndarray
    fixed: np.ndarray
    multiple: np.ndarray

    def total(self, widths: Any, xp: Any = np) -> Any:
        """The sum of all terms at `widths` [G]; `xp` is numpy (exact) or jax.numpy (traceable)."""
        return self.terms(widths, xp).sum()

    def terms(self, widths: Any, xp: Any = np) -> Any:
        """Each term at `widths` [G]: [T]."""
        dtype = np.float64 if xp is np else jnp.float32
        sizes = xp.asarray(self.fixed, dtype) + xp.asarray(self.multiple, dtype) @ widths
        return xp.asarray(self.factor, dtype) * xp.prod(sizes, axis=1)


Size = dict[tuple[int, ...], int]
"""The size of an axis as a polynomial: {groups whose widths are multiplied: coefficient}."""


def size_of(groups: np.ndarray, sizes: Sequence[int]) -> Size:
    """The size of an axis.

    Args:
      groups: int [size, F]: the groups of the channels that each position depends on, -1 for none.
      sizes: the number of channels of each group.

    Returns:
      The polynomial. Each combination of channels of some groups occurs equally often.
    """
    rows, counts = np.unique(np.sort(groups, axis=1), axis=0, return_counts=True)
    size: Size = {}
    for row, count in zip(rows, counts, strict=True):
        involved = tuple(int(group) for group in row if group >= 0)
        size[involved] = int(count) // math.prod(sizes[group] for group in involved)
    return size


def counts(items: Sequence[tuple[float, Sequence[Size]]], num_groups: int) -> Counts:
    """Sums of products of sizes, each product with a factor."""
    terms: list[tuple[float, list[Size]]] = []
    for factor, sizes in items:
        terms += _linear(factor, list(sizes))
    depth = max((len(sizes) for _, sizes in terms), default=1)
    fixed = np.ones((len(terms), depth), np.int64)
    multiple = np.zeros((len(terms), depth, num_groups), np.int64)
    for t, (_, sizes) in enumerate(terms):
        for d, size in enumerate(sizes):
            fixed[t, d] = size.get((), 0)
            for groups, coefficient in size.items():
                for group in groups:
                    multiple[t, d, group] = coefficient
    return Counts(np.array([factor for factor, _ in terms], np.float64), fixed, multiple)


def _linear(factor: float, sizes: list[Size]) -> list[tuple[float, list[Size]]]:
    """A product of sizes as a sum of products in which every factor is linear in the widths."""
    for d, size in enumerate(sizes):
        rest = sizes[:d] + sizes[d + 1 :]
        products = {groups: c for groups, c in size.items() if len(groups) > 1}
        if not products:
            continue
        terms = []
        for groups, coefficient in products.items():
            widths: list[Size] = [{(group,): 1} for group in groups]
            terms += _linear(factor * coefficient, rest + widths)
        others = {groups: c for groups, c in size.items() if len(groups) <= 1}
        return terms + (_linear(factor, [*rest, others]) if others else [])
    return [(factor, sizes)]
