"""The tree search before each removal: mctx on a batch of games.

Algorithm 1 of the supplement runs `n_mcts` simulations from a state and turns the visit counts
N(s, a) of the root into the improved policy pi. The supplement does not print the simulation
itself. Here it is PUCT as mctx implements it (or, by a setting, Gumbel MuZero search; PUCT's
simulations are those of `simulations.py`, on mctx's tree), in which

- a node is a mask, and where it finished a game, the accuracy it was judged by;
- actions that the rules forbid get the logit -1e9 in the interior and are invalid at the root, so
  that no node of the tree breaks the rules; a softmax over them stays finite even where nothing
  is legal;
- the transition that ends a game carries the outcome as its reward (+1 if the finished network's
  training accuracy beats the baseline, else -1, and -1 for a game that ended above the budget),
  has discount 0 and leads to a node of value 0 that further steps do not change;
- only finished networks are evaluated, and only in the simulations that reach one.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import mctx
from jax import Array
from jax.typing import ArrayLike

from jaxprune.search.agents.mcts import memory as memories
from jaxprune.search.agents.mcts import simulations
from jaxprune.search.agents.mcts.config import Config
from jaxprune.search.agents.mcts.memory import Memory
from jaxprune.search.envs import filterwise
from jaxprune.search.envs.filterwise import Rules

ILLEGAL_LOGIT = -1e9

Assess = Callable[[Array], tuple[Array, Array]]
"""Masks `[B, N]` -> logits `[B, N]`, illegal removals at -1e9, and values `[B]` in [-1, 1]."""

UNKNOWN = -1.0
"""The accuracy of a node that was not evaluated, or is above the budget."""


class Judgement(NamedTuple):
    """How games ended: outcomes `[B]` in [-1, 1] and training accuracies `[B]`, or `UNKNOWN`."""

    outcome: Array
    accuracy: Array


Judge = Callable[[Array, Array], Judgement]
"""Masks `[B, N]`, which of them are to be judged, bool `[B]` -> judgement; 0 for the others."""


class Node(NamedTuple):
    """A node of the tree: the mask, uint8 `[N]`, and its training accuracy or `UNKNOWN`."""

    mask: Array
    accuracy: Array


class Decision(NamedTuple):
    """What the search of a batch of states found.

    Attributes:
        policy: the improved policy pi, float32 `[B, N]`.
        action: the removal to make, drawn from the policy, int32 `[B]`.
        visits: how many simulations tried each removal first, int32 `[B, N]`.
        finished: the finished network of highest training accuracy in each tree, if any.
        tree: the search tree, for inspection; unused parts cost nothing under `jit`.
    """

    policy: Array
    action: Array
    visits: Array
    finished: Node
    tree: mctx.Tree


def improved_policy(visits: Array, temperature: float) -> Array:
    """Algorithm 1: pi(a) = N(a)^(1/tau) / sum_b N(b)^(1/tau); one-hot at the largest if tau = 0.

    Args:
        visits: int `[..., N]`, at least one of the last axis positive.
        temperature: tau >= 0; of equally visited actions, tau = 0 takes the first.

    Returns:
        float32 `[..., N]`, summing to 1 over the last axis.
    """
    if temperature == 0:
        return jax.nn.one_hot(visits.argmax(axis=-1), visits.shape[-1])
    # In logarithms, because N^(1/tau) overflows for small tau.
    return jax.nn.softmax(jnp.log(visits.astype(jnp.float32)) / temperature, axis=-1)


def outcome(accuracy: ArrayLike, baseline: ArrayLike, feasible: ArrayLike) -> Array:
    """Algorithm 2: +1 where the accuracy beats the baseline, else -1; -1 above the budget."""
    won = jnp.asarray(accuracy) > jnp.asarray(baseline)
    return jnp.where(won & jnp.asarray(feasible), 1.0, -1.0)


def judge(
    rules: Rules,
    accuracy: Callable[[Array], Array],
    baseline: Array,
    chunk: int,
    memory: Memory | None = None,
) -> Judge:
    """Judges finished games by their networks' accuracy, and evaluates no other networks.

    Games above the budget are lost without a look at their networks, and networks that are
    remembered are not evaluated again. The others are moved to the front and evaluated `chunk` at a
    time, by a loop that ends after the last of them: the work follows their number.

    Args:
        rules: the rules of the game.
        accuracy: states `[K, N]` -> training accuracies `[K]`.
        baseline: the accuracy to beat, `[]`.
        chunk: masks evaluated together.
        memory: networks whose accuracies are known; None: none.

    Returns:
        The judge.
    """

    def judgement(masks: Array, selected: Array) -> Judgement:
        games = masks.shape[0]
        size = min(chunk, games)
        feasible = jax.vmap(lambda mask: filterwise.feasible(rules, mask))(masks)
        known, remembered = jnp.zeros(games, bool), jnp.zeros(games)
        if memory is not None:
            known, remembered = memories.look_up(memory, masks)
        unknown = selected & feasible & ~known
        order = jnp.argsort(~unknown, stable=True)
        # Filled up to whole chunks with games past the end, which are dropped when stored.
        order = jnp.pad(order, (0, -games % size), constant_values=games)

        def evaluate_chunk(index: Array, accuracies: Array) -> Array:
            rows = jax.lax.dynamic_slice(order, (index * size,), (size,))
            found = accuracy(masks[jnp.minimum(rows, games - 1)])
            return accuracies.at[rows].set(found, mode="drop")

        chunks = (unknown.sum() + size - 1) // size
        accuracies = jax.lax.fori_loop(0, chunks, evaluate_chunk, jnp.zeros(games))
        accuracies = jnp.where(known, remembered, accuracies)
        return Judgement(
            outcome=jnp.where(selected, outcome(accuracies, baseline, feasible), 0.0),
            accuracy=jnp.where(selected & feasible, accuracies, UNKNOWN),
        )

    return judgement


def guess(rules: Rules, assess: Assess) -> Judge:
    """Judges finished games by the value head's guess, without evaluating their networks."""

    def judgement(masks: Array, selected: Array) -> Judgement:
        _, values = assess(masks)
        feasible = jax.vmap(lambda mask: filterwise.feasible(rules, mask))(masks)
        return Judgement(
            outcome=jnp.where(selected, jnp.where(feasible, values, -1.0), 0.0),
            accuracy=jnp.full_like(values, UNKNOWN),
        )

    return judgement


