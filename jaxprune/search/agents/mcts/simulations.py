"""Simulations of many games in lockstep: descend, expand, back up, on the tree of mctx.

`grow` finds the trees that `mctx.search` finds, bit for bit (tested), in less time. There, each
step of a game is a loop under `vmap`, and such a loop chooses between the old and the new arrays of
the whole tree at every level: a simulation costs the more, the more simulations there are. Here the
games of a batch take a level together, and only entries that change are written. The choice of an
action, which mctx computes once for the root and once for other nodes and then takes one of, is
computed once.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mctx
from jax import Array

ROOT = mctx.Tree.ROOT_INDEX
NO_PARENT = mctx.Tree.NO_PARENT
UNVISITED = mctx.Tree.UNVISITED


class Descent(NamedTuple):
    """Where the games of a batch are on their ways down.

    Attributes:
        keys: a PRNG key for each game, `[B, 2]`.
        node: the last node reached, int32 `[B]`.
        action: what was chosen there, int32 `[B]`.
        child: where it leads, int32 `[B]`; `UNVISITED` at the end of the way.
        depth: how many actions were chosen, float32 `[]`, for all games alike.
        going: which games go on, bool `[B]`.
    """

    keys: Array
    node: Array
    action: Array
    child: Array
    depth: Array
    going: Array


def grow(
    root: mctx.RootFnOutput,
    recurrent_fn: mctx.RecurrentFn,
    select: mctx.InteriorActionSelectionFn,
    simulations: int,
    invalid_actions: Array,
    key: Array,
) -> mctx.Tree:
    """Searches one tree for each game of a batch.

    Args:
        root: prior logits `[B, N]`, values `[B]` and embeddings `[B, ...]` of the roots.
        recurrent_fn: the game, as mctx steps through it; its parameters are None.
        select: `select(key, tree, node, depth)` -> the action to try in a node of one game, `[]`;
            depth 0 is the root.
        simulations: descents, each of which adds a node.
        invalid_actions: what `select` may not choose at the root, bool `[B, N]`.
        key: consumed.

    Returns:
        The trees, of `simulations + 1` nodes each.
    """
    games = len(root.value)

    def simulate(number: Array, carry: tuple[Array, mctx.Tree]) -> tuple[Array, mctx.Tree]:
        key, tree = carry
        key, descent_key, step_key = jax.random.split(key, 3)
        keys = jax.random.split(descent_key, games)
        parent, action, child = descend(keys, tree, select, simulations)
        # The node of simulation i is number i + 1, unless the way ended in one that exists.
        node = jnp.where(child == UNVISITED, number + 1, child)
        tree = expand(recurrent_fn, step_key, tree, parent, action, node)
        return key, back_up(tree, node)

    start = key, plant(root, simulations + 1, invalid_actions)
    _, tree = jax.lax.fori_loop(0, simulations, simulate, start)
    return tree


def plant(root: mctx.RootFnOutput, nodes: int, invalid_actions: Array) -> mctx.Tree:
    """Trees of nothing but their roots, with room for `nodes` each."""
    games, actions = root.prior_logits.shape

    def first(values: Array) -> Array:
        room = jnp.zeros((games, nodes, *values.shape[1:]), values.dtype)
        return room.at[:, ROOT].set(values)

    def of_nodes(value: int) -> Array:
        return jnp.full((games, nodes), value, jnp.int32)

    zeros = jnp.zeros((games, nodes, actions), root.value.dtype)
    return mctx.Tree(
        node_visits=first(jnp.ones(games, jnp.int32)),
        raw_values=first(root.value),
        node_values=first(root.value),
        parents=of_nodes(NO_PARENT),
        action_from_parent=of_nodes(NO_PARENT),
        children_index=jnp.full(zeros.shape, UNVISITED, jnp.int32),
        children_prior_logits=first(root.prior_logits),
        children_values=zeros,
        children_visits=jnp.zeros(zeros.shape, jnp.int32),
        children_rewards=zeros,
        children_discounts=zeros,
        embeddings=jax.tree.map(first, root.embedding),
        root_invalid_actions=invalid_actions,
        extra_data=None,
    )


def descend(
    keys: Array, tree: mctx.Tree, select: mctx.InteriorActionSelectionFn, max_depth: int
) -> tuple[Array, Array, Array]:
    """Goes down each tree to an action that was not tried, or for `max_depth` actions.

    Returns:
        The node where the way ended, the action chosen there, and the node that this leads to or
        `UNVISITED`, int32 `[B]` each.
    """
    games = jnp.arange(len(keys))

    def level(at: Descent) -> Descent:
        pairs = jax.vmap(jax.random.split)(at.keys)
        action = jax.vmap(select, in_axes=(0, 0, 0, None))(pairs[:, 1], tree, at.child, at.depth)
        child = tree.children_index[games, at.child, action]
        depth = at.depth + 1
        return Descent(
            keys=pairs[:, 0],
            node=jnp.where(at.going, at.child, at.node),
            action=jnp.where(at.going, action, at.action),
            child=jnp.where(at.going, child, at.child),
            depth=depth,
            going=at.going & (child != UNVISITED) & (depth < max_depth),
        )

    nowhere = jnp.full(len(keys), NO_PARENT, jnp.int32)
    start = Descent(
        keys=keys,
        node=nowhere,
        action=nowhere,
        child=jnp.full(len(keys), ROOT, jnp.int32),
        depth=jnp.zeros((), tree.children_prior_logits.dtype),
        going=jnp.ones(len(keys), bool),
    )
    end = jax.lax.while_loop(lambda at: at.going.any(), level, start)
    return end.node, end.action, end.child


def expand(
    recurrent_fn: mctx.RecurrentFn,
    key: Array,
    tree: mctx.Tree,
    parent: Array,
    action: Array,
    node: Array,
) -> mctx.Tree:
    """Takes an action in a node of each tree and stores where it leads, int32 `[B]` each."""
    games = jnp.arange(len(node))

    def put(array: Array, value: Any, *where: Array) -> Array:
        return array.at[(games, *where)].set(value)

    embedding = jax.tree.map(lambda leaf: leaf[games, parent], tree.embeddings)
    step, embedding = recurrent_fn(None, key, action, embedding)
    return tree.replace(
        node_visits=tree.node_visits.at[games, node].add(1),
        raw_values=put(tree.raw_values, step.value, node),
        node_values=put(tree.node_values, step.value, node),
        parents=put(tree.parents, parent, node),
        action_from_parent=put(tree.action_from_parent, action, node),
        children_index=put(tree.children_index, node, parent, action),
        children_prior_logits=put(tree.children_prior_logits, step.prior_logits, node),
        children_rewards=put(tree.children_rewards, step.reward, parent, action),
        children_discounts=put(tree.children_discounts, step.discount, parent, action),
        embeddings=jax.tree.map(lambda old, new: put(old, new, node), tree.embeddings, embedding),
    )


def back_up(tree: mctx.Tree, leaf: Array) -> mctx.Tree:
    """Adds the value of a leaf of each tree to all nodes above it.

    A game that has reached its root waits for the others: what it would write goes nowhere.

    Args:
        tree: the trees.
        leaf: int32 `[B]`.
    """
    games, nowhere = jnp.arange(len(leaf)), tree.node_visits.shape[1]

    def level(carry: tuple[mctx.Tree, Array, Array]) -> tuple[mctx.Tree, Array, Array]:
        tree, value, node = carry
        parent, action = tree.parents[games, node], tree.action_from_parent[games, node]
        reward = tree.children_rewards[games, parent, action]
        value = reward + tree.children_discounts[games, parent, action] * value
        visits = tree.node_visits[games, parent]
        mean = (tree.node_values[games, parent] * visits + value) / (visits + 1.0)
        row = jnp.where(node == ROOT, nowhere, parent)

        def put(array: Array, value: Array, *where: Array) -> Array:
            return array.at[(games, row, *where)].set(value, mode="drop")

        tree = tree.replace(
            node_visits=put(tree.node_visits, visits + 1),
            node_values=put(tree.node_values, mean),
            children_values=put(tree.children_values, tree.node_values[games, node], action),
            children_visits=put(
                tree.children_visits, tree.children_visits[games, parent, action] + 1, action
            ),
        )
        return tree, value, jnp.where(node == ROOT, ROOT, parent)

    def below_the_root(carry: tuple[mctx.Tree, Array, Array]) -> Array:
        return (carry[2] != ROOT).any()

    start = tree, tree.node_values[games, leaf], leaf
    return jax.lax.while_loop(below_the_root, level, start)[0]
