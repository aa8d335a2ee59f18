"""One round of PPO-Lagrangian: from K episodes to the next policy and multipliers.

After section 2.2 of the conference paper and sections 2.3.6, 4.3 and 4.4 of the thesis, with the
signs that make sense of them: the policy ascends reward - lambda * cost, and lambda rises while an
episode costs more than its budget (equations 5-8 of the paper and 4.6, 4.7 of the thesis print
others). A round, `learn`,

1. adds the episodes to the running statistics;
2. moves the multipliers by the violations, before the policy, as implementations of constrained
   policy optimisation do;
3. computes the advantages of the Lagrangian;
4. fits the policy and both critics.

Departures from the papers: the critics' targets are the TD(lambda) returns that go with the
advantages, as in stable-baselines, not the one-step targets of equations 9 and 11; multipliers move
by projected ascent or a PID controller, not by Adam; several budgets have a multiplier each.
"""

import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxprune.search.agents.ppo_lagrangian import fitting, multipliers, networks, normalization
from jaxprune.search.agents.ppo_lagrangian.config import Learning
from jaxprune.search.agents.ppo_lagrangian.losses import Samples, combine, gae, losses
from jaxprune.search.agents.ppo_lagrangian.networks import Networks
from jaxprune.search.agents.ppo_lagrangian.normalization import Statistics

if TYPE_CHECKING:
    import distrax


class Learner(NamedTuple):
    """Everything that learning carries from round to round.

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
        updates: number of mini-batch updates made, int32 `[]`.
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
        rewards: raw, `[K, T]`.
        costs: raw, `[K, T, m]`.
    """

    observations: Array
    actions: Array
    log_probs: Array
    rewards: Array
    costs: Array


class Metrics(NamedTuple):
    """What a round of learning saw and did.

    Losses, KL divergence, clip fraction, entropy and sigma are those of the updated networks on all
    steps of the round.

    Attributes:
        reward: mean raw reward of an episode, `[]`.
        costs: mean raw costs of an episode, `[m]`.
        violations: `costs` less the budgets, `[m]`.
        multipliers: those that the policy learnt with, `[m]`.
        policy_loss: minus the clipped surrogate objective, `[]`.
        value_loss: mean squared error of the reward critic, in normalised units, `[]`.
        cost_value_loss: mean squared error of the cost critic, in normalised units, `[]`.
        approx_kl: estimate of the KL divergence from the policy that took the actions, `[]`.
        clip_fraction: fraction of the steps whose probability ratio is beyond the clip, `[]`.
        entropy: of the policy's Gaussian before clipping, in nats, `[]`; may be negative.
        sigma: mean over the components of an action of the policy's standard deviation, `[]`.
        updates: mini-batch updates of this round, int32 `[]`; fewer than there are mini-batches
            where the KL divergence stopped them.
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
    """
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
    """Adds raw observations `[..., O]`, at least one, to the statistics without learning from them.

    A new learner takes observations as they come, however large, and normalises them from its
    second round on. Where they are known beforehand, as the layers of a network are, this lets it
    start with statistics.
    """
    seen = normalization.update(learner.observations, observations)
    return learner._replace(observations=seen)


@functools.partial(jax.jit, static_argnames="config")
def act(config: Learning, learner: Learner, observations: Array, key: Array) -> tuple[Array, Array]:
    """Samples actions for raw observations `[..., O]`.

    Returns:
        Actions `[..., A]` as sampled (`executed` is what the environment sees) and their
        log-probabilities `[...]`.
    """
    return _distribution(config, learner, observations).sample_and_log_prob(seed=key)


@functools.partial(jax.jit, static_argnames="config")
def mean_action(config: Learning, learner: Learner, observations: Array) -> Array:
    """The policy's means for raw observations `[..., O]`, in (0, 1): `[..., A]`."""
    return _distribution(config, learner, observations).mean()


@functools.partial(jax.jit, static_argnames="config")
def learn(
    config: Learning, learner: Learner, trajectories: Trajectories, budgets: Array, key: Array
) -> tuple[Learner, Metrics]:
    """One round of learning from K episodes, compiled as one call.

    The policy sees observations through the statistics with which it took the actions, so that its
    probability ratios start at 1; the new observations count from the next round on. New rewards
    and costs count at once.

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
    """
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
    _, found = losses(config, progress.networks, samples)
    distribution = networks.policy(config, progress.networks.policy, samples.observations)
    return after, Metrics(
        reward=trajectories.rewards.sum(axis=1).mean(),
        costs=trajectories.costs.sum(axis=1).mean(axis=0),
        violations=violations,
        multipliers=moved,
        policy_loss=found.policy,
        value_loss=found.value,
        cost_value_loss=found.cost_value,
        approx_kl=found.approx_kl,
        clip_fraction=found.clip_fraction,
        entropy=distribution.entropy().mean(),
        sigma=distribution.stddev().mean(),
        updates=progress.updates,
    )


def normalized_payments(statistics: Statistics, payments: Array) -> Array:
    """Scales rewards or costs so that an episode's total has about mean 0 and deviation 1.

    All payments of an episode are divided by the deviation of the totals, and the mean total is
    subtracted from the last payment. For rewards paid at the end this is the papers' normalisation.
    For any others it leaves the best policy unchanged: episodes have a fixed length, so what is
    subtracted does not depend on the actions.

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
) -> Samples:
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
    samples = Samples(
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
