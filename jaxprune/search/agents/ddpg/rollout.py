"""Episodes: K networks pruned layer by layer as the actor says, all at once."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.costs import within_groups
from jaxprune.dependency import Structure
from jaxprune.search.agents.ddpg import exploration, networks
from jaxprune.search.agents.ddpg.config import Config
from jaxprune.search.baselines.magnitude import uniform_l1
from jaxprune.search.envs import layerwise
from jaxprune.search.envs.observations import is_convolution, observer
from jaxprune.search.envs.reach import least_removed
from jaxprune.search.problem import Problem


class Episodes(NamedTuple):
    """What a round plays; the last entry along K is the actor's own, without exploration.

    Attributes:
        observations: before each step and after the last, float32 `[K, T + 1, O]`.
        actions: as chosen, float32 `[K, T]` in [0, 1].
        ratios: the parts that were removed, float32 `[K, T]`.
        values: the mask after each step, float32 `[K, T, N]`, 1 = kept.
        limits: what each episode may cost, float32 `[K]`.
    """

    observations: Array
    actions: Array
    ratios: Array
    values: Array
    limits: Array


def most_removed(config: Config, problem: Problem) -> Array:
    """How many channels each group may lose at most, int32 `[T]`.

    That is the largest ratio, rounded to the nearest channel, with one staying in each group. Where
    the lowest of budget and targets cannot be met so, a group may lose what uniform pruning to it
    takes, and with all groups at these counts it is met.

    Raises:
        ValueError: it cannot be met even with one channel in each group.
    """
    structure = problem.structure
    sizes = np.array([group.size for group in structure.groups])
    convolution = [is_convolution(structure, group) for group in range(len(sizes))]
    ratios = np.where(convolution, config.max_ratio, config.max_ratio_dense)
    wished = np.minimum(np.floor(ratios * sizes + 0.5), sizes - 1).astype(np.int32)
    lowest = problem._replace(budget=min(problem.budget, *config.targets, 1e9))
    kept = within_groups.total(tuple(sizes.tolist()), uniform_l1(lowest).astype(jnp.int32))
    return jnp.maximum(wished, sizes - kept).astype(jnp.int32)


def rollout(
    config: Config,
    structure: Structure,
    cost: Callable[[Array], Array],
    actor: networks.Networks,
    rank: Array,
    most: Array,
    limits: Array,
    first: Array,
    key: Array,
) -> Episodes:
    """Prunes K networks, all but the last with exploration.

    Args:
        config: the agent's settings.
        structure: the network's groups.
        cost: flat mask `[N]` -> `[]`, what the limits are of; traceable.
        actor: the actor's variables.
        rank: int32 `[N]`, the order of the channels within their groups, 0 goes first.
        most: int32 `[T]`, how many channels each group may lose.
        limits: float32 `[K]`, what each network may cost.
        first: int32 `[]`, episodes played before.
        key: consumed.
    """
    rules = layerwise.rules(structure, "coarse")
    sizes = jnp.asarray(rules.sizes)
    observe = jax.vmap(observer(config.observation, structure, cost), (None, 0, 0, 0))
    episode = first + jnp.arange(len(limits) - 1)

    def removed(state: layerwise.State, action: Array, limit: Array) -> Array:
        """The part of the group that goes: what the agent wants, within what is allowed."""
        size, highest = sizes[state.step], most[state.step]
        count = jnp.minimum(jnp.floor(action * size + 0.5), highest)
        if not config.unbounded:
            least = least_removed(rules.sizes, cost, rank, most, *state, limit)
            count = jnp.maximum(count, least)
        return count / size

    def prune(state: layerwise.State, ratio: Array) -> layerwise.State:
        return layerwise.step(rules, rank, state, ratio[None], jnp.float32(1)).state

    def decide(
        carry: tuple[layerwise.State, Array], key: Array
    ) -> tuple[tuple[layerwise.State, Array], tuple[Array, ...]]:
        states, previous = carry
        seen = observe(states.step[0], states.values, previous, limits)
        wanted = networks.act(config, actor, seen)
        tried = exploration.explore(config, wanted[:-1], episode, key)
        actions = jnp.append(tried, wanted[-1])
        ratios = jax.vmap(removed)(states, actions, limits)
        states = jax.vmap(prune)(states, ratios)
        return (states, ratios), (seen, actions, ratios, states.values)

    start = jax.tree.map(
        lambda leaf: jnp.repeat(leaf[None], len(limits), 0), layerwise.reset(rules)
    )
    carry = (start, jnp.zeros(len(limits)))
    (states, previous), played = jax.lax.scan(decide, carry, jax.random.split(key, len(sizes)))
    seen, actions, ratios, values = (jnp.moveaxis(leaf, 0, 1) for leaf in played)
    # What is seen of the end has no value: no step follows from it.
    end = observe(jnp.int32(len(sizes) - 1), states.values, previous, limits)
    return Episodes(jnp.concatenate([seen, end[:, None]], 1), actions, ratios, values, limits)
