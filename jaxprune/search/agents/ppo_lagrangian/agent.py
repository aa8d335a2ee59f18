"""The CRL agent: prune layer by layer, learn from what the network lost and what it still costs.

After "Neural Network Pruning through Constrained Reinforcement Learning" (Malik, Haider, Iqbal and
Taj) and the thesis behind it (Malik, LUMS 2021). One `update` is one round:

1. **Episodes** (`episodes.py`): `episodes` networks are pruned layer by layer (`envs.layerwise`),
   one action of the policy for each layer, all at once.
2. **Rewards and costs** of the finished networks, in one batch: the reward is the accuracy (or
   minus the loss) on images of the training split, after as many steps of fine-tuning as the
   schedule has for this part of the search; the costs are what the budgets limit, of the binary
   masks, as fractions of the dense network's. Both are paid at the last step.
3. **Learning** (`learning.py`): the multipliers follow the violations, then the policy and the
   critics take the steps of PPO.

What the papers leave open, and departures from them, this project's own:

- An untrained policy prunes every layer by about what uniform pruning takes to meet the budgets.
  From 0.5 a tight budget is out of its reach for many rounds, in which the multiplier winds up.
- The answer is the best network within the budgets that was ever evaluated: of each round the
  `validated` best by training accuracy are scored on the validation split, and the best of these
  wins. The papers take what the last policy gives, which may break its budget.
- A round is `episodes` whole episodes, and the schedule and the ratio's clip (eq. 5.1) follow the
  rounds; the thesis counts timesteps. 40,000 timesteps are `iterations * episodes * layers`.
- The images that rewards are computed on stay the same, so that rewards can be compared.
- The multipliers follow costs as fractions of their limits, not of the dense network's cost: the
  violation of a budget of a tenth would otherwise be a tenth as large.

The episodes are one compiled call and the learning is another, with the scoring in between; nothing
is compiled after the first round.
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
from jaxprune.scoring.evaluation import Scores
from jaxprune.search import rounds
from jaxprune.search.agents.ppo_lagrangian import episodes, learning
from jaxprune.search.agents.ppo_lagrangian.config import Config
from jaxprune.search.agents.ppo_lagrangian.episodes import Episodes
from jaxprune.search.agents.ppo_lagrangian.learning import Learner, Metrics, Trajectories
from jaxprune.search.baselines import candidates
from jaxprune.search.baselines.removal import least_removal
from jaxprune.search.envs import layerwise
from jaxprune.search.problem import Archive, Problem, SearchResult, best


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


_rollout = jax.jit(episodes.rollout, static_argnums=(0, 1))


@jax.jit
def _keys(key: Array) -> tuple[Array, ...]:
    """The next round's key, and those of a round: to play, learn, train and fine-tune."""
    following, this = jax.random.split(key)
    return following, *jax.random.split(this, 4)


@functools.partial(jax.jit, static_argnums=0)
def _learn(
    config: Config,
    learner: Learner,
    played: Episodes,
    rewards: Array,
    costs: Array,
    limits: Array,
    key: Array,
) -> tuple[Learner, Metrics]:
    """PPO-Lagrangian on episodes whose `rewards [K]` and `costs [K, m]` are paid at their end.

    Costs are learnt as fractions of their limits, so that the multipliers move alike whatever the
    budget: a cost of twice its limit is a violation of 1.
    """
    count, steps = played.log_probs.shape
    trajectories = Trajectories(
        observations=played.observations,
        actions=played.actions,
        log_probs=played.log_probs,
        rewards=jnp.zeros((count, steps)).at[:, -1].set(rewards),
        costs=jnp.zeros((count, steps, costs.shape[-1])).at[:, -1].set(costs / limits),
    )
    return learning.learn(config, learner, trajectories, jnp.ones_like(limits), key)


