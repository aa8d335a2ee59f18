"""One round of PPO-Lagrangian: from K episodes to the next policy and multipliers.

After section 2.2 of the conference paper and sections 2.3.6, 4.3 and 4.4 of the thesis, with the
signs that make sense of them: the policy ascends reward - lambda * cost, and lambda rises while an
episode costs more than its budget (equations 5-8 of the paper and 4.6, 4.7 of the thesis print
others). A round, `learn`,

1. adds the episodes to the running statistics;
2. moves the multipliers by the violations, before the policy, as the implementations of
   constrained policy optimisation do;
3. forms the advantages of the Lagrangian;
4. fits the policy and both critics.

Departures from the papers: critics learn towards the TD(lambda) targets of their advantages, as in
stable-baselines, not the one-step targets of equations 9 and 11; multipliers move by projected
ascent or a PID controller, not by Adam; several budgets have a multiplier each.
"""

import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxprune.search.agents.ppo_lagrangian import fitting, multipliers, networks, normalization
from jaxprune.search.agents.ppo_lagrangian.advantages import combine, gae
from jaxprune.search.agents.ppo_lagrangian.config import Learning
from jaxprune.search.agents.ppo_lagrangian.networks import Networks
from jaxprune.search.agents.ppo_lagrangian.normalization import Statistics

if TYPE_CHECKING:
    import distrax


class Learner(NamedTuple):
    """All that learning carries from round to round.

    Attributes:
        networks: the variables of the policy and both critics.
        optimizers: their optimizers' states.
        multipliers: the Lagrange multiplier of each budget, float32 `[m]`, at least 0. They weigh
            normalised costs against the normalised reward: in the problem's own units a
            multiplier is this times the deviation of the rewards over that of its costs.
        dual: the state of the dual step.
        observations: statistics of the observations, of shape `[O]`.
        rewards: statistics of the reward of an episode, of shape `[]`.
        costs: statistics of the costs of an episode, of shape `[m]`.
        updates: number of minibatch updates made, int32 `[]`.
    """

    networks: Networks
    optimizers: Networks
    multipliers: Array
    dual: optax.OptState
    observations: Statistics
    rewards: Statistics
    costs: Statistics
    updates: Array


class Trajectories(NamedTuple):
    """K episodes of T steps, sampled by `act` with the learner that is to learn from them.

    Attributes:
        observations: raw, `[K, T, O]`.
        actions: as sampled, not clipped, `[K, T, A]`.
        log_probs: of the actions as sampled, `[K, T]`.
        rewards: raw, `[K, T]`; here all but the last of an episode are 0, but they need not be.
        costs: raw, `[K, T, m]`; the same.
    """

    observations: Array
    actions: Array
    log_probs: Array
    rewards: Array
    costs: Array


class Metrics(NamedTuple):
    """What a round of learning saw and did.

    Losses, KL divergence, clip fraction, entropy and sigma are those of the networks after the
    round, on all its steps.

    Attributes:
        reward: mean raw reward of an episode, `[]`.
        costs: mean raw costs of an episode, `[m]`.
        violations: `costs` less the budgets, `[m]`.
        multipliers: after the round, `[m]`; those that its policy learnt with.
        policy_loss: minus the clipped surrogate objective, `[]`.
        value_loss: mean squared error of the reward critic, in normalised units, `[]`.
        cost_value_loss: mean squared error of the cost critic, in normalised units, `[]`.
        approx_kl: estimate of the KL divergence from the policy that took the actions, `[]`.
        clip_fraction: fraction of the steps whose probability ratio is beyond the clip, `[]`.
        entropy: of the policy's Gaussian before clipping, in nats, `[]`; may be negative.
        sigma: mean over the components of an action of the policy's standard deviation, `[]`.
        updates: minibatch updates of this round, int32 `[]`; fewer than there are minibatches where
            the KL divergence stopped them.
        finite: whether all that came in and all that the next learner holds is finite, bool `[]`.
            If not, the caller should keep the learner it had.
    """

    reward: Array
    costs: Array
    violations: Array
    multipliers: Array
    policy_loss: Array
    value_loss: Array
    cost_value_loss: Array
    approx_kl: Array
    clip_fraction: Array
    entropy: Array
    sigma: Array
    updates: Array
    finite: Array


