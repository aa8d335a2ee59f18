"""The MCTS agent: self-play, learning and greedy pruning in turn.

Implements Algorithms 2 and 3 of the supplement of "Channel Pruning via Lookahead Search Guided
Reinforcement Learning" (WACV 2022). One `update` is one round of Algorithm 3:

1. **Self-play** (Algorithm 2): `games` games from the dense network, as one batch. Before each
   removal a tree search (Algorithm 1, `tree.py`) gives the improved policy; the removal is drawn
   from it. A game ends when the relative cost is at most the budget (the paper's gamma); its
   outcome is +1 if the training accuracy of the finished network is above the baseline b, else -1,
   the same for all of its positions.
2. **Learning** (RLTrain): AdamW steps on `(z - v)^2 - pi . log p` over the queue of the newest
   positions.
3. **Greedy pruning**: the dense network is pruned by the policy network's first choices, without
   search. If the result's training accuracy is above b, it becomes the new b and the stop counter
   starts again at 0; otherwise the counter rises. The search ends when it reaches `patience`.

What the supplement leaves open, and departures from it, all of them this project's own:

- The seven features (`features.py`), every hyperparameter (`config.py`), the tree search's formula
  and noise (`tree.py`) and the loss are unpublished.
- b starts at the training accuracy of the better of uniform and global magnitude pruning at the
  same budget, so that an outcome of +1 means "better than magnitude pruning".
- `importance_prior` adds `-importance_prior * importance / (mean of its group)` to the logits: with
  a hundred actions and few simulations, a uniform first policy finds nothing. With 0 the policy is
  the network's alone.
- A game that ends above the budget, because nothing legal is left, counts as lost.
- The paper returns the last greedy network that raised b. Every finished network is kept in the
  archive here, and the best one by validation accuracy is returned; `State.greedy_mask` is the
  paper's.
- `iterations` bounds the number of rounds.
- A removal takes a block of a group's filters, the least important first, where a game would
  otherwise take more than about 64 removals (`block`, `envs/blocks.py`); the last block goes only
  as far as the budget demands. States, features, policy and visits are then those of blocks. So it
  is where widths are limited, with blocks from one allowed width to another.
- Networks that trees have evaluated are remembered (`memory.py`). Where a candidate is so
  costly that compiling for it pays, trees trust the value head, and only the networks in which
  games end are evaluated (`terminal`).

A round takes two compiled calls (self-play; learning with greedy pruning) besides the evaluation of
the candidates, and nothing is compiled after the first round.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxprune.costs.limits import any_width
from jaxprune.scoring.evaluation import Scores, separated
from jaxprune.search import rounds
from jaxprune.search.agents.mcts import memory as memories
from jaxprune.search.agents.mcts import queue as queues
from jaxprune.search.agents.mcts import tree
from jaxprune.search.agents.mcts.config import Config
from jaxprune.search.agents.mcts.features import features
from jaxprune.search.agents.mcts.memory import Memory
from jaxprune.search.agents.mcts.network import PolicyValueNetwork, initial_variables
from jaxprune.search.agents.mcts.queue import Queue
from jaxprune.search.baselines import candidates
from jaxprune.search.baselines.magnitude import global_l1, relative_importance, uniform_l1
from jaxprune.search.envs import blocks, filterwise
from jaxprune.search.envs.filterwise import Rules
from jaxprune.search.problem import Archive, Problem, SearchResult, best


class State(NamedTuple):
    """Everything a search needs to go on, as arrays.

    Attributes:
        key: PRNG key for what is still to come, uint32 `[2]`.
        variables: the policy/value network's parameters.
        optimizer: AdamW's state.
        queue: the training positions.
        memory: the finished networks that trees have evaluated.
        baseline: b, the training accuracy to beat, float32 `[]`.
        greedy_mask: the finished network that b belongs to, uint8 `[N]`.
        stop_counter: rounds since b last rose, int32 `[]`.
        iteration: rounds played, int32 `[]`.
        episodes: games played to their end, int32 `[]`.
        archive: all finished networks.
    """

    key: Array
    variables: Any
    optimizer: optax.OptState
    queue: Queue
    memory: Memory
    baseline: np.float32
    greedy_mask: Array
    stop_counter: np.int32
    iteration: np.int32
    episodes: np.int32
    archive: Archive


class SelfPlay(NamedTuple):
    """What a round of self-play leaves behind.

    Attributes:
        queue: the queue with the new positions, their outcomes still open.
        memory: the memory with the networks that the trees evaluated.
        masks: the last states of the games, uint8 `[games, N]`.
        found: the finished state of highest training accuracy that each game's trees evaluated;
            its own last state if they evaluated none. uint8 `[games, N]`.
        moves: removals made in all games together.
        visits: the visit counts of all moves' roots, summed over them, int32 `[N]`.
        entropy: mean entropy of the improved policies, in nats.
    """

    queue: Queue
    memory: Memory
    masks: Array
    found: Array
    moves: Array
    visits: Array
    entropy: Array


class Losses(NamedTuple):
    """The two parts of the loss, each a mean over the positions."""

    value: Array
    policy: Array


def _network(config: Config) -> PolicyValueNetwork:
    return PolicyValueNetwork(width=config.width, head=config.head)


def _within_a_round(config: Config, problem: Problem) -> Config:
    """The settings of a round, with what "auto" stands for.

    Those of the outer loop are left out, so that changing them compiles nothing.
    """
    terminal = config.terminal
    if terminal == "auto":
        costly = problem.host is not None and problem.host.few
        terminal = "value" if costly else "evaluate"
    return dataclasses.replace(
        config, iterations=1, patience=1, seconds=None, baseline=None, terminal=terminal
    )


def game(config: Config, problem: Problem) -> tuple[Rules, Array]:
    """The rules of the game and the importance of what is removed, float32 `[N]`.

    The importance of a block is the mean of its filters'.
    """
    rules, allowed = filterwise.rules(problem), problem.allowed
    importance = np.asarray(problem.importance, np.float32)
    widths = [allowed.widths[groups[0]] for groups in allowed.sets]
    removed = [0] * len(widths)
    if config.block == "auto":
        kept = np.bincount(rules.group_index, np.asarray(uniform_l1(problem))).astype(int)
        removed = [
            of_set.index(kept[groups[0]])
            for of_set, groups in zip(widths, allowed.sets, strict=True)
        ]
    at_once = blocks.chosen(config.block, list(map(len, widths)), removed)
    if at_once is None and allowed == any_width(allowed.sizes):
        return rules, jnp.asarray(importance)
    parts = blocks.partition(allowed, importance, at_once or [1] * len(widths))
    there = np.asarray(parts.place) < blocks.LARGEST
    total = np.bincount(parts.block, there * importance)
    mean = total / np.bincount(parts.block, there)
    return filterwise.rules(problem, parts), jnp.asarray(mean, jnp.float32)


def _optimizer(config: Config) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(config.learning_rate, weight_decay=config.weight_decay),
    )


def policy_value(
    config: Config, rules: Rules, importance: Array, variables: Any, masks: Array
) -> tuple[Array, Array]:
    """The policy and the value of a batch of states: the network f_theta plus the fixed prior.

    Args:
        config: the agent's settings.
        rules: the rules of the game.
        importance: float32 `[N]`.
        variables: the network's parameters.
        masks: `[B, N]`, 1 = kept.

    Returns:
        Logits `[B, N]`, illegal removals at -1e9, and values `[B]` in [-1, 1].
    """
    inputs = jax.vmap(lambda mask: features(rules, importance, mask))(masks)
    network: Any = _network(config)
    logits, values = network.apply(variables, inputs)
    logits = logits - config.importance_prior * relative_importance(rules, importance)
    legal = jax.vmap(lambda mask: filterwise.legal(rules, mask))(masks)
    return jnp.where(legal, logits, tree.ILLEGAL_LOGIT), values


@functools.partial(jax.jit, static_argnames=("config", "rules", "evaluate"))
def self_play(
    config: Config,
    rules: Rules,
    evaluate: Callable[[list[Array], Array], Scores],
    constants: list[Array],
    importance: Array,
    variables: Any,
    queue: Queue,
    memory: Memory,
    baseline: Array,
    key: Array,
) -> SelfPlay:
    """Algorithm 2 for all games of a round at once; games that are over wait for the others."""
    import distrax  # takes long; whoever asks for the settings alone does without

    def assess(masks: Array) -> tuple[Array, Array]:
        return policy_value(config, rules, importance, variables, masks)

    def score(states: Array) -> Array:
        masks = filterwise.filters(rules, states)
        return evaluate(constants, masks.astype(jnp.float32)).accuracy

    def judge(memory: Memory) -> tree.Judge:
        if config.terminal == "value":
            return tree.guess(rules, assess)
        return tree.judge(rules, score, baseline, config.evaluation_batch, memory)

    def running(masks: Array) -> Array:
        return ~jax.vmap(lambda mask: filterwise.finished(rules, mask))(masks)

    def move(carry: tuple) -> tuple:
        masks, queue, memory, key, best, moves, visits, entropy = carry
        key, search_key = jax.random.split(key)
        decision = tree.search(config, rules, assess, judge(memory), masks, search_key)
        playing = running(masks)
        if config.terminal == "evaluate":
            memory = _remember(memory, decision.tree.embeddings)
        queue = queues.push(queue, masks, decision.policy, playing)
        better = playing & (decision.finished.accuracy > best.accuracy)
        best = tree.Node(
            jnp.where(better[:, None], decision.finished.mask, best.mask),
            jnp.where(better, decision.finished.accuracy, best.accuracy),
        )
        visits = visits + jnp.sum(decision.visits * playing[:, None], axis=0)
        spread = distrax.Categorical(probs=decision.policy).entropy()
        masks = jax.vmap(lambda mask, a: filterwise.step(rules, mask, a).mask)(
            masks, decision.action
        )
        entropy = entropy + jnp.sum(spread * playing)
        return masks, queue, memory, key, best, moves + playing.sum(), visits, entropy

    start = jnp.tile(filterwise.reset(rules), (config.games, 1))
    unvisited = jnp.zeros(rules.num_filters, jnp.int32)
    nothing = tree.Node(start, jnp.full(config.games, tree.UNKNOWN))
    masks, queue, memory, _, best, moves, visits, entropy = jax.lax.while_loop(
        lambda carry: running(carry[0]).any(),
        move,
        (start, queue, memory, key, nothing, jnp.int32(0), unvisited, jnp.float32(0)),
    )
    found = jnp.where((best.accuracy > tree.UNKNOWN)[:, None], best.mask, masks)
    mean_entropy = entropy / jnp.maximum(moves, 1)
    return SelfPlay(queue, memory, masks, found, moves, visits, mean_entropy)


def _remember(memory: Memory, nodes: tree.Node) -> Memory:
    """Adds the finished networks of a batch of trees, nodes `[games, nodes, ...]`."""
    masks = nodes.mask.reshape(-1, nodes.mask.shape[-1])
    accuracy = nodes.accuracy.reshape(-1)
    return memories.remember(memory, masks, accuracy, accuracy > tree.UNKNOWN)


def loss(
    config: Config,
    rules: Rules,
    importance: Array,
    variables: Any,
    samples: tuple[Array, Array, Array],
) -> tuple[Array, Losses]:
    """RLTrain's loss, the mean over the samples of `(z - v)^2 - pi . log p`.

    Args:
        config: the agent's settings.
        rules: the rules of the game.
        importance: float32 `[N]`.
        variables: the network's parameters.
        samples: masks `[M, N]`, policies pi `[M, N]` and outcomes z `[M]`.

    Returns:
        The loss and its two parts.
    """
    masks, policies, outcomes = samples
    logits, values = policy_value(config, rules, importance, variables, masks)
    parts = Losses(
        value=jnp.mean((outcomes - values) ** 2),
        policy=-jnp.mean(jnp.sum(policies * jax.nn.log_softmax(logits), axis=-1)),
    )
    return parts.value + parts.policy, parts


def greedy(config: Config, rules: Rules, importance: Array, variables: Any) -> Array:
    """Algorithm 3, line 10: prunes the dense network by the policy's first choices, without search.

    Returns:
        The finished state, uint8 `[N]`.
    """

    def remove(mask: Array) -> Array:
        logits, _ = policy_value(config, rules, importance, variables, mask[None])
        return filterwise.step(rules, mask, logits[0].argmax()).mask

    return jax.lax.while_loop(
        lambda mask: ~filterwise.finished(rules, mask), remove, filterwise.reset(rules)
    )


@functools.partial(jax.jit, static_argnames=("config", "rules"))
def learn(
    config: Config,
    rules: Rules,
    importance: Array,
    variables: Any,
    optimizer: optax.OptState,
    queue: Queue,
    outcomes: Array,
    key: Array,
) -> tuple[Any, optax.OptState, Queue, Losses, Array]:
    """Lines 9 and 10 of Algorithm 3: RLTrain on the queue, then greedy pruning.

    Args:
        config: the agent's settings.
        rules: the rules of the game.
        importance: float32 `[N]`.
        variables: the network's parameters.
        optimizer: AdamW's state.
        queue: the positions, those of this round still open.
        outcomes: the outcomes of this round's games, `[games]`.
        key: consumed.

    Returns:
        The new parameters, optimizer state and queue, the mean losses and the greedy mask.
    """
    queue = queues.settle(queue, outcomes)
    differentiate = jax.grad(functools.partial(loss, config, rules, importance), has_aux=True)

    def train(carry: tuple[Any, optax.OptState], key: Array) -> tuple[Any, Losses]:
        variables, optimizer = carry
        gradient, losses = differentiate(variables, queues.sample(queue, key, config.batch_size))
        changes, optimizer = _optimizer(config).update(gradient, optimizer, variables)
        return (optax.apply_updates(variables, changes), optimizer), losses

    (variables, optimizer), losses = jax.lax.scan(
        train, (variables, optimizer), jax.random.split(key, config.learning_steps)
    )
    mean_losses = jax.tree.map(jnp.mean, losses)
    return variables, optimizer, queue, mean_losses, greedy(config, rules, importance, variables)


def init(config: Config, problem: Problem, key: Array) -> State:
    """The state before the first round: an untrained network and the magnitude baselines.

    Args:
        config: the agent's settings.
        problem: what to prune and to which budget.
        key: PRNG key, uint32 `[2]`.

    Returns:
        The state, with uniform and global magnitude pruning in the archive and b set from them
        unless the configuration gives it.

    Raises:
        ValueError: the budget cannot be met even at the least allowed widths.
    """
    rules, _ = game(config, problem)
    magnitude = jnp.stack([uniform_l1(problem), global_l1(problem)])
    archive = candidates.extend(
        candidates.empty(problem.structure.num_channels), problem, magnitude
    )
    better = int(np.argmax(archive.accuracy))
    baseline = archive.accuracy[better] if config.baseline is None else config.baseline

    key, network_key = jax.random.split(key)
    variables = initial_variables(_network(config), rules.num_filters, network_key)
    return State(
        key=key,
        variables=variables,
        optimizer=jax.jit(_optimizer(config).init)(variables),
        queue=queues.empty(config.queue_length, rules.num_filters),
        memory=memories.empty(rules.num_filters),
        baseline=np.float32(baseline),
        greedy_mask=magnitude[better],
        stop_counter=np.int32(0),
        iteration=np.int32(0),
        episodes=np.int32(0),
        archive=archive,
    )


def finished(config: Config, state: State) -> bool:
    """Whether the search has reached its patience or its number of rounds."""
    return int(state.stop_counter) >= config.patience or int(state.iteration) >= config.iterations


def raise_baseline(state: State, mask: Array, accuracy: float) -> State:
    """Lines 11 to 16 of Algorithm 3: the rising baseline and the stop counter.

    Args:
        state: the state.
        mask: the greedily pruned network, `[N]`.
        accuracy: its training accuracy; -1 if it breaks the budget.

    Returns:
        The state with b, the network it belongs to and the stop counter renewed.
    """
    better = bool(accuracy > state.baseline)
    return state._replace(
        baseline=np.float32(accuracy) if better else state.baseline,
        greedy_mask=mask if better else state.greedy_mask,
        stop_counter=np.int32(0 if better else state.stop_counter + 1),
    )


def update(config: Config, problem: Problem, state: State) -> tuple[State, dict[str, Any]]:
    """One round of Algorithm 3: self-play, learning, greedy pruning.

    Args:
        config: the agent's settings.
        problem: what to prune and to which budget.
        state: the state after the previous round.

    Returns:
        The next state, which is a function of the arguments alone, and metrics: `iteration`,
        `episodes`, `candidates`, `best_accuracy` (validation, of the best feasible candidate),
        `baseline` (b), `stop_counter`, `wins` (fraction of games won), `greedy_accuracy` (train),
        `value_loss`, `policy_loss`, `entropy` (of the improved policies, nats),
        `simulations` and `visits` (how many of them began with a filter of each group, a list).
    """
    rules, importance = game(config, problem)
    key, play_key, learn_key = jax.random.split(jnp.asarray(state.key), 3)

    settings = _within_a_round(config, problem)
    chunk = min(config.evaluation_batch, config.games)
    evaluate = separated(problem.evaluate, (chunk, problem.structure.num_channels))
    played = self_play(
        settings,
        rules,
        *evaluate,
        importance,
        state.variables,
        state.queue,
        state.memory,
        state.baseline,
        play_key,
    )
    archive = candidates.extend(state.archive, problem, filterwise.filters(rules, played.masks))
    outcomes = tree.outcome(
        archive.accuracy[-config.games :],
        state.baseline,
        archive.cost[-config.games :] <= problem.budget,
    )
    variables, optimizer, queue, losses, greedy_state = learn(
        settings,
        rules,
        importance,
        state.variables,
        state.optimizer,
        played.queue,
        outcomes,
        learn_key,
    )
    if settings.terminal == "evaluate":
        archive = candidates.extend(archive, problem, filterwise.filters(rules, played.found))
    greedy_mask = filterwise.filters(rules, greedy_state)
    archive = candidates.extend(archive, problem, greedy_mask[None])
    greedy_accuracy = archive.accuracy[-1] if archive.cost[-1] <= problem.budget else -1.0

    state = raise_baseline(state, greedy_mask, greedy_accuracy)._replace(
        key=key,
        variables=variables,
        optimizer=optimizer,
        queue=queue,
        memory=played.memory,
        iteration=np.int32(state.iteration + 1),
        episodes=np.int32(state.episodes + config.games),
        archive=archive,
    )
    visits = np.bincount(rules.group_index, np.asarray(played.visits))
    return state, {
        "iteration": int(state.iteration),
        "episodes": int(state.episodes),
        "candidates": len(archive.cost),
        "best_accuracy": candidates.best_validation(archive, problem.budget),
        "baseline": float(state.baseline),
        "stop_counter": int(state.stop_counter),
        "wins": float((np.asarray(outcomes) > 0).mean()),
        "greedy_accuracy": float(greedy_accuracy),
        "value_loss": float(losses.value),
        "policy_loss": float(losses.policy),
        "entropy": float(played.entropy),
        "simulations": int(played.moves) * config.simulations,
        "visits": visits.astype(int).tolist(),
    }


def search(
    config: Config,
    problem: Problem,
    key: Array,
    *,
    state: State | None = None,
    progress: Callable[[State, dict[str, Any]], None] | None = None,
) -> SearchResult:
    """Prunes by MCTS: rounds of self-play, learning and greedy pruning (Algorithm 3).

    Args:
        config: the agent's settings.
        problem: what to prune and to which budget.
        key: PRNG key, uint32 `[2]`; unused when a state is given, which carries its own.
        state: where to go on; by default the beginning. A resumed search ends bit for bit like an
            uninterrupted one, unless a time limit cuts it.
        progress: called with the state and the metrics after each round.

    Returns:
        The best feasible candidate by validation accuracy, all candidates, and the state.

    Raises:
        ValueError: the budget cannot be met even at the least allowed widths.
    """
    state = rounds.play(
        functools.partial(update, config, problem),
        functools.partial(finished, config),
        init(config, problem, key) if state is None else state,
        progress=progress,
        seconds=config.seconds,
    )
    mask = state.archive.masks[best(state.archive, problem.budget)]
    return SearchResult(mask, state.archive, episodes=int(state.episodes), state=state)
