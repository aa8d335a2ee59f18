"""Groups of weights that vanish together: what group lasso and CGES share.

The weights that leave a channel are its group. After each step of the optimizer a proximal step
shrinks the groups; a channel whose group is zero is not in use, and the channels with the smallest
norms are removed at the end. `group_lasso.py` and `cges.py` say how groups shrink.

Two phases can be set beside that, as in `jaxprune.optim.phases`: a warm-up in which nothing
shrinks, and healing at the end, in which the zeros stay and the rest is trained without the bias
that shrinking gives it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxprune.search.baselines import consumers, sparse_training
from jaxprune.search.baselines.sparse_training import (
    Learner,
    Method,
    Network,
    Plan,
    Step,
    descend,
)
from jaxprune.search.ranges import UNIT, require


@dataclass(frozen=True)
class Config(sparse_training.Config):
    """Settings that the methods of group sparsity share."""

    warm_up: float = 0.0
    """The part of the training, in [0, 1], before groups begin to shrink."""

    healing: float = 0.0
    """The part of the training, at its end, in which zeros stay and the rest recovers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, UNIT, "warm_up", "healing")
        if self.warm_up + self.healing > 1:
            raise ValueError(
                f"warm_up and healing must leave some of the training, not add up to "
                f"{self.warm_up + self.healing:g}"
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
        """A step of the optimizer, then a proximal step, or none; what is zero may have to stay."""
        before = norms(plan, learner.variables) > 0
        learner, _, loss = descend(plan, network, learner, step.batch, jnp.ones_like)
        amount = plan.learning_rate(step.number) * learner.strength
        variables = learner.variables
        # Shrinking by 0 would round.
        shrunk, alive = shrink(plan, variables, amount), before.astype(jnp.float32)
        acts, heals = _acts(plan, step.number), _heals(plan, step.number)
        variables = _either(acts, shrunk, variables)
        variables = _either(heals, consumers.scale(plan.structure, variables, alive), variables)
        return learner._replace(variables=variables), loss

    return Method(
        step=step,
        in_use=lambda plan, learner: (norms(plan, learner.variables) > 0).astype(jnp.float32),
        scores=lambda plan, learner: norms(plan, learner.variables),
        weights=lambda plan, learner: learner.variables,
        acts=_acts,
    )


def _acts(plan: Plan, number: Array) -> Array:
    """Whether groups shrink in this step: after the warm-up, before healing."""
    warm_up = round(plan.config.warm_up * plan.config.epochs * plan.steps)
    return (number >= warm_up) & ~_heals(plan, number)


def _heals(plan: Plan, number: Array) -> Array:
    """Whether zeros stay and the rest recovers in this step."""
    return number >= round((1 - plan.config.healing) * plan.config.epochs * plan.steps)


def _either(which: Array, first: Any, second: Any) -> Any:
    """One of two trees."""
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), first, second)
