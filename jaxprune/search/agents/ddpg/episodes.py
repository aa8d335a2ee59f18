"""Episodes: K networks pruned layer by layer at once, and the rewards that they earn.

**Exploration** follows AMC: uniformly random actions in the first `warmup` episodes, then a normal
around the actor's action, truncated to [0, 1], whose standard deviation is `sigma` and decays by
`sigma_decay` from each episode to the next. Episodes that are played side by side have the
deviations they would have had one after another. ACNN only says that its agent explores first.

**Rewards** are ACNN's balance of accuracy and cost, paid after every layer, or AMC's error of the
finished network, which every step of its episode receives.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune import costs
from jaxprune.costs import within_groups
from jaxprune.costs.limits import Allowed
from jaxprune.dependency import Structure
from jaxprune.search.agents.ddpg import networks
from jaxprune.search.agents.ddpg.config import Config
from jaxprune.search.baselines.magnitude import uniform_l1
from jaxprune.search.envs import layerwise
from jaxprune.search.envs.observations import is_convolution, observer
from jaxprune.search.envs.reach import least_removed
from jaxprune.search.problem import Problem

LEAST_SIGMA = 1e-6
"""A standard deviation that changes nothing any more, and that float32 can divide by."""


class Episodes(NamedTuple):
    """What a round plays; the last entry along K is the actor's own, without exploration.

    Attributes:
        observations: before each step and after the last, float32 `[K, T + 1, O]`.
        actions: as chosen, float32 `[K, T]` in [0, 1].
        ratios: the fraction of each group that was removed, float32 `[K, T]`.
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

    That is the largest ratio, rounded to the nearest channel or allowed width, with one staying in
    each group. Where the lowest of budget and targets cannot be met so, a group may lose what
    uniform pruning to it takes, and with all groups at these counts it is met.

    Raises:
        ValueError: it cannot be met even at the least allowed widths.
    """
    structure, allowed = problem.structure, problem.allowed
    sizes = np.array(allowed.sizes)
    convolution = [is_convolution(structure, group) for group in allowed.leaders]
    ratios = np.where(convolution, config.max_ratio, config.max_ratio_dense)
    left = sizes - np.floor(ratios * sizes + 0.5).astype(np.int32)
    wished = sizes - allowed.nearest()[np.arange(len(sizes)), left]
    lowest = problem._replace(budget=min(problem.budget, *config.targets, 1e9))
    kept = within_groups.total(allowed.sizes, uniform_l1(lowest).astype(jnp.int32))
    return jnp.maximum(wished, sizes - kept).astype(jnp.int32)


# -- exploration ----------------------------------------------------------------------------------


def sigma(config: Config, episode: Array) -> Array:
    """The deviation in an episode counted from 0, `[...]`; during the warm-up that of its end."""
    age = jnp.maximum(episode - config.warmup, 0).astype(jnp.float32)
    return jnp.maximum(config.sigma * config.sigma_decay**age, LEAST_SIGMA)


def explore(config: Config, actions: Array, episode: Array, key: Array) -> Array:
    """Actions that explore, float32 `[K]` in [0, 1].

    Args:
        config: the agent's settings.
        actions: what the actor would do, in [0, 1], float32 `[K]`.
        episode: the number of each episode, int32 `[K]`.
        key: consumed.
    """
    uniform_key, normal_key = jax.random.split(key)
    deviation = sigma(config, episode)
    low, high = -actions / deviation, (1 - actions) / deviation
    noise = jax.random.truncated_normal(normal_key, low, high, actions.shape)
    around = jnp.clip(actions + deviation * noise, 0.0, 1.0)
    anywhere = jax.random.uniform(uniform_key, actions.shape)
    return jnp.where(episode < config.warmup, anywhere, around)


# -- episodes -------------------------------------------------------------------------------------


def rollout(
    config: Config,
    structure: Structure,
    allowed: Allowed,
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
        allowed: the widths that they may have.
        cost: flat mask `[N]` -> `[]`, what the limits are of; traceable.
        actor: the actor's variables.
        rank: int32 `[N]`, the order of the channels within their groups, 0 goes first.
        most: int32 `[T]`, how many channels each group may lose.
        limits: float32 `[K]`, what each network may cost.
        first: int32 `[]`, episodes played before.
        key: consumed.
    """
    rules = layerwise.rules(structure, "coarse", allowed)
    sizes, nearest = jnp.asarray(rules.sizes), jnp.asarray(allowed.nearest())
    observe = jax.vmap(observer(config.observation, structure, cost), (None, 0, 0, 0))
    episode = first + jnp.arange(len(limits) - 1)

    def removed(state: layerwise.State, action: Array, limit: Array) -> Array:
        """The fraction of the group that goes: what the agent wants, within what is allowed."""
        size, highest = sizes[state.step], most[state.step]
        wanted = jnp.minimum(jnp.floor(action * size + 0.5).astype(jnp.int32), highest)
        count = size - nearest[state.step, size - wanted]
        if not config.unbounded:
            least = least_removed(allowed, cost, rank, most, *state, limit)
            count = jnp.maximum(count, least)
        if len(allowed.sets) < len(allowed.sizes):  # some groups were decided with an earlier one
            left = within_groups.total(rules.sizes, state.values)[state.step]
            leads = jnp.asarray(allowed.leaders)[state.step] == state.step
            count = jnp.where(leads, count, size - left.astype(jnp.int32))
        return count / size

    def prune(state: layerwise.State, ratio: Array) -> layerwise.State:
        return layerwise.step(rules, rank, state, ratio[None], jnp.float32(1)).state

    def decide(
        carry: tuple[layerwise.State, Array], key: Array
    ) -> tuple[tuple[layerwise.State, Array], tuple[Array, ...]]:
        states, previous = carry
        seen = observe(states.step[0], states.values, previous, limits)
        wanted = networks.act(config, actor, seen)
        tried = explore(config, wanted[:-1], episode, key)
        actions = jnp.append(tried, wanted[-1])
        ratios = jax.vmap(removed)(states, actions, limits)
        states = jax.vmap(prune)(states, ratios)
        return (states, ratios), (seen, actions, ratios, states.values)

    start = jax.tree.map(
        lambda leaf: jnp.repeat(leaf[None], len(limits), 0), layerwise.reset(rules, rank)
    )
    carry = (start, jnp.zeros(len(limits)))
    (states, previous), played = jax.lax.scan(decide, carry, jax.random.split(key, len(sizes)))
    seen, actions, ratios, values = (jnp.moveaxis(leaf, 0, 1) for leaf in played)
    # What is seen of the end has no value: no step follows from it.
    end = observe(jnp.int32(len(sizes) - 1), states.values, previous, limits)
    return Episodes(jnp.concatenate([seen, end[:, None]], 1), actions, ratios, values, limits)


