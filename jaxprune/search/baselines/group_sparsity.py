"""Groups of weights that vanish together: what group lasso and CGES share.

The weights that leave a channel are its group. After each step of the optimizer a proximal step
shrinks the groups; a channel whose group is zero is not in use, and the channels with the smallest
norms are removed at the end. `group_lasso.py` and `cges.py` say how groups shrink.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxprune.search.baselines import consumers
from jaxprune.search.baselines.sparse_training import (
    Learner,
    Method,
    Network,
    Plan,
    Step,
    descend,
)

Shrink = Callable[[Plan, Any, Array], Any]
"""`shrink(plan, variables, amount)` -> the variables after a proximal step.

`amount` is the learning rate times the strength.
"""


def norms(plan: Plan, variables: Any) -> Array:
    """The Euclidean norm of the weights that leave each channel, `[N]`."""
    return jnp.sqrt(consumers.totals(plan.structure, jax.tree.map(jnp.square, variables)))


def shrink_groups(plan: Plan, variables: Any, thresholds: Array) -> Any:
    """The proximal step of a sum of group norms: each norm falls by its threshold `[N]`."""
    size = norms(plan, variables)
    factors = jnp.maximum(1 - thresholds / jnp.where(size > 0, size, 1.0), 0.0)
    return consumers.scale(plan.structure, variables, factors)


def shrink_weights(plan: Plan, variables: Any, thresholds: Array) -> Any:
    """Soft thresholding of the weights that leave each channel, by its threshold `[N]`."""
    spread = consumers.spread(plan.structure, variables, thresholds, default=0.0)

    def shrunk(leaf: Array, threshold: Array) -> Array:
        return (jnp.sign(leaf) * jnp.maximum(jnp.abs(leaf) - threshold, 0.0)).astype(leaf.dtype)

    return jax.tree.map(shrunk, variables, spread)


def method(shrink: Shrink) -> Method:
    """The method that shrinks groups in this way."""

    def step(plan: Plan, network: Network, learner: Learner, step: Step) -> tuple[Learner, Array]:
        """A step of the optimizer, then a proximal step."""
        learner, _, loss = descend(plan, network, learner, step.batch, jnp.ones_like)
        amount = plan.learning_rate(step.number) * learner.strength
        return learner._replace(variables=shrink(plan, learner.variables, amount)), loss

    return Method(
        step=step,
        in_use=lambda plan, learner: (norms(plan, learner.variables) > 0).astype(jnp.float32),
        scores=lambda plan, learner: norms(plan, learner.variables),
        weights=lambda plan, learner: learner.variables,
    )
