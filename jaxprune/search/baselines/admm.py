"""ADMM for channels: weights that train freely, pulled towards a network within the budget.

Zhang et al., "A systematic DNN weight pruning framework using ADMM" (ECCV 2018, section 3), and its
successor by surrogate Lagrangian relaxation, P-SLR (Gurevin et al., IJCAI 2021, arXiv 2012.10079):
the transforms `admm` and `surrogate_lagrangian` of `jaxprune.optim`, before the optimizer of the
weights. The copy Z that the weights W are pulled towards has the weights W + multipliers / rho,
with those of the least important channels zero, so many of them that the budget is met. At the end
these channels are removed.

Departures: the papers prune single weights, at ratios that a person gives for each layer; here
whole channels go (the weights that leave one are a group), by one ranking of all layers, until the
budget is met. Their importance is the norm of the group over the root of its size, so the copy is
not exactly the nearest network within the budget. Those of `surrogate_lagrangian` come on top.
"""

import functools
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxprune import optim
from jaxprune.search.baselines import consumers, sparse_training
from jaxprune.search.baselines.removal import Goal, least_removal_of
from jaxprune.search.baselines.sparse_training import (
    Learner,
    Method,
    Network,
    Plan,
    State,
    Step,
    descend,
)
from jaxprune.search.ranges import AT_LEAST_ONE, POSITIVE, require, require_one_of

__all__ = ["Config", "State", "finished", "init", "search", "update"]


@dataclass(frozen=True)
class Config(sparse_training.Training):
    """Settings of ADMM."""

    strength: float = 0.01
    """rho, the weight of half the squared distance between the weights and their copy."""

    multipliers: Literal["admm", "surrogate"] = "admm"
    """How the multipliers move: by the whole distance (admm), or by falling steps, and only when
    the training has made headway (surrogate, as P-SLR)."""

    copies: int = 1
    """How often the copy changes in an epoch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, POSITIVE, "strength")
        require(self, AT_LEAST_ONE, "copies")
        require_one_of(self, "multipliers", ("admm", "surrogate"))


def _importance(plan: Plan, variables: Any) -> Array:
    """The norm of the weights that leave each channel over the root of their number, `[N]`."""
    squares = consumers.totals(plan.structure, jax.tree.map(jnp.square, variables))
    count = consumers.totals(plan.structure, jax.tree.map(jnp.ones_like, variables))
    return jnp.sqrt(squares / jnp.maximum(count, 1.0))


def _kept(plan: Plan, variables: Any) -> Array:
    """The most important channels that the budget allows, float32 `[N]`."""
    assert plan.allowed is not None
    goal = Goal(plan.cost, plan.limit, plan.allowed)
    mask, _, _ = least_removal_of(goal, _importance(plan, variables))
    return mask.astype(jnp.float32)


def project(plan: Plan, params: Any, strength: Any = 1.0, step: Any = 1.0) -> Any:
    """The parameters with the weights that leave all but the most important channels zero.

    In the form of the operators of `jaxprune.optim.prox`; the strength and the step do not count.
    """
    del strength, step
    shapes = plan.structure.shapes
    variables = jax.tree.unflatten(plan.structure.treedef, [jnp.zeros(s) for s in shapes])
    variables = {**variables, "params": params}
    return consumers.scale(plan.structure, variables, _kept(plan, variables))["params"]


def _pull(plan: Plan) -> optax.GradientTransformation:
    """What comes before the optimizer of the weights."""
    config = plan.config
    make = optim.admm if config.multipliers == "admm" else optim.surrogate_lagrangian
    every = max(plan.steps // config.copies, 1)
    return make(functools.partial(project, plan), 1.0, config.strength, every=every)


def _step(plan: Plan, network: Network, learner: Learner, step: Step) -> tuple[Learner, Array]:
    learner, _, loss = descend(plan, network, learner, step.batch, jnp.ones_like)
    return learner, loss


METHOD = Method(
    step=_step,
    in_use=lambda plan, learner: _kept(plan, learner.variables),
    scores=lambda plan, learner: _importance(plan, learner.variables),
    weights=lambda plan, learner: learner.variables,
    first=_pull,
)

init = functools.partial(sparse_training.init, METHOD)
update = functools.partial(sparse_training.update, METHOD)
finished = sparse_training.finished
search = functools.partial(sparse_training.search, METHOD)
