"""What an agent earns: ACNN's balance of accuracy and cost, AMC's error."""

import jax.numpy as jnp
from jax import Array

from jaxprune.search.agents.ddpg.config import Config


def balance(config: Config, accuracy: Array, dense: Array, cost: Array, limit: Array) -> Array:
    """ACNN's reward, eq. 3, paid after every layer.

        r(t) = min(acc(t) / expect_acc, 1) + beta min(ncr(t) / expect_ncr, 1)

    without the minus signs that are printed inside its minima, which would reward errors. The
    neuron compression rate `ncr` is the dense network's cost over what is left, 1 / relative cost,
    for whatever cost is limited; its expectation is the budget's, so that their ratio is
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
        count: multiply-adds or parameters that are left, at least 1, float32 `[...]`; not looked at
            by the reward `error`.

    Returns:
        float32 `[...]`, at most 0.
    """
    return -(1 - accuracy) * (1.0 if config.reward == "error" else jnp.log(count))
