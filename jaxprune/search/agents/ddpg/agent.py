"""The DDPG agent: one ratio for each layer, learnt from what is left of accuracy and cost.

The agent of three published methods, which differ in settings alone (`agents.acnn`, `amc`
and `cacp`). One `update` is one round:

1. **Episodes** (`rollout.py`): `episodes` networks are pruned layer by layer with exploration, all
   at once, and one without. The channels with the least importance (L1 norm) go.
2. **Rewards** (`rewards.py`): of all networks in one batch. ACNN pays after every layer, so that
   its batch holds the network after each step of each episode; AMC pays what the finished network
   earns for every step.
3. **Learning** (`replay.py`, `learning.py`): the steps go to the replay buffer, and after the
   warm-up actor and critic learn from minibatches of it.

Besides keeping what it found, a round is a single compiled call. Where the problem has a faster way
to score networks from the host (`Problem.host`), it is one for the episodes and one for the
learning, with the scoring in between.

Departures from the papers, this project's own:

- They play one episode at a time; here a round plays several with the same actor, each with the
  exploration of its own number.
- The answer is the best network within the budget that was ever evaluated: of each round the
  `validated` best by training accuracy are scored on the validation split, and the highest of these
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

from jaxprune import costs
from jaxprune.costs import within_groups
from jaxprune.dependency import Structure
from jaxprune.errors import UserError
from jaxprune.optim import sparsity
from jaxprune.scoring.evaluation import Scores, separated
from jaxprune.search import rounds
from jaxprune.search.agents.ddpg import exploration, learning, replay, rewards
from jaxprune.search.agents.ddpg.config import Config
from jaxprune.search.agents.ddpg.learning import Learner, Losses
from jaxprune.search.agents.ddpg.replay import Replay, Transitions
from jaxprune.search.agents.ddpg.rollout import Episodes, most_removed, rollout
from jaxprune.search.baselines import candidates
from jaxprune.search.baselines.magnitude import global_l1, uniform_l1
from jaxprune.search.envs.observations import ENTRIES
from jaxprune.search.problem import Archive, Host, Problem, SearchResult, best, traced_costs


class State(NamedTuple):
    """Everything a search needs to go on, as arrays.

    Attributes:
        key: PRNG key for what is still to come, uint32 `[2]`.
        learner: actor, critic, their targets and optimizers.
        replay: the steps to learn from.
        iteration: rounds played, int32 `[]`.
        episodes: networks pruned with exploration, int32 `[]`.
        archive: all finished networks.
    """

    key: Array
    learner: Learner
    replay: Replay
    iteration: np.int32
    episodes: np.int32
    archive: Archive


class Outcome(NamedTuple):
    """How the networks of a round do; finished ones are K + 1.

    Attributes:
        rewards: of each step, float32 `[K + 1, T]`.
        costs: of the finished networks, float32 `[K + 1, m]`, fractions of the dense costs.
        train: scores of the finished networks on the batch of the training split.
        validation: float32 `[K + 1]`, accuracy on the validation split, NaN where not looked at.
    """

    rewards: Array
    costs: Array
    train: Scores
    validation: Array


class Learning(NamedTuple):
    """What a round of learning saw and did, float32 `[]` each.

    Attributes:
        losses: 0 while nothing is learnt.
        sigma: the deviation of the last episode's exploration.
        sparsity: zeros among the weights of actor and critic, as a part of them.
    """

    losses: Losses
    sigma: Array
    sparsity: Array


class Binding(NamedTuple):
    """What a problem is to a compiled round: hashable, the same for the same problem.

    Attributes:
        structure: the network's groups.
        costs: flat mask `[N]` -> each limited cost `[]`.
        evaluate: (constants, masks) -> scores on the batch of the training split, of finished
            networks `[K + 1, N]`, or after each step `[K + 1, T, N]` where steps are paid for.
            None where the host evaluates.
        validate: the same of the validation split.
    """

    structure: Structure
    costs: tuple[Callable[[Array], Array], ...]
    evaluate: Callable[..., Scores] | None
    validate: Callable[..., Scores] | None


class Inputs(NamedTuple):
    """The arrays that go with a `Binding`.

    Attributes:
        constants: of evaluate and of validate.
        rank: int32 `[N]`, the order of the channels within their groups.
        most: int32 `[T]`, how many channels each group may lose.
        limits: float32 `[m]`, one for each cost.
        budget: float32 `[]`, the limit of the combined cost.
        dense: float32 `[]`, the dense network's accuracy on the batch of the training split; NaN
            where steps are not paid for.
    """

    constants: tuple[list[Array], list[Array]]
    rank: Array
    most: Array
    limits: Array
    budget: Array
    dense: Array


def _combined(binding: Binding, limits: Array) -> Callable[[Array], Array]:
    """`Problem.cost`, inside jit."""

    def cost(mask: Array) -> Array:
        parts = jnp.stack([one(mask) for one in binding.costs])
        return parts[0] if len(binding.costs) == 1 else (parts / limits).max()

    return cost


def _paid(config: Config, episodes: Episodes) -> Array:
    """The masks that rewards are paid for: after each step, `[K + 1, T, N]`, or `[K + 1, N]`."""
    return episodes.values if config.reward == "balance" else episodes.values[:, -1]


def _assess(
    config: Config, binding: Binding, inputs: Inputs, episodes: Episodes, scores: Scores
) -> Array:
    """The rewards of all steps, `[K + 1, T]`; `scores` are those of what `_paid` says."""
    cost = _combined(binding, inputs.limits)
    count, steps, width = episodes.values.shape
    if config.reward == "balance":
        expenses = jax.vmap(cost)(episodes.values.reshape(-1, width)).reshape(count, steps)
        return rewards.balance(
            config, scores.accuracy, inputs.dense, expenses, episodes.limits[:, None]
        )
    counted = costs.params if config.reward == "error_log_params" else costs.macs
    left = jax.vmap(lambda mask: counted(binding.structure, binding.structure.unflatten(mask)))
    earned = rewards.error(config, scores.accuracy, left(episodes.values[:, -1]))
    return jnp.repeat(earned[:, None], steps, axis=1)


def _transitions(episodes: Episodes, earned: Array) -> Transitions:
    """The steps of the episodes that explored, `[K T, ...]`."""
    continues = jnp.ones_like(earned).at[:, -1].set(0)
    steps = Transitions(
        observations=episodes.observations[:, :-1],
        actions=episodes.actions,
        rewards=earned,
        following=episodes.observations[:, 1:],
        continues=continues,
    )
    return jax.tree.map(lambda leaf: leaf[:-1].reshape(-1, *leaf.shape[2:]), steps)


def _play(
    config: Config, binding: Binding, inputs: Inputs, learner: Learner, played: Array, key: Array
) -> tuple[Episodes, Array]:
    """The episodes of a round, and the costs of the finished networks, `[K + 1, m]`."""
    draw_key, play_key, _ = jax.random.split(key, 3)
    aims = jnp.append(inputs.budget, jnp.asarray(config.targets, jnp.float32))
    drawn = aims[jax.random.randint(draw_key, (config.episodes,), 0, len(aims))]
    episodes = rollout(
        config,
        binding.structure,
        _combined(binding, inputs.limits),
        learner.networks.actor,
        inputs.rank,
        inputs.most,
        jnp.append(drawn, inputs.budget),
        played,
        play_key,
    )
    finished = episodes.values[:, -1]
    return episodes, jnp.stack([jax.vmap(cost)(finished) for cost in binding.costs], axis=-1)


def _learn(
    config: Config,
    binding: Binding,
    inputs: Inputs,
    learner: Learner,
    buffer: Replay,
    played: Array,
    key: Array,
    episodes: Episodes,
    scores: Scores,
) -> tuple[Learner, Replay, Learning, Array]:
    """What is learnt from a round, and its rewards, `[K + 1, T]`."""
    _, _, learn_key = jax.random.split(key, 3)
    earned = _assess(config, binding, inputs, episodes, scores)
    buffer = replay.add(buffer, _transitions(episodes, earned))
    count = config.updates or config.episodes * episodes.actions.shape[1]

    def learn(learner: Learner) -> tuple[Learner, Losses]:
        batches = replay.minibatches(buffer, count, config.batch, learn_key)
        return learning.learn(config, learner, batches)

    def wait(learner: Learner) -> tuple[Learner, Losses]:
        return learner, Losses(jnp.float32(0), jnp.float32(0))

    ready = played + config.episodes > config.warmup
    learner, losses = jax.lax.cond(ready, learn, wait, learner)
    learnt = Learning(
        losses=losses,
        sigma=exploration.sigma(config, played + config.episodes - 1),
        sparsity=sparsity(learner.networks).fraction,
    )
    return learner, buffer, learnt, earned


def _finished(config: Config, scores: Scores) -> Scores:
    """The scores of the finished networks, of those of what `_paid` says."""
    return Scores(*(leaf[:, -1] for leaf in scores)) if config.reward == "balance" else scores


def _to_validate(config: Config, train: Scores, feasible: Array) -> Array:
    """The networks of a round that are scored on the validation split."""
    order = candidates.by_training(train, feasible)
    return order[: min(config.validated, len(order))]


@functools.partial(jax.jit, static_argnames=("config", "binding"))
def _round(
    config: Config,
    binding: Binding,
    inputs: Inputs,
    learner: Learner,
    buffer: Replay,
    played: Array,
    key: Array,
) -> tuple[Learner, Replay, Learning, Episodes, Outcome]:
    """A whole round in one call."""
    assert binding.evaluate is not None
    assert binding.validate is not None
    episodes, expenses = _play(config, binding, inputs, learner, played, key)
    scores = binding.evaluate(inputs.constants[0], _paid(config, episodes))
    train, finished = _finished(config, scores), episodes.values[:, -1]
    chosen = _to_validate(config, train, (expenses <= inputs.limits).all(-1))
    accuracy = binding.validate(inputs.constants[1], finished[chosen]).accuracy
    validation = jnp.full(len(finished), jnp.nan).at[chosen].set(accuracy)
    learner, buffer, learnt, earned = _learn(
        config, binding, inputs, learner, buffer, played, key, episodes, scores
    )
    outcome = Outcome(earned, expenses, train, validation)
    return learner, buffer, learnt, episodes, outcome


_compiled_play = jax.jit(_play, static_argnames=("config", "binding"))
_compiled_learn = jax.jit(_learn, static_argnames=("config", "binding"))


def _round_by_host(
    host: Host,
    config: Config,
    binding: Binding,
    inputs: Inputs,
    learner: Learner,
    buffer: Replay,
    played: Array,
    key: Array,
) -> tuple[Learner, Replay, Learning, Episodes, Outcome]:
    """The same as `_round`, scored from the host."""
    episodes, expenses = jax.device_get(
        _compiled_play(config, binding, inputs, learner, played, key)
    )
    scores = host.evaluate(_paid(config, episodes))
    learner, buffer, learnt, earned = _compiled_learn(
        config, binding, inputs, learner, buffer, played, key, episodes, scores
    )
    train, finished = _finished(config, scores), episodes.values[:, -1]
    chosen = _to_validate(config, train, (expenses <= np.asarray(inputs.limits)).all(-1))
    validation = np.full(len(finished), np.nan, np.float32)
    validation[chosen] = host.validate(finished[chosen]).accuracy
    outcome = Outcome(earned, expenses, train, jnp.asarray(validation))
    return learner, buffer, learnt, episodes, outcome


def init(config: Config, problem: Problem, key: Array) -> State:
    """The state before the first round.

    Args:
        config: the agent's settings.
        problem: what to prune and to which budget.
        key: PRNG key, uint32 `[2]`.

    Raises:
        UserError: a cost has to be measured.
    """
    if not problem.traceable:
        raise UserError(
            "this agent asks for the cost of a mask inside a compiled search, and cannot measure "
            "it; use another method, such as crl, magnitude or random"
        )
    key, learner_key = jax.random.split(key)
    size = len(ENTRIES[config.observation])
    steps = (config.replay or config.episodes) * len(problem.structure.groups)
    return State(
        key=key,
        learner=learning.init(config, learner_key, size),
        replay=replay.empty(steps, size),
        iteration=np.int32(0),
        episodes=np.int32(0),
        archive=candidates.empty(problem.structure.num_channels),
    )


def finished(config: Config, state: State) -> bool:
    """Whether all rounds were played."""
    return int(state.iteration) >= config.iterations


class _ByIdentity:
    """A problem as the key of a cache: equal to those that consist of the same objects."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def __hash__(self) -> int:
        return hash(tuple(map(id, self.problem)))

    def __eq__(self, other: object) -> bool:
        pairs = zip(self.problem, other.problem, strict=True) if type(other) is type(self) else ()
        return type(other) is type(self) and all(a is b for a, b in pairs)