def model(rules: Rules, assess: Assess, judgement: Judge) -> mctx.RecurrentFn:
    """The game as mctx steps through it: one removal in each game of the batch."""

    def recurrent_fn(
        params: None, key: Array, action: Array, nodes: Node
    ) -> tuple[mctx.RecurrentFnOutput, Node]:
        del params, key
        masks = nodes.mask
        was_done = jax.vmap(lambda mask: filterwise.finished(rules, mask))(masks)
        masks, _, done = jax.vmap(lambda mask, a: filterwise.step(rules, mask, a))(masks, action)
        logits, values = assess(masks)
        judged = judgement(masks, done & ~was_done)
        output = mctx.RecurrentFnOutput(
            reward=judged.outcome,
            discount=jnp.where(done, 0.0, 1.0),
            prior_logits=logits,
            value=jnp.where(done, 0.0, values),
        )
        return output, Node(masks, judged.accuracy)

    return recurrent_fn


def scaled_values(tree: mctx.Tree, node: Array) -> Array:
    """The values of a node's actions as PUCT compares them with the prior, `[N]` in [0, 1].

    Outcomes are known to lie in [-1, 1], so this interval is mapped to [0, 1] as it is: stretching
    each node's own range, as mctx does by default, would turn the noise of an untrained value head
    into decisions. An unvisited action takes its node's mean value. Were it taken as lost instead,
    the first of a hundred actions to be visited would be visited ever again.
    """
    visited = tree.children_visits[node] > 0
    values = jnp.where(visited, tree.qvalues(node), tree.node_values[node])
    return (values + 1) / 2