@functools.partial(
    jax.jit, static_argnames=("config", "observation_size", "action_size", "num_costs")
)
def init(
    config: Learning,
    key: Array,
    observation_size: int,
    action_size: int,
    num_costs: int,
    *,
    mean: ArrayLike = 0.5,
) -> Learner:
    """A learner that has seen nothing.

    Args:
        config: the settings.
        key: consumed.
        observation_size: O >= 1.
        action_size: A >= 1.
        num_costs: m >= 1, the number of budgets.
        mean: of the untrained policy, in (0, 1).

    Returns:
        The learner. Its policy has this mean up to about 0.01 for observations of the order of 1;
        see `observe` for others.

    Raises:
        ValueError: a size is below 1.
    """
    sizes = {
        "observation_size": observation_size,
        "action_size": action_size,
        "num_costs": num_costs,
    }
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, not {size}")
    variables = networks.init(config, key, observation_size, action_size, num_costs, mean)
    initial, dual = multipliers.init(config, num_costs)
    return Learner(
        networks=variables,
        optimizers=Networks(*(fitting.optimizer(config).init(one) for one in variables)),
        multipliers=initial,
        dual=dual,
        observations=normalization.init((observation_size,)),
        rewards=normalization.init(()),
        costs=normalization.init((num_costs,)),
        updates=jnp.zeros((), jnp.int32),
    )


def observe(learner: Learner, observations: Array) -> Learner:
    """Shows the learner observations without learning from them.

    A new learner takes observations as they come, however large, and normalises them from its
    second round on. Where they are known beforehand, as layers of a network are, this lets it start
    with statistics.

    Args:
        learner: the learner.
        observations: raw, `[..., O]`, at least one.

    Returns:
        The learner with their statistics.
    """
    seen = normalization.update(learner.observations, observations)
    return learner._replace(observations=seen)


@functools.partial(jax.jit, static_argnames="config")
def act(config: Learning, learner: Learner, observations: Array, key: Array) -> tuple[Array, Array]:
    """Samples actions.

    Args:
        config: the settings.
        learner: the learner.
        observations: raw, `[..., O]`.
        key: consumed.

    Returns:
        Actions `[..., A]` as sampled (`executed` is what the environment sees) and their
        log-probabilities `[...]`.
    """
    return _distribution(config, learner, observations).sample_and_log_prob(seed=key)


@functools.partial(jax.jit, static_argnames="config")
def mean_action(config: Learning, learner: Learner, observations: Array) -> Array:
    """The means of the policy, in (0, 1).

    Args:
        config: the settings.
        learner: the learner.
        observations: raw, `[..., O]`.

    Returns:
        `[..., A]`.
    """
    return _distribution(config, learner, observations).mean()


@functools.partial(jax.jit, static_argnames="config")
def learn(
    config: Learning, learner: Learner, trajectories: Trajectories, budgets: Array, key: Array
) -> tuple[Learner, Metrics]:
    """One round of learning from K episodes, compiled as one call.

    The policy sees observations through the statistics with which it took the actions, so that its
    probability ratios start at 1; the statistics with the new observations serve from the next
    round on. Those of rewards and costs serve at once.

    Args:
        config: the settings.
        learner: the learner that took the actions.
        trajectories: K >= 1 episodes of T >= 1 steps.
        budgets: what an episode may cost on average, `[m]`. Costs and budgets have any unit, but
            the gains of the dual step are per unit of violation: pass costs as parts of their
            budget (and budgets of 1), or of the dense network's cost, not as counts or seconds.
        key: consumed.

    Returns:
        The next learner, which is a function of the arguments alone, and metrics.

    Raises:
        ValueError: shapes that do not fit together.
    """
    _check_shapes(learner, trajectories, budgets)
    rewards = normalization.update(learner.rewards, trajectories.rewards.sum(axis=1))
    costs = normalization.update(learner.costs, trajectories.costs.sum(axis=1))

    violations = multipliers.violations(trajectories.costs, budgets)
    moved, dual = multipliers.move(config, learner.multipliers, learner.dual, violations)

    normalized = trajectories._replace(
        observations=normalization.normalize(learner.observations, trajectories.observations),
        rewards=normalized_payments(rewards, trajectories.rewards),
        costs=normalized_payments(costs, trajectories.costs),
    )
    samples = prepare(config, learner.networks, moved, normalized)
    progress = fitting.fit(config, learner.networks, learner.optimizers, samples, key)

    after = Learner(
        networks=progress.networks,
        optimizers=progress.optimizers,
        multipliers=moved,
        dual=dual,
        observations=normalization.update(learner.observations, trajectories.observations),
        rewards=rewards,
        costs=costs,
        updates=learner.updates + progress.updates,
    )
    _, losses = fitting.losses(config, progress.networks, samples)
    distribution = networks.policy(config, progress.networks.policy, samples.observations)
    return after, Metrics(
        reward=trajectories.rewards.sum(axis=1).mean(),
        costs=trajectories.costs.sum(axis=1).mean(axis=0),
        violations=violations,
        multipliers=moved,
        policy_loss=losses.policy,
        value_loss=losses.value,
        cost_value_loss=losses.cost_value,
        approx_kl=losses.approx_kl,
        clip_fraction=losses.clip_fraction,
        entropy=distribution.entropy().mean(),
        sigma=distribution.stddev().mean(),
        updates=progress.updates,
        finite=_finite((trajectories, budgets, after)),
    )


