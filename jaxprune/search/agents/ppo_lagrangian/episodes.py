"""Episodes: networks pruned layer by layer as the policy says, all at once.

Beside its K episodes, a round plays one network by the policy's mean actions, and the same with all
actions scaled so that the budgets are just met. With an untrained policy this is uniform magnitude
pruning, but for rounding.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.costs import within_groups
from jaxprune.search.agents.ppo_lagrangian import learning
from jaxprune.search.agents.ppo_lagrangian.config import Config
from jaxprune.search.agents.ppo_lagrangian.learning import Learner
from jaxprune.search.baselines.magnitude import uniform_l1
from jaxprune.search.envs import layerwise
from jaxprune.search.envs.layerwise import Rules
from jaxprune.search.problem import Problem


class Episodes(NamedTuple):
    """What a round plays.

    After its K episodes, `values` and `masks` have the network of the mean policy, and that network
    scaled to the budgets.

    Attributes:
        observations: float32 `[K, T, 6]`.
        actions: float32 `[K, T, A]`, as sampled.
        log_probs: float32 `[K, T]`.
        values: float32 `[K + 2, N]`, what each channel is multiplied by.
        masks: uint8 `[K + 2, N]`, 1 = keep.
    """

    observations: Array
    actions: Array
    log_probs: Array
    values: Array | np.ndarray
    masks: Array | np.ndarray


def rollout(
    config: Config, rules: Rules, learner: Learner, rank: Array, most: Array, key: Array
) -> tuple[Episodes, Array]:
    """Prunes K networks by actions sampled from the policy, and one by its mean actions.

    Args:
        config: the agent's settings.
        rules: the environment's rules.
        learner: holds the policy.
        rank: int32 `[N]`, the order of the channels within their groups.
        most: the largest fraction of a group that a coarse action may remove, float32 `[]`.
        key: consumed.

    Returns:
        The episodes, the scaled network still missing (`with_scaled` adds it), and the order in
        which channels go as the mean actions grow, float32 `[N]`.
    """
    step = jax.vmap(functools.partial(layerwise.step, rules, rank), in_axes=(0, 0, None))

    def decide(state: layerwise.State, key: Array) -> tuple[layerwise.State, tuple]:
        observations = jax.vmap(functools.partial(layerwise.observe, rules))(state.step)
        actions, log_probs = learning.act(config, learner, observations[:-1], key)
        mean = learning.mean_action(config, learner, observations[-1:])
        state = step(state, jnp.concatenate([actions, mean]), most).state
        return state, (observations[:-1], actions, log_probs, mean[0])

    start = layerwise.reset(rules, rank)
    states = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], config.episodes + 1, 0), start)
    states, taken = jax.lax.scan(decide, states, jax.random.split(key, rules.num_steps))
    masks = jax.vmap(functools.partial(layerwise.hard_mask, rules))(states.values)
    observations, actions, log_probs = (jnp.moveaxis(leaf, 0, 1) for leaf in taken[:3])
    means = jnp.minimum(taken[3], most) if rules.strategy == "coarse" else taken[3]
    played = Episodes(observations, actions, log_probs, states.values, masks)
    return played, layerwise.order(rules, rank, means)


def with_scaled(episodes: Episodes, mask: np.ndarray) -> Episodes:
    """Appends the mask of the mean policy's actions scaled to the budgets, uint8 `[N]`.

    Args:
        episodes: of NumPy arrays.
        mask: uint8 `[N]`.
    """
    return episodes._replace(
        values=np.concatenate([episodes.values, mask[None].astype(np.float32)]),
        masks=np.concatenate([episodes.masks, mask[None]]),
    )


def initial_action(config: Config, problem: Problem) -> float:
    """The policy's mean before learning.

    A cost that has to be measured is assumed to fall with the square of the widths.
    """
    if config.strategy == "fine":
        return 0.5  # the threshold between removing and keeping
    if config.initial_action is not None:
        return config.initial_action
    if problem.traceable:
        sizes = tuple(group.size for group in problem.structure.groups)
        removed = 1 - float(
            within_groups.mean(sizes, uniform_l1(problem).astype(jnp.float32)).mean()
        )
    else:
        removed = 1 - float(np.sqrt(problem.limits.min()))
    return min(max(removed, 0.05), 0.95)  # further out, the sigmoid would hardly move


def largest_ratio(config: Config, problem: Problem, iteration: int) -> np.float32:
    """The largest fraction of a group that a coarse action may remove in a round (eq. 5.1)."""
    first = config.initial_ratio
    if first is None:
        first = max(0.9, 1 - float(problem.limits.min()))
    return layerwise.largest_ratio(first, config.ratio_rise, iteration / config.iterations)
