"""The CRL agent: prune layer by layer, learn from what the network lost and what it still costs.

After "Neural Network Pruning through Constrained Reinforcement Learning" (Malik, Haider, Iqbal and
Taj) and the thesis behind it (Malik, LUMS 2021). One `update` is one round:

1. **Episodes**: `episodes` networks are pruned layer by layer (`envs.layerwise`), one action of the
   policy for each layer, all at once.
2. **Reward and cost** of the finished networks, in one batch: the reward is the accuracy (or minus
   the loss) on images of the training split, after as many steps of fine-tuning as the schedule has
   for this part of the search; the costs are what the budgets limit, of the binary masks, as
   fractions of the dense network's. Both are paid at the last step.
3. **Learning** (`learning.py`): the multipliers follow the violations, then the policy and the
   critics take the steps of PPO.

What the papers leave open, and departures from them, this project's own:

- An untrained policy prunes every layer by about what uniform pruning takes to meet the budgets.
  From 0.5 a tight budget is out of its reach for many rounds, in which the multiplier winds up.
- Beside the episodes, each round finishes one network by the policy's mean actions, and the same
  with all actions scaled so that the budgets are just met. With an untrained policy, this is
  uniform magnitude pruning, but for rounding.
- The answer is the best network within the budgets that was ever evaluated: of each round the
  `validated` best by training accuracy are scored on the validation split, and the highest of these
  wins. The papers take what the last policy gives, which may break its budget.
- A round is `episodes` whole episodes, and the schedule and the ratio's clip (eq. 5.1) follow the
  rounds; the thesis counts timesteps. 40,000 timesteps are `iterations * episodes * layers`.
- The images that rewards are computed on stay the same, so that rewards can be compared.
- The multipliers follow the costs as parts of their limits, not of the dense network's cost: the
  violation of a budget of a tenth would else be a tenth as large.

Where the costs can be traced and nothing is trained, a round is one compiled call besides keeping
what it found; nothing is compiled after the first one. Where the problem has a faster way to score
networks from the host (`Problem.host`), it is one for the episodes and one for the learning, with
the scoring in between.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.costs import within_groups
from jaxprune.errors import UserError
from jaxprune.scoring.evaluation import Scores, separated
from jaxprune.search import rounds
from jaxprune.search.agents.ppo_lagrangian import learning
from jaxprune.search.agents.ppo_lagrangian.config import Config
from jaxprune.search.agents.ppo_lagrangian.learning import Learner, Trajectories
from jaxprune.search.baselines import candidates
from jaxprune.search.baselines.magnitude import uniform_l1
from jaxprune.search.baselines.removal import least_removal, least_removal_of
from jaxprune.search.envs import filterwise, layerwise
from jaxprune.search.envs.layerwise import Rules
from jaxprune.search.problem import Archive, Problem, SearchResult, best, shares, traced_costs


class State(NamedTuple):
    """Everything a search needs to go on, as arrays.

    Attributes:
        key: PRNG key for what is still to come, uint32 `[2]`.
        learner: policy, critics, multipliers and running statistics.
        weights: the network that is trained with the policy; () if its weights are given.
        iteration: rounds played, int32 `[]`.
        episodes: networks pruned, int32 `[]`.
        archive: all finished networks.
    """

    key: Array
    learner: Learner
    weights: Any
    iteration: np.int32
    episodes: np.int32
    archive: Archive


class Episodes(NamedTuple):
    """What a round plays.

    After its K episodes, `values` and `masks` have the network of the mean policy, and that network
    scaled to the budgets.

    Attributes:
        observations: float32 `[K, T, 6]`.
        actions: float32 `[K, T, A]`, as drawn.
        log_probs: float32 `[K, T]`.
        means: float32 `[T, A]`, the mean policy's actions.
        values: float32 `[K + 2, N]`, what each channel is multiplied by.
        masks: uint8 `[K + 2, N]`, 1 = keep.
    """

    observations: Array
    actions: Array
    log_probs: Array
    means: Array
    values: Array
    masks: Array


class Outcome(NamedTuple):
    """How the finished networks of a round do, K + 2 of them.

    Attributes:
        rewards: float32 `[K + 2]`.
        costs: float32 `[K + 2, m]`, fractions of the dense costs.
        train: scores of the binary masks on the batch of the training split.
        validation: float32 `[K + 2]`, accuracy on the validation split, NaN where not looked at.
    """

    rewards: Array
    costs: Array
    train: Scores
    validation: Array


def rollout(
    config: Config, rules: Rules, learner: Learner, rank: Array, most: Array, key: Array
) -> Episodes:
    """Prunes K networks layer by layer as the policy draws, and one as its means say.

    The scaled network is not there yet; see `with_scaled`.

    Args:
        config: the agent's settings.
        rules: the environment's rules.
        learner: holds the policy.
        rank: int32 `[N]`, the order of the channels within their groups.
        most: the largest part of a group that a coarse action may remove, float32 `[]`.
        key: consumed.
    """
    step = jax.vmap(functools.partial(layerwise.step, rules, rank), in_axes=(0, 0, None))

    def decide(state: layerwise.State, key: Array) -> tuple[layerwise.State, tuple]:
        observations = jax.vmap(functools.partial(layerwise.observe, rules))(state.step)
        actions, log_probs = learning.act(config, learner, observations[:-1], key)
        mean = learning.mean_action(config, learner, observations[-1:])
        state = step(state, jnp.concatenate([actions, mean]), most).state
        return state, (observations[:-1], actions, log_probs, mean[0])

    start = layerwise.reset(rules)
    states = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], config.episodes + 1, 0), start)
    states, taken = jax.lax.scan(decide, states, jax.random.split(key, rules.num_steps))
    masks = jax.vmap(functools.partial(layerwise.hard_mask, rules))(states.values)
    observations, actions, log_probs = (jnp.moveaxis(leaf, 0, 1) for leaf in taken[:3])
    means = jnp.minimum(taken[3], most) if rules.strategy == "coarse" else taken[3]
    return Episodes(observations, actions, log_probs, means, states.values, masks)


def with_scaled(episodes: Episodes, mask: Array) -> Episodes:
    """Appends the network of the mean policy scaled to the budgets, uint8 `[N]`."""
    return episodes._replace(
        values=jnp.concatenate([episodes.values, mask[None].astype(jnp.float32)]),
        masks=jnp.concatenate([episodes.masks, mask[None]]),
    )


def learn(
    config: Config,
    learner: Learner,
    episodes: Episodes,
    rewards: Array,
    costs: Array,
    limits: Array,
    key: Array,
) -> tuple[Learner, Any]:
    """PPO-Lagrangian on episodes whose `rewards [K]` and `costs [K, m]` are paid at their end.

    Costs are learnt as parts of their limits, so that the multipliers move alike whatever the
    budget: a cost twice its limit is a violation of 1.
    """
    played, steps = episodes.log_probs.shape
    trajectories = Trajectories(
        observations=episodes.observations,
        actions=episodes.actions,
        log_probs=episodes.log_probs,
        rewards=jnp.zeros((played, steps)).at[:, -1].set(rewards),
        costs=jnp.zeros((played, steps, costs.shape[-1])).at[:, -1].set(costs / limits),
    )
    return learning.learn(config, learner, trajectories, jnp.ones_like(limits), key)


def _reward(config: Config, scores: Scores) -> Array:
    return scores.accuracy if config.reward == "accuracy" else -scores.loss


_rollout = jax.jit(rollout, static_argnums=(0, 1))
_learn = jax.jit(learn, static_argnums=0)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def _round(
    config: Config,
    rules: Rules,
    game: filterwise.Rules,
    costs_of: tuple[Callable[[Array], Array], ...],
    evaluate: Callable[..., Scores],
    validate: Callable[..., Scores],
    constants: tuple[list[Array], list[Array]],
    learner: Learner,
    rank: Array,
    limits: Array,
    most: Array,
    key: Array,
) -> tuple[Learner, Any, Episodes, Outcome]:
    """A whole round in one call: nothing is trained, and the costs can be traced."""
    play_key, learn_key = jax.random.split(key)
    episodes = rollout(config, rules, learner, rank, most, play_key)
    scaled, _, _ = least_removal_of(game, layerwise.order(rules, rank, episodes.means))
    episodes = with_scaled(episodes, scaled)
    masks = episodes.masks.astype(jnp.float32)
    costs = jnp.stack([jax.vmap(cost)(masks) for cost in costs_of], axis=-1)
    train = evaluate(constants[0], masks)
    if config.strategy == "fine":
        rewards = _reward(config, evaluate(constants[0], episodes.values))
    else:
        rewards = _reward(config, train)
    order = candidates.by_training(train, (costs <= limits).all(-1))
    chosen = order[: min(config.validated, len(order))]
    accuracy = validate(constants[1], masks[chosen]).accuracy
    validation = jnp.full(len(masks), jnp.nan).at[chosen].set(accuracy)
    played = config.episodes
    learner, metrics = learn(
        config, learner, episodes, rewards[:played], costs[:played], limits, learn_key
    )
    return learner, metrics, episodes, Outcome(rewards, costs, train, validation)


def _outcome(
    config: Config, problem: Problem, weights: Any, episodes: Episodes, steps: int, key: Array
) -> Outcome:
    """The same as in `_round`, for costs that are measured and networks that are trained."""
    masks = episodes.masks.astype(jnp.float32)
    costs = shares(problem, np.asarray(episodes.masks))
    soft = config.strategy == "fine"
    if steps and not config.online:
        assert problem.trainer is not None
        train, scores = problem.trainer.finetune(masks, steps, key)
        seen = train
        if soft:
            seen, _ = problem.trainer.finetune(episodes.values, steps, key)
        return Outcome(_reward(config, seen), jnp.asarray(costs), train, scores.accuracy)

    by = problem.host or problem
    evaluate, validate = by.evaluate, by.validate
    if config.online:
        assert problem.trainer is not None
        evaluate = functools.partial(problem.trainer.evaluate, weights)
        validate = functools.partial(problem.trainer.validate, weights)
    train = evaluate(masks)
    rewards = _reward(config, evaluate(episodes.values) if soft else train)
    order = candidates.by_training(train, (costs <= problem.limits).all(-1))
    chosen = order[: min(config.validated, len(order))]
    validation = np.full(len(masks), np.nan, np.float32)
    validation[chosen] = validate(masks[chosen]).accuracy
    return Outcome(rewards, jnp.asarray(costs), train, jnp.asarray(validation))


def init(config: Config, problem: Problem, key: Array) -> State:
    """The state before the first round.

    Args:
        config: the agent's settings.
        problem: what to prune and to which budgets.
        key: PRNG key, uint32 `[2]`.

    Raises:
        UserError: the settings ask for training, and the problem has nothing to train with.
    """
    if problem.trainer is None and (config.online or any(config.finetune_schedule)):
        what = "online" if config.online else "finetune_schedule"
        raise UserError(
            f"the setting {what} trains networks during the search, which this problem has no data "
            "for: give Problem.trainer, or set finetune_schedule=(0,) and online=False"
        )
    rules = layerwise.rules(problem.structure, config.strategy)
    key, learner_key, weights_key = jax.random.split(key, 3)
    sizes = len(layerwise.OBSERVATION), rules.action_size, len(problem.limits)
    mean = initial_action(config, problem)
    learner = learning.init(config.within_a_round(), learner_key, *sizes, mean=mean)
    return State(
        key=key,
        # The layers are known beforehand, and with them the statistics of what will be seen.
        learner=learning.observe(learner, jnp.asarray(rules.observations, jnp.float32)),
        weights=problem.trainer.initial(weights_key) if problem.trainer and config.online else (),
        iteration=np.int32(0),
        episodes=np.int32(0),
        archive=candidates.empty(problem.structure.num_channels),
    )


def initial_action(config: Config, problem: Problem) -> float:
    """The policy's mean before learning.

    Where a cost has to be measured, it is taken to fall with the square of the widths.
    """
    if config.strategy == "fine":
        return 0.5  # the threshold between removing and keeping
    if config.initial_action is not None:
        return config.initial_action
    if problem.traceable:
        sizes = tuple(group.size for group in problem.structure.groups)
        removed = 1 - float(
            within_groups.mean(sizes, uniform_l1(problem).astype(jnp.float32)).mean()
        )
    else:
        removed = 1 - float(np.sqrt(problem.limits.min()))
    return min(max(removed, 0.05), 0.95)  # further out, the sigmoid would hardly move


def largest_ratio(config: Config, problem: Problem, iteration: int) -> Array:
    """The largest part of a group that a coarse action may remove in a round (eq. 5.1)."""
    first = config.initial_ratio
    if first is None:
        first = max(0.9, 1 - float(problem.limits.min()))
    return layerwise.largest_ratio(
        first, config.ratio_rise, jnp.float32(iteration / config.iterations)
    )


def finished(config: Config, state: State) -> bool:
    """Whether all rounds were played."""
    return int(state.iteration) >= config.iterations


def finetuning_steps(config: Config, iteration: int) -> int:
    """The training steps before a reward: the schedule in equal intervals of the search.

    Section 4.4 of the thesis; Table 5.3: 0, 32, 128.
    """
    interval = iteration * len(config.finetune_schedule) // config.iterations
    return config.finetune_schedule[min(interval, len(config.finetune_schedule) - 1)]


def update(config: Config, problem: Problem, state: State) -> tuple[State, dict[str, Any]]:
    """One round: episodes, rewards and costs, learning.

    Args:
        config: the agent's settings.
        problem: what to prune and to which budgets.
        state: the state after the previous round.

    Returns:
        The next state, which is a function of the arguments alone where nothing has to be measured,
        and metrics: `iteration`, `episodes`, `timesteps`, `candidates`, `best_accuracy`
        (validation, of the best feasible network), `feasible` (part of the
        round's episodes), `finetune_steps`, `reward` and `cost` (means of the round's episodes;
        costs as fractions of the dense ones), `limit`, `multiplier`, `action` (mean action of each
        layer), `sigma`, `entropy`, `kl`, `policy_loss`, `value_loss`, `cost_value_loss`. Costs,
        limits and multipliers are lists with an entry for each budget.

    Raises:
        UserError: a reward is not finite, or a cost function of the user's fails.
    """
    rules = layerwise.rules(problem.structure, config.strategy)
    rank = within_groups.rank(rules.sizes, jnp.asarray(problem.importance))
    iteration = int(state.iteration)
    limits = jnp.asarray(problem.limits)
    most = largest_ratio(config, problem, iteration)
    steps = finetuning_steps(config, iteration)
    settings = config.within_a_round()
    key, round_key = jax.random.split(jnp.asarray(state.key))

    weights = state.weights
    given = problem.traceable and not steps and not config.online
    if given and problem.host is None:
        shape = (config.episodes + 2, problem.structure.num_channels)
        evaluate = separated(problem.evaluate, shape)
        validate = separated(problem.validate, (min(config.validated, shape[0]), shape[1]))
        learner, metrics, episodes, outcome = _round(
            settings,
            rules,
            filterwise.rules(problem),
            traced_costs(problem),
            evaluate.function,
            validate.function,
            (evaluate.constants, validate.constants),
            state.learner,
            rank,
            limits,
            most,
            round_key,
        )
    else:
        play_key, learn_key, *more_keys = jax.random.split(round_key, 2 if given else 4)
        train_key, tune_key = more_keys or (round_key, round_key)  # nothing is trained if given
        episodes = _rollout(settings, rules, state.learner, rank, most, play_key)
        episodes = with_scaled(
            episodes, least_removal(problem, layerwise.order(rules, rank, episodes.means))
        )
        if config.online:
            assert problem.trainer is not None
            weights = problem.trainer.train(weights, episodes.masks, config.online_steps, train_key)
        outcome = _outcome(config, problem, weights, episodes, steps, tune_key)
        learner, metrics = _learn(
            settings,
            state.learner,
            episodes,
            outcome.rewards[: config.episodes],
            outcome.costs[: config.episodes],
            limits,
            learn_key,
        )
    archive = candidates.append(
        state.archive, problem, episodes.masks, outcome.costs, outcome.train, outcome.validation
    )
    if not np.isfinite(np.asarray(outcome.rewards)).all():
        worst = int(np.argmin(np.isfinite(np.asarray(outcome.rewards))))
        raise UserError(
            f"the {config.reward} of a candidate is {float(outcome.rewards[worst])} in round "
            f"{iteration + 1}: the network does not compute finite numbers under its mask"
        )
    state = State(
        key=key,
        learner=learner,
        weights=weights,
        iteration=np.int32(iteration + 1),
        episodes=np.int32(state.episodes + config.episodes),
        archive=archive,
    )
    return state, _metrics(config, rules, problem, state, episodes, outcome, metrics, steps)


def _metrics(
    config: Config,
    rules: Rules,
    problem: Problem,
    state: State,
    episodes: Episodes,
    outcome: Outcome,
    metrics: Any,
    steps: int,
) -> dict[str, Any]:
    costs = np.asarray(outcome.costs)[: config.episodes]
    archive = state.archive
    actions = np.clip(np.asarray(episodes.actions), 0, 1).mean((0, 2))
    return {
        "iteration": int(state.iteration),
        "episodes": int(state.episodes),
        "timesteps": int(state.episodes) * rules.num_steps,
        "candidates": len(archive.cost),
        "best_accuracy": candidates.best_validation(archive, problem.budget),
        "feasible": float((costs <= problem.limits).all(-1).mean()),
        "finetune_steps": 0 if config.online else steps,
        "reward": float(outcome.rewards[: config.episodes].mean()),
        "cost": costs.mean(0).tolist(),
        "limit": problem.limits.tolist(),
        "multiplier": np.asarray(state.learner.multipliers).tolist(),
        "action": actions.tolist(),
        "sigma": float(metrics.sigma),
        "entropy": float(metrics.entropy),
        "kl": float(metrics.approx_kl),
        "policy_loss": float(metrics.policy_loss),
        "value_loss": float(metrics.value_loss),
        "cost_value_loss": float(metrics.cost_value_loss),
    }


def search(
    config: Config,
    problem: Problem,
    key: Array,
    *,
    state: State | None = None,
    progress: Callable[[State, dict[str, Any]], None] | None = None,
) -> SearchResult:
    """Prunes by PPO-Lagrangian.

    Args:
        config: the agent's settings.
        problem: what to prune and to which budgets.
        key: PRNG key, uint32 `[2]`; unused when a state is given, which carries its own.
        state: where to go on; by default the beginning. A resumed search ends bit for bit like an
            uninterrupted one, unless a time limit cuts it or a cost scatters.
        progress: called with the state and the metrics after each round.

    Returns:
        The best network within the budgets by validation accuracy, all candidates, the state, and
        in the online setting the weights that were trained with the policy.

    Raises:
        UserError: a reward is not finite, or a cost function of the user's fails.
        ValueError: the budgets cannot be met even with one filter in each group.
    """
    state = rounds.play(
        functools.partial(update, config, problem),
        functools.partial(finished, config),
        init(config, problem, key) if state is None else state,
        progress=progress,
        seconds=config.seconds,
    )
    archive = state.archive
    mask = archive.masks[best(archive, problem.budget)]
    weights = state.weights if config.online else None
    return SearchResult(mask, archive, int(state.episodes), state, weights)