def normalized_payments(statistics: Statistics, payments: Array) -> Array:
    """Rewards or costs such that those of an episode have about mean 0 and deviation 1.

    All payments of an episode are divided by the deviation of its total, and the mean of the total
    comes off the last payment. Of rewards paid at the end this is the papers' normalisation. Of
    any others it leaves the best policy what it was: episodes have a fixed length, so that what
    comes off does not depend on the actions.

    Args:
        statistics: of the totals of episodes, of shape `[...]`.
        payments: raw, `[K, T, ...]`.

    Returns:
        `[K, T, ...]`.
    """
    scaled = payments / normalization.deviation(statistics)
    return scaled.at[:, -1].add(-statistics.mean / normalization.deviation(statistics))


def prepare(
    config: Learning, variables: Networks, weights: Array, trajectories: Trajectories
) -> fitting.Samples:
    """The steps of normalised episodes with their advantages and the critics' targets.

    Args:
        config: the settings.
        variables: of the networks that took the actions.
        weights: the multipliers, `[m]`.
        trajectories: episodes with observations, rewards and costs normalised.

    Returns:
        K T samples.
    """
    episodes, steps = trajectories.rewards.shape
    observations = trajectories.observations
    values = networks.critic(config, variables.reward_critic, observations)[..., 0]
    cost_values = networks.critic(config, variables.cost_critic, observations)
    rewards = gae(trajectories.rewards, values, config.reward_gamma, config.reward_lambda)
    costs = gae(trajectories.costs, cost_values, config.cost_gamma, config.cost_lambda)
    samples = fitting.Samples(
        observations=observations,
        actions=trajectories.actions,
        log_probs=trajectories.log_probs,
        advantages=combine(rewards, costs, weights),
        reward_targets=rewards + values,
        cost_targets=costs + cost_values,
    )
    return jax.tree.map(lambda x: x.reshape(episodes * steps, *x.shape[2:]), samples)


def _distribution(
    config: Learning, learner: Learner, observations: Array
) -> "distrax.MultivariateNormalDiag":
    normalized = normalization.normalize(learner.observations, observations)
    return networks.policy(config, learner.networks.policy, normalized)


def _check_shapes(learner: Learner, trajectories: Trajectories, budgets: Array) -> None:
    """Raises ValueError where shapes would broadcast to something that nobody meant."""
    if trajectories.rewards.ndim != 2 or trajectories.rewards.size == 0:
        raise ValueError(f"rewards must be [K, T], not {list(trajectories.rewards.shape)}")
    count = trajectories.rewards.shape
    expected = {
        "observations": (*count, *learner.observations.mean.shape),
        "actions": (*count, networks.action_size(learner.networks.policy)),
        "log_probs": count,
        "costs": (*count, *learner.multipliers.shape),
    }
    found = trajectories._asdict()
    expected["budgets"], found["budgets"] = learner.multipliers.shape, budgets
    for name, shape in expected.items():
        if jnp.shape(found[name]) != shape:
            raise ValueError(f"{name} must be {list(shape)}, not {list(jnp.shape(found[name]))}")


def _finite(tree: object) -> Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
