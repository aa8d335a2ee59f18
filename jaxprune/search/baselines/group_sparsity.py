"""Groups of weights that vanish together: what group lasso and CGES share.

The weights that leave a channel are its group. After each step of the optimizer a proximal step
shrinks the groups, and those that reach zero are not in use; the channels with the smallest norms
go at the end. `group_lasso.py` and `cges.py` say how they shrink.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxprune.search.baselines import consumers
from jaxprune.search.baselines.sparse_training import (
    Batch,
    Learner,
    Method,
    Network,
    Plan,
    descended,
    no_gates,
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
    """Soft thresholds, one for all weights that leave a channel: `[N]`."""
    spread = consumers.spread(plan.structure, variables, thresholds, default=0.0)

    def shrunk(leaf: Array, threshold: Array) -> Array:
        return (jnp.sign(leaf) * jnp.maximum(jnp.abs(leaf) - threshold, 0.0)).astype(leaf.dtype)

    return jax.tree.map(shrunk, variables, spread)


def method(shrink: Shrink) -> Method:
    """The method that shrinks in this way."""

    def step(
        plan: Plan,
        network: Network,
        learner: Learner,
        batch: Batch,
        held_out: None,
        number: Array,
        key: Array,
    ) -> tuple[Learner, Array]:
        """A step of the optimizer, then a proximal step."""
        del held_out, key
        params = learner.variables["params"]

        def loss(params: Any) -> tuple[Array, Any]:
            whole = jnp.ones(plan.structure.num_channels)
            logits, new = network({**learner.variables, "params": params}, whole, batch.x)
            return plan.loss(logits, batch.y), new

        (value, new), slope = jax.value_and_grad(loss, has_aux=True)(params)
        learner = descended(plan, learner, slope, new)
        threshold = plan.learning_rate(number) * learner.strength
        return learner._replace(variables=shrink(plan, learner.variables, threshold)), value

    return Method(
        gates=no_gates,
        gate_optimizer=lambda config: optax.set_to_zero(),
        step=step,
        in_use=lambda plan, learner: (norms(plan, learner.variables) > 0).astype(jnp.float32),
        scores=lambda plan, learner: norms(plan, learner.variables),
        weights=lambda plan, learner: learner.variables,
    )