@functools.lru_cache(maxsize=2)
def _bind(config: Config, of: _ByIdentity) -> tuple[Binding, Inputs]:
    """The same for every round of a search."""
    problem = of.problem
    structure = problem.structure
    sizes = tuple(group.size for group in structure.groups)
    networks, channels = config.episodes + 1, structure.num_channels
    stepwise = config.reward == "balance"
    functions: tuple[Any, Any] = (None, None)
    constants: tuple[list[Array], list[Array]] = ([], [])
    if problem.host is None:
        steps = _each_step(problem.evaluate, problem.evaluate_steps)
        evaluate = (
            separated(steps, (networks, len(sizes), channels))
            if stepwise
            else separated(problem.evaluate, (networks, channels))
        )
        validate = separated(problem.validate, (min(config.validated, networks), channels))
        functions = evaluate.function, validate.function
        constants = evaluate.constants, validate.constants
    score = problem.host.evaluate if problem.host else problem.evaluate
    inputs = Inputs(
        constants=constants,
        rank=within_groups.rank(sizes, jnp.asarray(problem.importance)),
        most=most_removed(config, problem),
        limits=jnp.asarray(problem.limits),
        budget=jnp.float32(problem.budget),
        dense=jnp.asarray(score(jnp.ones((1, channels))).accuracy[0])
        if stepwise
        else jnp.float32(jnp.nan),
    )
    return Binding(structure, traced_costs(problem), *functions), inputs


