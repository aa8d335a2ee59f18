"""Advantages, PPO's surrogate objective, and the losses of the policy and of both critics."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxprune.search.agents.ppo_lagrangian.config import Learning
from jaxprune.search.agents.ppo_lagrangian.networks import Networks, critic, policy


class Samples(NamedTuple):
    """Steps, in any order.

    Attributes:
        observations: normalised, `[N, O]`.
        actions: as sampled, `[N, A]`.
        log_probs: their log-probabilities when they were sampled, `[N]`.
        advantages: of the Lagrangian, `[N]`.
        reward_targets: what the reward critic should say, `[N]`.
        cost_targets: what the cost critic should say, `[N, m]`.
    """

    observations: Array
    actions: Array
    log_probs: Array
    advantages: Array
    reward_targets: Array
    cost_targets: Array


class Losses(NamedTuple):
    """The losses of a set of samples, and how far the policy has moved, all `[]`.

    Attributes:
        policy: minus the clipped surrogate objective.
        value: mean squared error of the reward critic, in normalised units.
        cost_value: mean squared error of the cost critic, in normalised units.
        approx_kl: estimate of the KL divergence from the policy that took the actions.
        clip_fraction: fraction of the samples whose probability ratio is beyond the clip.
    """

    policy: Array
    value: Array
    cost_value: Array
    approx_kl: Array
    clip_fraction: Array


def gae(rewards: Array, values: Array, gamma: float, lam: float) -> Array:
    r"""Generalised advantage estimation over whole episodes of a fixed length.

    .. math::
      \delta_t &= r_t + \gamma V(s_{t+1}) - V(s_t), \quad V(s_{T+1}) = 0 \\
      A_t &= \delta_t + \gamma \lambda A_{t+1}

    The value after the last step is 0, since episodes end there and are not cut off. With gamma =
    lam = 1 this is the reward-to-go minus :math:`V(s_t)`; equations 5 and 6 of the conference paper
    print :math:`V(s_{t+1})` instead, which is not a baseline, since it depends on the action.

    Beware of gamma lam < 1 with a reward at the end. If states tell earlier actions, values pass
    the reward on to earlier steps. If they do not (a state that describes only the layer to be
    pruned), the reward counts (gamma lam)^(T - t) at step t, while costs with gamma = lam = 1 count
    in full: removing from the first layers looks worse than it is. With the thesis's 0.99 and 0.95
    the factor is 0.48 for the first of 13 steps and 0.09 for the first of 40.

    Args:
        rewards: `[K, T, ...]`, rewards or costs of K episodes of T steps.
        values: `[K, T, ...]`, V(s_t) for each of them.
        gamma: discount factor, in [0, 1].
        lam: weight of later errors, in [0, 1].

    Returns:
        The advantages A_t, `[K, T, ...]`. `advantages + values` are the critic's targets.

    References:
        Schulman et al., High-dimensional continuous control using generalized advantage estimation
        (2016), equation 16. Table 5.3 of the thesis gives gamma and lambda.
    """
    following = jnp.concatenate([values[:, 1:], jnp.zeros_like(values[:, :1])], axis=1)
    deltas = rewards + gamma * following - values

    def backwards(later: Array, delta: Array) -> tuple[Array, Array]:
        advantage = delta + gamma * lam * later
        return advantage, advantage

    _, advantages = jax.lax.scan(
        backwards, jnp.zeros_like(deltas[:, 0]), jnp.moveaxis(deltas, 1, 0), reverse=True
    )
    return jnp.moveaxis(advantages, 0, 1)


def combine(rewards: Array, costs: Array, multipliers: Array) -> Array:
    r"""The advantage of the Lagrangian: that of the reward minus those of the costs, weighted.

    .. math::
      A = \frac{A^r - \sum_i \lambda_i A^{c_i}}{1 + \sum_i \lambda_i}

    each centred on its mean over the batch. The division keeps the size of the advantage as a
    multiplier grows, and does not move saddle points.

    **Scale.** Rewards and costs have been divided by their *running* standard deviations, as in the
    papers; their advantages are not divided by their deviation in the batch. Common implementations
    differ in this: stable-baselines, the starter agents and the thesis's code line standardise
    reward advantages in the batch and only centre those of costs; OmniSafe standardises both.
    Dividing a term by its own size in the batch hides how much the policy still gains. As the
    policy's sigma goes to 0 at a constrained optimum,

    - with reward advantages standardised and cost advantages centred, the multiplier that holds
      the optimum grows without bound, as 1 / sigma, and is never reached;
    - with both standardised it is 1 for every problem (the two gradients are parallel there), any
      other value drives the policy to one extreme or the other, and the multiplier controls a
      speed instead of a position;
    - with running deviations it is a constant: the multiplier of the original problem times the
      deviation of the costs over that of the rewards.

    Args:
        rewards: reward advantages, `[...]`.
        costs: cost advantages, `[..., m]`.
        multipliers: `[m]`, at least 0.

    Returns:
        `[...]`, of mean 0.

    References:
        The thesis, equation 2.23, with the signs of its equation 2.20. Ray, Achiam and Amodei,
        Benchmarking safe exploration in deep reinforcement learning (2019), for the division.
    """
    rewards = rewards - rewards.mean()
    costs = costs - costs.mean(axis=tuple(range(costs.ndim - 1)))
    return (rewards - costs @ multipliers) / (1.0 + multipliers.sum())


def clipped_surrogate(ratios: Array, advantages: Array, clip: float) -> Array:
    r"""PPO's loss: minus the clipped surrogate objective, the mean over the samples.

    .. math:: -\min\bigl(\rho A, \operatorname{clip}(\rho, 1 - \epsilon, 1 + \epsilon) A\bigr)

    Beyond the clip a sample has no gradient if moving further would gain, and keeps its gradient if
    moving further would lose.

    Args:
        ratios: :math:`\rho`, the probability of the action under the policy over that under the
            policy that took it, `[N]`, at least 0.
        advantages: A, `[N]`.
        clip: :math:`\epsilon` > 0.

    Returns:
        The loss, `[]`.

    References:
        Schulman et al., Proximal policy optimization algorithms (2017), equation 7; thesis,
        equation 2.11.
    """
    bounded = jnp.clip(ratios, 1.0 - clip, 1.0 + clip)
    return -jnp.mean(jnp.minimum(ratios * advantages, bounded * advantages))


def approximate_kl(log_ratios: Array) -> Array:
    """Estimates KL(old || new) from samples of the old policy: the mean of `rho - 1 - log rho`.

    Every term is at least 0 and the mean is unbiased; the mean of `-log rho` alone is unbiased as
    well, but has more variance and may be negative.

    Args:
        log_ratios: `[N]`, log-probability under the new policy minus that under the old.

    Returns:
        The estimate, `[]`, at least 0.

    References:
        Schulman, Approximating KL divergence (2020), estimator k3, which stable-baselines uses.
    """
    return jnp.mean(jnp.expm1(log_ratios) - log_ratios)


def clip_fraction(ratios: Array, clip: float) -> Array:
    """The fraction of samples whose ratio is beyond the clip, `[]`, in [0, 1]."""
    return jnp.mean((jnp.abs(ratios - 1.0) > clip).astype(jnp.float32))


def losses(config: Learning, networks: Networks, samples: Samples) -> tuple[Array, Losses]:
    """The sum of the three losses, and its parts.

    The networks share no variables, so each network's gradient of the sum is that of its own loss,
    and the losses need no weights.
    """
    observations = samples.observations
    log_probs = policy(config, networks.policy, observations).log_prob(samples.actions)
    log_ratios = log_probs - samples.log_probs
    ratios = jnp.exp(log_ratios)
    values = critic(config, networks.reward_critic, observations)[..., 0]
    cost_values = critic(config, networks.cost_critic, observations)
    parts = Losses(
        policy=clipped_surrogate(ratios, samples.advantages, config.clip),
        value=jnp.mean(jnp.square(values - samples.reward_targets)),
        cost_value=jnp.mean(jnp.square(cost_values - samples.cost_targets)),
        approx_kl=approximate_kl(log_ratios),
        clip_fraction=clip_fraction(ratios, config.clip),
    )
    return parts.policy + parts.value + parts.cost_value, parts