# -- rewards --------------------------------------------------------------------------------------


def paid(config: Config, episodes: Episodes) -> Array:
    """The masks whose accuracies the rewards need: `[K, T, N]`, or `[K, N]` of the finished."""
    return episodes.values if config.reward == "balance" else episodes.values[:, -1]


def rewards(
    config: Config,
    structure: Structure,
    cost: Callable[[Array], Array],
    episodes: Episodes,
    accuracy: Array,
    dense: Array,
) -> Array:
    """What every step earns, float32 `[K, T]`.

    Args:
        config: the agent's settings.
        structure: the network's groups.
        cost: flat mask `[N]` -> `[]`, what the limits are of; traceable.
        episodes: the episodes.
        accuracy: of what `paid` says, on the batch of the training split.
        dense: the dense network's accuracy on the same batch, float32 `[]`.
    """
    count, steps, width = episodes.values.shape
    if config.reward == "balance":
        spent = jax.vmap(cost)(episodes.values.reshape(-1, width)).reshape(count, steps)
        return balance(config, accuracy, dense, spent, episodes.limits[:, None])
    counted = costs.params if config.reward == "error_log_params" else costs.macs
    left = jax.vmap(lambda mask: counted(structure, structure.unflatten(mask)))
    earned = error(config, accuracy, left(episodes.values[:, -1]))
    return jnp.repeat(earned[:, None], steps, axis=1)


def balance(config: Config, accuracy: Array, dense: Array, cost: Array, limit: Array) -> Array:
    """ACNN's reward, eq. 3, paid after every layer.

        r(t) = min(acc(t) / expect_acc, 1) + beta min(ncr(t) / expect_ncr, 1)

    without the minus signs that are printed inside its minima, which would reward errors. The
    neuron compression rate `ncr` is the dense network's cost divided by what is left of it, for
    whatever cost is limited; the rate expected is the budget's, so that their ratio is
    limit / cost. The paper leaves both expectations and beta to the user.

    Args:
        config: the settings.
        accuracy: of the network pruned so far, float32 `[...]`.
        dense: the dense network's, float32 `[]`.
        cost: relative, above 0, float32 `[...]`.
        limit: what the episode aims at, float32 `[...]`.

    Returns:
        float32 `[...]` in [0, 1 + beta].
    """
    expected = jnp.maximum(config.expected_accuracy * dense, jnp.finfo(jnp.float32).tiny)
    kept, small = jnp.minimum(accuracy / expected, 1.0), jnp.minimum(limit / cost, 1.0)
    return kept + config.beta * small


def error(config: Config, accuracy: Array, count: Array) -> Array:
    """AMC's rewards of finished networks (section 3.2).

    R_err = -Error, to be used with the budget-respecting action; R_FLOPs = -Error log(FLOPs) and
    R_Param = -Error log(#Param), which trade accuracy for size without a budget.

    Args:
        config: the settings.
        accuracy: float32 `[...]`.
        count: multiply-adds or parameters that are left, at least 1, float32 `[...]`; the reward
            `error` does not look at it.

    Returns:
        float32 `[...]`, at most 0.
    """
    return -(1 - accuracy) * (1.0 if config.reward == "error" else jnp.log(count))
