"""From a trained network to a smaller one in one call."""

from collections.abc import Callable, Sequence
from typing import Any

from jax import Array

from jaxprune import importance as criteria
from jaxprune.costs.limits import NO_LIMITS, Limits
from jaxprune.costs.selection import Cost, check_request, select
from jaxprune.dependency import CompactNetwork, compact, trace
from jaxprune.importance import Criterion


def prune(
    apply: Callable[..., Any],
    params: Any,
    x: Any,
    cost: Cost = "macs",
    budget: float = 0.5,
    importance: str | Criterion = "l1",
    *,
    scope: str = "global",
    limits: Limits = NO_LIMITS,
    ignore: Sequence[str] = (),
    loss: Callable[[Any], Array] | None = None,
    gradients: Any = None,
    key: Array | None = None,
) -> CompactNetwork:
    """Prunes a network: traces it, scores its channels and removes the least important ones.

    ::

        import jax
        import jax.numpy as jnp
        from flax import linen as nn

        import jaxprune


        class Network(nn.Module):
            @nn.compact
            def __call__(self, x, train=False):
                x = nn.Conv(32, (3, 3), use_bias=False)(x)
                x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
                return nn.Dense(10)(x.mean((1, 2)))


        network = Network()
        x = jnp.ones((8, 28, 28, 1))
        variables = network.init(jax.random.key(0), x)  # and train them

        small = jaxprune.prune(network.apply, variables, x, cost="macs", budget=0.5)
        print(small.widths)  # {'Conv_0': 16}
        logits = small(small.params, x)

    The result is a plain JAX function of its parameters. To fine-tune it in another mode, such as
    BatchNorm's training mode, compact that mode with the same masks:
    `jaxprune.compact(apply_train, jaxprune.trace(apply, params, x), params, small.masks)`.

    Args:
      apply: `apply(params, x)` in inference mode.
      params: the trained parameters, any tree; for Flax Linen all variables.
      x: examples [B, ...]. Only their shapes matter, unless the importance depends on data.
      cost: what is limited, one of `costs.NAMES` or a function `cost(structure, masks)`.
      budget: the fraction of the dense cost that may remain, in (0, 1].
      importance: one of `importance.NAMES`, or a function `(structure, params) -> [num_channels]`.
      scope: how channels of different groups are compared: "global", "uniform", "isomorphic" or
        "raw", see `select`.
      limits: which widths are allowed.
      ignore: `fnmatch` patterns of layer paths whose channels must all stay.
      loss: `loss(outputs) -> []`, a mean over the examples with the labels closed over; for the
        importances "taylor", "taylor_activation", "snip", "grasp" and "obd".
      gradients: in place of `loss` for "taylor" and "snip", a tree like `params`.
      key: a PRNG key, for the importance "random"; "obd" has one by default.

    Returns:
      The compact network, with its `params`, `widths` and `masks`.

    Raises:
      UserError: an argument is invalid, the limits are contradictory, the budget is out of reach,
        or nothing would be removed.
      TypeError: `apply` is not a function, `params` or `x` contain something other than arrays, or
        `ignore` is a string.
      ValueError: a pattern in `ignore` matches no layer.
    """
    criteria.check(importance, loss=loss, gradients=gradients, key=key)
    structure = trace(apply, params, x, ignore=ignore)
    check_request(structure, cost, budget, limits, scope)
    scores = criteria.score(
        importance, structure, apply, params, x, loss=loss, gradients=gradients, key=key
    )
    masks = select(structure, scores, cost, budget, limits, scope)
    return compact(apply, structure, params, masks)