def _score(
    config: Config,
    problem: Problem,
    weights: Any,
    played: Episodes,
    feasible: np.ndarray,
    steps: int,
    key: Array,
) -> tuple[np.ndarray, Scores, Any]:
    """How the finished networks of a round do.

    Returns:
        Their rewards, float32 `[K + 2]`; the scores of their binary masks on the batch of the
        training split; and their validation accuracies, NaN where not looked at.
    """
    masks = np.asarray(played.masks, np.float32)
    soft = config.strategy == "fine"

    def reward(scores: Scores) -> np.ndarray:
        return np.asarray(scores.accuracy if config.reward == "accuracy" else -scores.loss)

    if steps:
        assert problem.trainer is not None
        train, validation = problem.trainer.finetune(masks, steps, key)
        seen = problem.trainer.finetune(played.values, steps, key)[0] if soft else train
        return reward(seen), train, validation.accuracy
    scorer = problem.host or problem
    evaluate, validate = scorer.evaluate, scorer.validate
    if config.online:
        assert problem.trainer is not None
        evaluate = functools.partial(problem.trainer.evaluate, weights)
        validate = functools.partial(problem.trainer.validate, weights)
    train = evaluate(masks)
    seen = evaluate(played.values) if soft else train
    return (
        reward(seen),
        train,
        candidates.validate_best(validate, masks, train, feasible, config.validated),
    )


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
    rules = layerwise.rules(problem.structure, config.strategy, problem.allowed)
    key, learner_key, weights_key = jax.random.split(key, 3)
    sizes = len(layerwise.OBSERVATION), rules.action_size, len(problem.limits)
    mean = episodes.initial_action(config, problem)
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
    rules = layerwise.rules(problem.structure, config.strategy, problem.allowed)
    rank = within_groups.rank(rules.sizes, jnp.asarray(problem.importance))
    iteration, settings = int(state.iteration), config.within_a_round()
    most = episodes.largest_ratio(config, problem, iteration)
    steps = 0 if config.online else finetuning_steps(config, iteration)
    key, play_key, learn_key, train_key, tune_key = _keys(state.key)

    played, order = _rollout(settings, rules, state.learner, rank, most, play_key)
    scaled = least_removal(problem, order)
    # Between the two compiled calls of a round, NumPy: each step of JAX would be one more dispatch.
    played = episodes.with_scaled(jax.device_get(played), np.asarray(scaled))
    weights = state.weights
    if config.online:
        assert problem.trainer is not None
        weights = problem.trainer.train(
            weights, jnp.asarray(played.masks), config.online_steps, train_key
        )
    costs = candidates.costs(problem, played.masks)
    feasible = np.all(costs <= problem.limits, axis=-1)
    rewards, train, validation = _score(config, problem, weights, played, feasible, steps, tune_key)
    if not np.isfinite(rewards).all():
        worst = int(np.argmin(np.isfinite(rewards)))
        raise UserError(
            f"the {config.reward} of a candidate is {float(rewards[worst])} in round "
            f"{iteration + 1}: the network does not compute finite numbers under its mask"
        )
    count = config.episodes
    learner, learnt = _learn(
        settings, state.learner, played, rewards[:count], costs[:count], problem.limits, learn_key
    )
    learnt = jax.device_get(learnt)
    archive = candidates.append(state.archive, problem, played.masks, costs, train, validation)
    state = State(
        key=key,
        learner=learner,
        weights=weights,
        iteration=np.int32(iteration + 1),
        episodes=np.int32(state.episodes + count),
        archive=archive,
    )
    return state, {
        "iteration": iteration + 1,
        "episodes": int(state.episodes),
        "timesteps": int(state.episodes) * rules.num_steps,
        "candidates": len(archive.cost),
        "best_accuracy": candidates.best_validation(archive, problem.budget),
        "feasible": float(feasible[:count].mean()),
        "finetune_steps": steps,
        "reward": float(rewards[:count].mean()),
        "cost": costs[:count].mean(0).tolist(),
        "limit": problem.limits.tolist(),
        "multiplier": np.asarray(learner.multipliers).tolist(),
        "action": np.clip(np.asarray(played.actions), 0, 1).mean((0, 2)).tolist(),
        "sigma": float(learnt.sigma),
        "entropy": float(learnt.entropy),
        "kl": float(learnt.approx_kl),
        "policy_loss": float(learnt.policy_loss),
        "value_loss": float(learnt.value_loss),
        "cost_value_loss": float(learnt.cost_value_loss),
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
        ValueError: the budgets cannot be met even at the least allowed widths.
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