@functools.lru_cache(maxsize=8)
def _each_step(
    evaluate: Callable[[Array], Scores], evaluate_steps: Callable[[Array], Scores] | None
) -> Callable[[Array], Scores]:
    """Masks `[K, T, N]` -> scores `[K, T]`; the same function for the same problem."""

    def one_by_one(masks: Array) -> Scores:
        scores = evaluate(masks.reshape(-1, masks.shape[-1]))
        return Scores(*(leaf.reshape(masks.shape[:2]) for leaf in scores))

    return evaluate_steps or one_by_one


def update(config: Config, problem: Problem, state: State) -> tuple[State, dict[str, Any]]:
    """One round: episodes, rewards, learning.

    Args:
        config: the agent's settings.
        problem: what to prune and to which budget.
        state: the state after the previous round.

    Returns:
        The next state, which is a function of the arguments alone, and metrics: `iteration`,
        `episodes`, `candidates`, `best_accuracy` (validation, of the best feasible network; 0 if
        there is none yet), `feasible` (part of the round's networks), `reward` (mean of what an
        episode earns in all), `cost` (means of the round's networks, as fractions of the dense
        costs), `limit`, `action` (mean part that was removed of each layer), `sigma` (deviation of
        the last episode's exploration), `actor_loss`, `critic_loss` (0 while nothing is learnt),
        `sparsity` (zeros among the weights of actor and critic) and `replay` (how full the replay
        buffer is, in [0, 1]). Costs and limits are lists with an entry for each budget. Means are
        of the episodes that explored.

    Raises:
        UserError: a reward is not finite.
        ValueError: the budget or a target cannot be met even with one channel in each group.
    """
    settings = config.within_a_round()
    binding, inputs = _bind(settings, _ByIdentity(problem))
    key, round_key = jax.random.split(jnp.asarray(state.key))
    play = functools.partial(_round_by_host, problem.host) if problem.host else _round
    learner, buffer, learnt, episodes, outcome = play(
        settings,
        binding,
        inputs,
        state.learner,
        state.replay,
        jnp.int32(state.episodes),
        round_key,
    )
    if not np.isfinite(np.asarray(outcome.rewards)).all():
        raise UserError(
            f"a reward of round {int(state.iteration) + 1} is not finite: the network does not "
            "compute finite numbers under a mask"
        )
    masks = episodes.values[:, -1]
    state = State(
        key=key,
        learner=learner,
        replay=buffer,
        iteration=np.int32(state.iteration + 1),
        episodes=np.int32(state.episodes + config.episodes),
        archive=candidates.append(
            state.archive, problem, masks, outcome.costs, outcome.train, outcome.validation
        ),
    )
    return state, _metrics(problem, state, learnt, episodes, outcome)


def _metrics(
    problem: Problem, state: State, learnt: Learning, episodes: Episodes, outcome: Outcome
) -> dict[str, Any]:
    spent = np.asarray(outcome.costs)[:-1]
    archive = state.archive
    found = (archive.cost <= problem.budget).any()
    return {
        "iteration": int(state.iteration),
        "episodes": int(state.episodes),
        "candidates": len(archive.cost),
        "best_accuracy": candidates.best_validation(archive, problem.budget) if found else 0.0,
        "feasible": float((spent <= problem.limits).all(-1).mean()),
        "reward": float(np.asarray(outcome.rewards)[:-1].sum(1).mean()),
        "cost": spent.mean(0).tolist(),
        "limit": problem.limits.tolist(),
        "action": np.asarray(episodes.ratios)[:-1].mean(0).tolist(),
        "sigma": float(learnt.sigma),
        "actor_loss": float(learnt.losses.actor),
        "critic_loss": float(learnt.losses.critic),
        "sparsity": float(learnt.sparsity),
        "replay": replay.filled(state.replay),
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
        ValueError: the budget or a target cannot be met even with one channel in each group.
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