def with_noise(
    key: Array, logits: Array, legal: Array, fraction: float, concentration: float
) -> Array:
    """Mixes Dirichlet noise into the prior of the legal actions.

    Args:
        key: consumed.
        logits: `[B, N]`.
        legal: bool `[B, N]`.
        fraction: share of the noise, 0 to 1.
        concentration: sum of the Dirichlet parameters over the legal actions of a game.

    Returns:
        The logits of the mixture, `[B, N]`, illegal actions at -1e9.
    """
    share = concentration / jnp.maximum(legal.sum(axis=-1, keepdims=True), 1)
    samples = jax.random.loggamma(key, jnp.broadcast_to(share, logits.shape))
    noise = jax.nn.softmax(jnp.where(legal, samples, ILLEGAL_LOGIT), axis=-1)
    prior = jax.nn.softmax(jnp.where(legal, logits, ILLEGAL_LOGIT), axis=-1)
    mixture = (1 - fraction) * prior + fraction * noise
    return jnp.where(legal, jnp.log(jnp.maximum(mixture, 1e-12)), ILLEGAL_LOGIT)


def search(
    config: Config, rules: Rules, assess: Assess, judgement: Judge, masks: Array, key: Array
) -> Decision:
    """Searches one tree for each of a batch of states.

    Args:
        config: the agent's settings.
        rules: the rules of the game.
        assess: prior logits and values of states.
        judgement: how finished games ended.
        masks: the states, `[B, N]`. Finished ones may be among them: they stay as they are, and
            what is decided for them means nothing.
        key: consumed.

    Returns:
        For PUCT, the policy of Algorithm 1 from the root's visits and an action drawn from it; for
        Gumbel search, that algorithm's own improved policy and action (the temperature has no
        part in it).
    """
    chex.assert_shape(masks, (None, rules.num_filters))
    noise_key, tree_key, action_key = jax.random.split(key, 3)
    logits, values = assess(masks)
    chex.assert_shape([logits, values], [masks.shape, masks.shape[:1]])
    legal = jax.vmap(lambda mask: filterwise.legal(rules, mask))(masks)
    nodes = Node(masks, jnp.full(masks.shape[0], UNKNOWN))
    if config.tree_policy == "gumbel":
        found = mctx.gumbel_muzero_policy(
            params=None,
            rng_key=tree_key,
            root=mctx.RootFnOutput(prior_logits=logits, value=values, embedding=nodes),
            recurrent_fn=model(rules, assess, judgement),
            num_simulations=config.simulations,
            invalid_actions=~legal,
        )
        return _decision(found.action_weights, found.action, found.search_tree)

    if config.dirichlet_fraction > 0:
        logits = with_noise(
            noise_key, logits, legal, config.dirichlet_fraction, config.dirichlet_concentration
        )
    puct = functools.partial(
        mctx.muzero_action_selection, pb_c_init=config.exploration, qtransform=scaled_values
    )
    found_tree = simulations.grow(
        mctx.RootFnOutput(prior_logits=logits, value=values, embedding=nodes),
        model(rules, assess, judgement),
        puct,
        config.simulations,
        ~legal,
        tree_key,
    )
    import distrax  # takes long; whoever asks for the settings alone does without

    policy = improved_policy(found_tree.summary().visit_counts, config.temperature)
    action = distrax.Categorical(probs=policy).sample(seed=action_key)
    return _decision(policy, action, found_tree)


def _decision(policy: Array, action: Array, tree: mctx.Tree) -> Decision:
    best = tree.embeddings.accuracy.argmax(axis=-1)
    finished = jax.vmap(lambda nodes, index: jax.tree.map(lambda x: x[index], nodes))(
        tree.embeddings, best
    )
    visits = tree.summary().visit_counts.astype(jnp.int32)
    return Decision(policy, action, visits, finished, tree)
