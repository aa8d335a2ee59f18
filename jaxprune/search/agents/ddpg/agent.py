"""The DDPG agent: one ratio for each layer, learnt from what is left of accuracy and cost.

The agent of three published methods, which differ in their settings alone (`agents.acnn`, `amc` and
`cacp`). One `update` is one round:

1. **Episodes** (`episodes.py`): `episodes` networks are pruned layer by layer with exploration, all
   at once, and one without. The channels with the least importance (L1 norm) go.
2. **Scores** of all these networks in one batch. ACNN pays after every layer, so its batch holds
   the network after each step of each episode; AMC pays every step what the finished network earns.
3. **Learning** (`replay.py`, `losses.py`, `learning.py`): the steps go to the replay buffer, and
   after the warm-up actor and critic learn from mini-batches of it.

The episodes are one compiled call and the learning is another; nothing is compiled after the first
round.

Departures from the papers, this project's own:

- They play one episode at a time; here a round plays several with the same actor, each with the
  exploration of its own number.
- The answer is the best network within the budget that was ever evaluated: of each round the
  `validated` best by training accuracy are scored on the validation split, and the best of these
  wins. If no episode met the budget, magnitude pruning does.
- A layer is a group of channels that go together, and what is removed is what it produces. AMC's
  code decides on a layer's inputs, reconstructs features by least squares and keeps multiples of
  eight channels; here the weights stay as they are.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.costs import within_groups
from jaxprune.costs.limits import Allowed
from jaxprune.dependency import Structure
from jaxprune.errors import UserError
from jaxprune.optim import sparsity
from jaxprune.scoring.evaluation import Scores
from jaxprune.search import rounds
from jaxprune.search.agents.ddpg import episodes, learning, replay
from jaxprune.search.agents.ddpg.config import Config
from jaxprune.search.agents.ddpg.episodes import Episodes
from jaxprune.search.agents.ddpg.learning import Learner, Losses
from jaxprune.search.agents.ddpg.replay import Replay, Transitions
from jaxprune.search.baselines import candidates
from jaxprune.search.baselines.magnitude import global_l1, uniform_l1
from jaxprune.search.envs.observations import ENTRIES
from jaxprune.search.problem import Archive, Problem, SearchResult, best


class State(NamedTuple):
    """Everything a search needs to go on, as arrays.

    Attributes:
        key: PRNG key for what is still to come, uint32 `[2]`.
        learner: actor, critic, their target networks and optimizers.
        replay: the steps to learn from.
        most: how many channels each group may lose, int32 `[T]`.
        dense: the dense network's accuracy on the batch of the training split, float32 `[]`.
        iteration: rounds played, int32 `[]`.
        episodes: networks pruned with exploration, int32 `[]`.
        archive: all finished networks.
    """

    key: Array
    learner: Learner
    replay: Replay
    most: Array
    dense: Array
    iteration: np.int32
    episodes: np.int32
    archive: Archive


@functools.partial(jax.jit, static_argnames=("config", "structure", "allowed", "cost"))
def _play(
    config: Config,
    structure: Structure,
    allowed: Allowed,
    cost: Callable[[Array], Array],
    actor: Any,
    rank: Array,
    most: Array,
    budget: Array,
    first: Array,
    keys: tuple[Array, Array],
) -> Episodes:
    """The episodes of a round, each for the budget or for one of the targets."""
    draw_key, play_key = keys
    aims = jnp.append(budget, jnp.asarray(config.targets, jnp.float32))
    drawn = aims[jax.random.randint(draw_key, (config.episodes,), 0, len(aims))]
    limits = jnp.append(drawn, budget)
    return episodes.rollout(
        config, structure, allowed, cost, actor, rank, most, limits, first, play_key
    )


@functools.partial(jax.jit, static_argnames=("config", "structure", "cost"))
def _learn(
    config: Config,
    structure: Structure,
    cost: Callable[[Array], Array],
    learner: Learner,
    buffer: Replay,
    played: Episodes,
    accuracy: Array,
    dense: Array,
    first: Array,
    key: Array,
) -> tuple[Learner, Replay, Array, dict[str, Array]]:
    """What is learnt from a round, the rewards of its steps `[K + 1, T]`, and metrics."""
    earned = episodes.rewards(config, structure, cost, played, accuracy, dense)
    buffer = replay.add(buffer, _transitions(played, earned))
    count = config.updates or config.episodes * earned.shape[1]

    def learn(learner: Learner) -> tuple[Learner, Losses]:
        batches = replay.minibatches(buffer, count, config.batch, key)
        return learning.learn(config, learner, batches)

    def wait(learner: Learner) -> tuple[Learner, Losses]:
        return learner, Losses(jnp.float32(0), jnp.float32(0))

    ready = first + config.episodes > config.warmup
    learner, losses = jax.lax.cond(ready, learn, wait, learner)
    metrics = {
        "sigma": episodes.sigma(config, first + config.episodes - 1),
        "actor_loss": losses.actor,
        "critic_loss": losses.critic,
        "sparsity": sparsity(learner.networks).fraction,
    }
    return learner, buffer, earned, metrics


def _transitions(played: Episodes, earned: Array) -> Transitions:
    """The steps of the episodes that explored, `[K T, ...]`."""
    steps = Transitions(
        observations=played.observations[:, :-1],
        actions=played.actions,
        rewards=earned,
        following=played.observations[:, 1:],
        continues=jnp.ones_like(earned).at[:, -1].set(0),
    )
    return jax.tree.map(lambda leaf: leaf[:-1].reshape(-1, *leaf.shape[2:]), steps)


def _evaluate(problem: Problem, masks: Array) -> Scores:
    """Scores on the batch of the training split: masks `[K, N]` or `[K, T, N]`."""
    if problem.host is not None:
        return problem.host.evaluate(masks)
    if masks.ndim == 3 and problem.evaluate_steps is not None:
        return problem.evaluate_steps(masks)
    scores = problem.evaluate(masks.reshape(-1, masks.shape[-1]))
    return Scores(*(leaf.reshape(masks.shape[:-1]) for leaf in scores))


def init(config: Config, problem: Problem, key: Array) -> State:
    """The state before the first round.

    Args:
        config: the agent's settings.
        problem: what to prune and to which budget.
        key: PRNG key, uint32 `[2]`.

    Raises:
        UserError: a cost has to be measured.
        ValueError: the budget or a target cannot be met even at the least allowed widths.
    """
    if not problem.traceable:
        raise UserError(
            "this agent asks for the cost of a mask inside a compiled search, and cannot measure "
            "it; use another method, such as crl, magnitude or random"
        )
    key, learner_key = jax.random.split(key)
    size, channels = len(ENTRIES[config.observation]), problem.structure.num_channels
    steps = (config.replay or config.episodes) * len(problem.structure.groups)
    dense = jnp.float32(jnp.nan)  # only ACNN's reward is relative to it
    if config.reward == "balance":
        dense = _evaluate(problem, jnp.ones((1, channels))).accuracy[0]
    return State(
        key=key,
        learner=learning.init(config, learner_key, size),
        replay=replay.empty(steps, size),
        most=episodes.most_removed(config, problem),
        dense=jnp.asarray(dense),
        iteration=np.int32(0),
        episodes=np.int32(0),
        archive=candidates.empty(channels),
    )


def finished(config: Config, state: State) -> bool:
    """Whether all rounds were played."""
    return int(state.iteration) >= config.iterations


def update(config: Config, problem: Problem, state: State) -> tuple[State, dict[str, Any]]:
    """One round: episodes, scores, learning.

    Args:
        config: the agent's settings.
        problem: what to prune and to which budget.
        state: the state after the previous round.

    Returns:
        The next state, which is a function of the arguments alone, and metrics: `iteration`,
        `episodes`, `candidates`, `best_accuracy` (validation, of the best feasible network; 0 if
        there is none yet), `feasible` (fraction of the round's networks), `reward` (mean of what an
        episode earns in all), `cost` (means of the round's networks, as fractions of the dense
        costs), `limit`, `action` (mean fraction that was removed of each layer), `sigma` (of the
        last episode's exploration), `actor_loss`, `critic_loss` (0 while nothing is learnt),
        `sparsity` (zeros among the weights of actor and critic) and `replay` (how full the replay
        buffer is, in [0, 1]). Costs and limits are lists with an entry for each budget. Means are
        over the episodes that explored.

    Raises:
        UserError: a reward is not finite.
    """
    structure = problem.structure
    sizes = tuple(group.size for group in structure.groups)
    rank = within_groups.rank(sizes, jnp.asarray(problem.importance))
    key, round_key = jax.random.split(jnp.asarray(state.key))
    draw_key, play_key, learn_key = jax.random.split(round_key, 3)
    settings = config.within_a_round()
    first = jnp.int32(state.episodes)
    played = _play(
        settings,
        structure,
        problem.allowed,
        problem.cost,
        state.learner.networks.actor,
        rank,
        state.most,
        jnp.float32(problem.budget),
        first,
        (draw_key, play_key),
    )
    scores = _evaluate(problem, episodes.paid(config, played))
    learner, buffer, earned, learnt = _learn(
        settings,
        structure,
        problem.cost,
        state.learner,
        state.replay,
        played,
        scores.accuracy,
        state.dense,
        first,
        learn_key,
    )
    earned = np.asarray(earned)
    if not np.isfinite(earned).all():
        raise UserError(
            f"a reward of round {int(state.iteration) + 1} is not finite: the network does not "
            "compute finite numbers under a mask"
        )
    masks = played.values[:, -1]
    train = Scores(*(leaf[:, -1] for leaf in scores)) if scores.loss.ndim == 2 else scores
    spent = candidates.costs(problem, masks)
    within = np.all(spent <= problem.limits, axis=-1)
    validation = candidates.validate_best(
        (problem.host or problem).validate,
        masks,
        train,
        within,
        config.validated,
    )
    archive = candidates.append(state.archive, problem, masks, spent, train, validation)
    state = state._replace(
        key=key,
        learner=learner,
        replay=buffer,
        iteration=np.int32(state.iteration + 1),
        episodes=np.int32(state.episodes + config.episodes),
        archive=archive,
    )
    found = (archive.cost <= problem.budget).any()
    return state, {
        "iteration": int(state.iteration),
        "episodes": int(state.episodes),
        "candidates": len(archive.cost),
        "best_accuracy": candidates.best_validation(archive, problem.budget) if found else 0.0,
        "feasible": float(within[:-1].mean()),
        "reward": float(earned[:-1].sum(1).mean()),
        "cost": spent[:-1].mean(0).tolist(),
        "limit": problem.limits.tolist(),
        "action": np.asarray(played.ratios)[:-1].mean(0).tolist(),
        "replay": replay.filled(buffer),
        **{name: float(value) for name, value in learnt.items()},
    }


def search(
    config: Config,
    problem: Problem,
    key: Array,
    *,
    state: State | None = None,
    progress: Callable[[State, dict[str, Any]], None] | None = None,
) -> SearchResult:
    """Prunes by DDPG.

    Args:
        config: the agent's settings.
        problem: what to prune and to which budget.
        key: PRNG key, uint32 `[2]`; unused when a state is given, which carries its own.
        state: where to go on; by default the beginning. A resumed search ends bit for bit like an
            uninterrupted one, unless a time limit cuts it.
        progress: called with the state and the metrics after each round.

    Returns:
        The best network within the budget by validation accuracy, all candidates and the state. If
        no episode met the budget, the better magnitude pruning, which does.

    Raises:
        UserError: a reward is not finite, or a cost has to be measured.
        ValueError: the budget or a target cannot be met even at the least allowed widths.
    """
    state = rounds.play(
        functools.partial(update, config, problem),
        functools.partial(finished, config),
        init(config, problem, key) if state is None else state,
        progress=progress,
        seconds=config.seconds,
    )
    archive = state.archive
    if not (archive.cost <= problem.budget).any():
        magnitude = jnp.stack([uniform_l1(problem), global_l1(problem)])
        archive = candidates.extend(archive, problem, magnitude)
    mask = archive.masks[best(archive, problem.budget)]
    return SearchResult(mask, archive, int(state.episodes), state)
