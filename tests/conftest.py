"""Fixtures for several parts of the package."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxprune
from jaxprune.scoring.evaluation import Scores
from jaxprune.search.problem import Problem

MAPPINGS = Path("/proc/self/maps")
MOST_MAPPINGS = 20_000
"""A process may have some 65,000; each program that XLA compiles for a CPU takes several."""


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """Forgets what was compiled before a long-lived process runs out of memory mappings."""
    yield
    if MAPPINGS.exists() and MAPPINGS.read_bytes().count(b"\n") > MOST_MAPPINGS:
        jax.clear_caches()


@pytest.fixture(scope="session")
def known_problem() -> Callable[..., Problem]:
    """Makes problems whose cost and accuracy are known functions of the mask.

    The structure is that of a traced chain of dense layers of the given sizes; the cost is the
    weighted fraction of the filters kept.
    """

    def make(
        sizes: tuple[int, ...],
        budget: float,
        accuracy: Callable[[jax.Array], jax.Array] = lambda mask: mask.mean(),
        weights: list[float] | None = None,
        importance: list[float] | None = None,
    ) -> Problem:
        widths = (3, *sizes, 2)
        params = {
            f"layer{i}": jnp.ones((before, after))
            for i, (before, after) in enumerate(itertools.pairwise(widths))
        }

        def apply(params: dict, x: jax.Array) -> jax.Array:
            for kernel in params.values():
                x = x @ kernel
            return x

        structure = jaxprune.trace(apply, params, jnp.ones((1, 3)))
        assert tuple(group.size for group in structure.groups) == sizes
        count = structure.num_channels
        costs = jnp.ones(count) if weights is None else jnp.asarray(weights, jnp.float32)

        def evaluate(masks: jax.Array) -> Scores:
            accuracies = jax.vmap(accuracy)(masks)
            return Scores(loss=1 - accuracies, accuracy=accuracies)

        return Problem(
            structure=structure,
            evaluate=evaluate,
            validate=evaluate,
            cost=lambda mask: (mask * costs).sum() / costs.sum(),
            budget=budget,
            importance=jnp.ones(count) if importance is None else jnp.asarray(importance),
        )

    return make
