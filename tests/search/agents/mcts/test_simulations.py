"""Simulations in lockstep find the trees of `mctx.search`."""

import functools

import jax
import jax.numpy as jnp
import mctx
import numpy as np
import pytest

from jaxprune.search.agents.mcts import simulations, tree
from jaxprune.search.envs import filterwise
from jaxprune.search.envs.filterwise import Rules

RULES = Rules(lambda mask: mask.mean(), budget=0.5, sizes=(4, 5))
COUNT = RULES.num_filters


def random_states(rng: np.random.Generator, games: int) -> jax.Array:
    """Masks from whole to finished ones, no group of them empty."""
    masks = rng.random((games, COUNT)) < rng.uniform(0.4, 1, (games, 1))
    masks[:, [0, 4]] = True
    masks[0] = True
    masks[1] = np.arange(COUNT) % 4 == 0  # 3 of 9 are left: the game is over
    return jnp.asarray(masks, jnp.uint8)


@functools.partial(jax.jit, static_argnames=("searching", "steps"))
def grown(searching: str, steps: int, masks: jax.Array, table: jax.Array, key: jax.Array):
    """The trees of games whose priors and values follow from a random table `[N, N + 1]`."""

    def assess(masks: jax.Array) -> tuple[jax.Array, jax.Array]:
        legal = jax.vmap(lambda mask: filterwise.legal(RULES, mask))(masks)
        found = masks.astype(jnp.float32) @ table
        return jnp.where(legal, found[:, :-1], tree.ILLEGAL_LOGIT), jnp.tanh(found[:, -1])

    logits, values = assess(masks)
    nodes = tree.Node(masks, jnp.full(len(masks), tree.UNKNOWN))
    root = mctx.RootFnOutput(prior_logits=logits, value=values, embedding=nodes)
    invalid = ~jax.vmap(lambda mask: filterwise.legal(RULES, mask))(masks)
    model = tree.model(RULES, assess, tree.guess(RULES, assess))
    puct = functools.partial(
        mctx.muzero_action_selection, pb_c_init=1.25, qtransform=tree.scaled_values
    )
    if searching == "lockstep":
        return simulations.grow(root, model, puct, steps, invalid, key)
    return mctx.search(
        params=None,
        rng_key=key,
        root=root,
        recurrent_fn=model,
        root_action_selection_fn=functools.partial(puct, depth=0),
        interior_action_selection_fn=puct,
        num_simulations=steps,
        invalid_actions=invalid,
    )


@pytest.mark.parametrize(
    ("games", "steps"),
    [(6, 60), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((2, 7), (3, 1)))],
)
def test_the_trees_are_those_of_mctx(games: int, steps: int) -> None:
    rng = np.random.default_rng(games)
    deepest = 0
    for seed in range(4):
        masks = random_states(rng, games)
        table = jnp.asarray(rng.normal(0, 0.5, (COUNT, COUNT + 1)), jnp.float32)
        key = jax.random.PRNGKey(seed)
        ours = grown("lockstep", steps, masks, table, key)
        theirs = grown("mctx", steps, masks, table, key)
        for name in (field for field in theirs.__dataclass_fields__ if field != "extra_data"):
            jax.tree.map(np.testing.assert_array_equal, getattr(ours, name), getattr(theirs, name))
        assert (ours.node_visits[:, 0] == steps + 1).all()
        deepest = max(deepest, depth(np.asarray(ours.parents)))
    # Else nothing would have been backed up through several levels.
    assert deepest >= min(steps, 3)


def depth(parents: np.ndarray) -> int:
    """The number of actions to the deepest node of trees, from the parent of each `[B, nodes]`."""
    depths = np.zeros(parents.shape, int)
    for node in range(1, parents.shape[1]):
        rows = np.arange(len(parents))
        depths[:, node] = depths[rows, parents[:, node]] + 1
    return int(depths.max())
