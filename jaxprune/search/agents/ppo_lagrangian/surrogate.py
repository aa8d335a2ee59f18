"""PPO's objective and how far a policy has moved, from probability ratios."""

import jax.numpy as jnp
from jax import Array


def clipped_surrogate(ratios: Array, advantages: Array, clip: float) -> Array:
    r"""PPO's loss: minus the clipped surrogate objective, the mean over the samples.

    .. math:: -\min\bigl(\rho A, \operatorname{clip}(\rho, 1 - \epsilon, 1 + \epsilon) A\bigr)

    Beyond the clip a sample has no gradient where it would earn by moving on, and keeps it where
    moving on would lose.

    Args:
        ratios: :math:`\rho`, probability of the action under the policy over that when it was
            taken, `[N]`, at least 0.
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

    Each term is at least 0 and their mean is unbiased; that of `-log rho` alone, unbiased too,
    varies more and may be negative.

    Args:
        log_ratios: `[N]`, log-probability under the new policy minus that under the old.

    Returns:
        The estimate, `[]`, at least 0.

    References:
        Schulman, Approximating KL divergence (2020), estimator k3, which stable-baselines uses.
    """
    return jnp.mean(jnp.expm1(log_ratios) - log_ratios)


def clip_fraction(ratios: Array, clip: float) -> Array:
    """The fraction of the samples whose ratio is beyond the clip, `[]`, in [0, 1]."""
    return jnp.mean((jnp.abs(ratios - 1.0) > clip).astype(jnp.float32))
