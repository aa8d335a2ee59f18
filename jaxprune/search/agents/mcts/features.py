"""The seven features of a filter that the policy/value network reads.

Table 1 of the supplement gives the network an input of N x 7, "filter-related features", but the
supplement does not name the seven, and the main text is not public to this project. **The seven
features below are this project's own.** They are, for each filter, all within [0, 1]:

0. `kept`: 1 if the filter is still there.
1. `rank`: the rank of its importance within its group, 0 = least important, 1 = most.
2. `importance`: its importance divided by the largest of its group.
3. `kept_fraction`: the fraction of its group that is still there.
4. `saving`: the cost that removing one filter of its group saves now, as a fraction of the cost
   that must still go (at most 1); 0 once the filter is removed.
5. `depth`: the position of its group in the network, 0 = first, 1 = last.
6. `remaining`: the cost that must still go, as a fraction of what must go from the dense network;
   the same for all filters.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.costs import within_groups
from jaxprune.search.envs import filterwise
from jaxprune.search.envs.filterwise import Rules

NUM_FEATURES = 7

_SMALL = 1e-8


def savings(rules: Rules, mask: Array) -> Array:
    """The relative cost saved by removing one more filter of each group, float32 `[groups]`.

    Exact differences, one evaluation of the cost for each group, so that the cost need not be
    differentiable. Filters of one group are taken to cost the same: the group's first kept filter
    stands for all. Groups with nothing left save nothing.
    """
    first = filterwise.first_kept(rules, mask)
    without = jax.vmap(lambda index: mask.at[index].set(0, mode="drop"))(first)
    costs = jax.vmap(lambda smaller: filterwise.cost(rules, smaller))(without)
    return filterwise.cost(rules, mask) - costs


def features(rules: Rules, importance: Array, mask: Array) -> Array:
    """The network's input for one state.

    Args:
        rules: the rules of the game.
        importance: float32 `[N]`, non-negative, larger = more important.
        mask: `[N]`, 1 = kept.

    Returns:
        float32 `[N, 7]`, in the order given above.
    """
    sizes = rules.sizes
    group, group_size = within_groups.index(sizes), within_groups.size(sizes)
    kept = (mask > 0).astype(jnp.float32)
    rank = within_groups.rank(sizes, importance) / np.maximum(group_size - 1, 1)
    largest = jnp.maximum(within_groups.maximum(sizes, importance), _SMALL)[group]
    kept_fraction = filterwise.kept_per_group(rules, mask)[group] / group_size
    excess = jnp.maximum(filterwise.cost(rules, mask) - rules.budget, 0.0)
    saving = jnp.minimum(savings(rules, mask)[group] / jnp.maximum(excess, _SMALL), 1.0)
    depth = group / max(len(sizes) - 1, 1)
    remaining = jnp.full_like(kept, excess / max(1.0 - rules.budget, _SMALL))
    columns = (
        kept,
        rank,
        importance / largest,
        kept_fraction,
        kept * saving,
        depth,
        remaining,
    )
    return jnp.stack([jnp.asarray(column, jnp.float32) for column in columns], axis=-1)
