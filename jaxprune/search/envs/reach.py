"""How much a group must lose so that the budget can still be met: AMC's Algorithm 1.

AMC bounds the action on layer t from below, so that the budget is met if all later layers are
pruned as far as they may be (He et al., ECCV 2018, Algorithm 1; a is the part removed, W the cost
of a layer, alpha the part of the cost that must go):

    W_duty = alpha W_all - a_max W_rest - W_reduced
    a_t = max(min(a_t, a_max), W_duty / W_t)

That closed form holds where a layer's cost is proportional to its own channels. Here the cost may
be any traceable function of the mask that does not rise when a channel goes, and the least count is
searched by bisection; for a cost that is a sum over groups it is the closed form, rounded up to
whole channels. Where the widths are limited, the count is one that they allow, and groups of equal
widths lose the same at the first of them.

`N` is the number of channels, which lie group by group, and `T` that of groups.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.costs import within_groups
from jaxprune.costs.limits import Allowed


def least_removed(
    allowed: Allowed,
    cost: Callable[[Array], Array],
    rank: Array,
    most: Array,
    step: Array,
    values: Array,
    limit: Array,
) -> Array:
    """How many channels the group of a step must lose at least, int32 `[]`.

    Args:
        allowed: the widths that each group may have.
        cost: flat mask `[N]` -> `[]`; must not rise when a channel is removed.
        rank: int32 `[N]`, the order of the channels within their groups, 0 goes first.
        most: int32 `[T]`, how many channels each group may lose, which leaves an allowed width.
        step: int32 `[]`, the group to decide on; the earlier ones are decided. It is the first of
            those that must have its width.
        values: float32 `[N]`, the mask so far.
        limit: float32 `[]`, what the finished network may cost.

    Returns:
        The least count with which the cost is within the limit when every later group loses its
        most; `most[step]` if there is none.
    """
    sizes = allowed.sizes
    group = within_groups.index(sizes)
    decided_at = jnp.asarray(np.asarray(allowed.leaders)[group])
    last = jnp.where(decided_at > step, (rank >= most[group]).astype(values.dtype), values)

    def reachable(count: Array) -> Array:
        left = (rank >= count).astype(values.dtype)
        return cost(jnp.where(decided_at == step, left, last)) <= limit

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        enough = reachable(middle)
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    # Bisection over 0..most, which takes as many rounds as the widest group's size has bits.
    bounds = (jnp.int32(0), most[step].astype(jnp.int32))
    _, count = jax.lax.fori_loop(0, max(sizes).bit_length() + 1, halve, bounds)
    size = jnp.asarray(sizes)[step]
    return size - jnp.asarray(allowed.at_most())[step, size - count]
