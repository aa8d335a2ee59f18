"""Ready-made optimizers that end in a proximal step."""

import jax
import optax

from jaxprune.optim.common import PyTree, at_step, check_fraction, check_non_negative
from jaxprune.optim.transform import (
    Prox,
    ScalarOrSchedule,
    adam_diagonal,
    proximal,
    scaled_proximal,
)


def proximal_sgd(
    learning_rate: ScalarOrSchedule,
    prox: Prox,
    strength: PyTree | optax.Schedule,
    momentum: float | None = None,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """Proximal (stochastic) gradient descent: ``optax.sgd``, then :func:`proximal`.

    Without momentum and on full gradients this is ISTA, which converges for a learning rate of at
    most 1 / L, L being the largest curvature of the loss. With momentum, optax's sum of past
    gradients makes steps 1 / (1 - momentum) times as long, so the operator takes the step
    learning_rate / (1 - momentum): with learning_rate alone, the minimum would be that of
    loss + (1 - momentum) * strength * penalty.

    Args:
      learning_rate: a number >= 0 or a schedule.
      prox: operator, see :mod:`jaxprune.optim.prox`.
      strength: weight of the penalty in units of the loss; number, prefix of the parameters,
        schedule.
      momentum: decay of the momentum in [0, 1), or None for none.
      nesterov: whether the momentum is Nesterov's.

    Returns:
      A gradient transformation.

    Raises:
      ValueError: as :func:`proximal`, or momentum is outside [0, 1).

    References:
      Parikh and Boyd, Proximal Algorithms (2014), section 4.2.
    """
    length = 1.0
    if momentum is not None:
        check_fraction("momentum", momentum)
        length = 1.0 / (1.0 - momentum)

    def step(count):
        return at_step(learning_rate, count) * length

    check_non_negative(learning_rate=learning_rate)
    return optax.chain(optax.sgd(learning_rate, momentum, nesterov), proximal(prox, strength, step))


def proximal_adam(
    learning_rate: ScalarOrSchedule,
    prox: Prox,
    strength: PyTree | optax.Schedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
    *,
    nesterov: bool = False,
    scaled: bool = True,
) -> optax.GradientTransformation:
    r"""Adam with a proximal step.

    Two variants, which solve different problems:

    * ``scaled=True``: coordinate :math:`i` is shrunk with the step that Adam gave it,
      :math:`\eta / (\sqrt{\hat v_i} + \text{eps})`, see :func:`scaled_proximal`. Stationary points
      are those of loss + strength * penalty, so strength means what it means for
      :func:`proximal_sgd`. Coordinates whose gradients are small take long steps and are cleared
      first; those whose gradients have always been zero are cleared at once.
    * ``scaled=False``: every coordinate is shrunk with the step :math:`\eta`, see :func:`proximal`;
      with ``prox.l1`` by strength * learning_rate (ACNN, eqs. 8-11). As Adam's step is about
      :math:`\eta` in every coordinate, strength is then without unit, and useful below 1; at 1 all
      coordinates fall to zero.

    Args:
      learning_rate: a number >= 0 or a schedule.
      prox: operator, see :mod:`jaxprune.optim.prox`; ``nuclear`` needs scaled=False.
      strength: weight of the penalty; number, prefix of the parameters, schedule.
      b1: decay of the first moment, as in ``optax.adam``.
      b2: decay of the second moment, the same.
      eps: term outside the root, the same.
      eps_root: term inside the root, the same.
      mu_dtype: dtype of the first moment, the same.
      nesterov: whether the momentum is Nesterov's, the same.
      scaled: which variant.

    Returns:
      A gradient transformation.

    Raises:
      ValueError: as :func:`proximal`.

    References:
      Kingma and Ba, Adam (2015). Yun, Lozano and Yang (ProxGen, NeurIPS 2021), algorithm 1, for
      scaled=True. ACNN (2023), eqs. 8-11, for scaled=False.
    """
    adam = optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    if scaled:
        return scaled_proximal(
            adam, adam_diagonal(b2, eps, eps_root), prox, strength, learning_rate
        )
    return optax.chain(
        adam,
        optax.scale_by_learning_rate(learning_rate),
        proximal(prox, strength, learning_rate),
    )
