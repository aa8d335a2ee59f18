"""Rounds of episodes, rewards, costs and learning; what the search returns."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import UserError
from jaxprune.costs import budgets, within_groups
from jaxprune.files import checkpoint
from jaxprune.scoring.evaluation import Scores
from jaxprune.search import methods
from jaxprune.search.agents import ppo_lagrangian
from jaxprune.search.agents.ppo_lagrangian import agent, episodes, learning
from jaxprune.search.baselines import uniform_l1
from jaxprune.search.envs import layerwise
from jaxprune.search.problem import Problem, Trainer
from marks import slow_if_in

KEY = jax.random.PRNGKey(0)
SMALL = ppo_lagrangian.Config(
    iterations=3, episodes=6, epochs=2, minibatch_size=8, validated=2, hidden=(8,)
)


def weighted(mask: jax.Array) -> jax.Array:
    return (mask * jnp.linspace(0.1, 1, mask.shape[-1])).mean()


@pytest.fixture(scope="module")
def problem(known_problem) -> Problem:
    return known_problem((3, 5, 4), 0.5, weighted, importance=[1, 2, 3, 5, 4, 3, 2, 1, 1, 2, 3, 4])


def play(config, problem, key=KEY, most=0.9):
    rules = layerwise.rules(problem.structure, config.strategy)
    rank = within_groups.rank(rules.sizes, problem.importance)
    learner = agent.init(config, problem, key).learner
    return rules, rank, episodes.rollout(config, rules, learner, rank, jnp.float32(most), key)[0]


def same(left, right) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------------------------------- episodes


@pytest.mark.parametrize("strategy", slow_if_in(["fine"], ["coarse", "fine"]))
def test_episodes_are_what_the_environment_makes_of_the_actions(problem, strategy):
    config = dataclasses.replace(SMALL, strategy=strategy)
    rules, rank, episodes = play(config, problem, most=0.7)
    assert episodes.observations.shape == (6, 3, 6)
    assert episodes.actions.shape == (6, 3, rules.action_size)
    assert episodes.masks.shape == episodes.values.shape == (7, 12)
    most = jnp.float32(0.7)
    for k in range(6):
        state = layerwise.reset(rules, rank)
        for t in range(3):
            np.testing.assert_array_equal(
                episodes.observations[k, t], layerwise.observe(rules, state.step)
            )
            state = layerwise.step(rules, rank, state, episodes.actions[k, t], most).state
        np.testing.assert_allclose(episodes.values[k], state.values, rtol=1e-6)
        np.testing.assert_array_equal(episodes.masks[k], layerwise.hard_mask(rules, state.values))


def test_the_last_network_is_the_mean_policys(problem):
    rules, rank, episodes = play(SMALL, problem)
    learner = agent.init(SMALL, problem, KEY).learner
    state = layerwise.reset(rules, rank)
    for t in range(3):
        seen = layerwise.observe(rules, jnp.int32(t))
        action = learning.mean_action(SMALL, learner, seen)
        state = layerwise.step(rules, rank, state, action, jnp.float32(0.9)).state
    np.testing.assert_array_equal(episodes.values[-1], state.values)


# ------------------------------------------------------------------------------------------ rounds


@pytest.mark.slow
def test_a_round_pays_accuracy_and_cost_once_an_episode(problem):
    state = agent.init(SMALL, problem, KEY)
    state, metrics = agent.update(SMALL, problem, state)
    archive = state.archive
    np.testing.assert_allclose(archive.cost, archive.masks.mean(-1), rtol=1e-6)
    expected = [float(weighted(jnp.asarray(mask, jnp.float32))) for mask in archive.masks]
    np.testing.assert_allclose(archive.accuracy, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["reward"], np.mean(expected[:6]), rtol=1e-5)
    np.testing.assert_allclose(metrics["cost"], [archive.cost[:6].mean()], rtol=1e-5)
    np.testing.assert_allclose(metrics["feasible"], (archive.cost[:6] <= 0.5).mean())
    assert metrics["limit"] == [0.5]
    assert (metrics["iteration"], metrics["episodes"], metrics["timesteps"]) == (1, 6, 18)
    assert metrics["candidates"] == 8
    assert len(metrics["action"]) == 3


def test_the_best_feasible_networks_of_a_round_are_validated(problem):
    state, _ = agent.update(SMALL, problem, agent.init(SMALL, problem, KEY))
    archive = state.archive
    feasible = np.flatnonzero(archive.cost <= 0.5)
    seen = np.flatnonzero(np.isfinite(archive.validation))
    assert len(seen) == 2
    if len(feasible) >= 2:
        best_two = feasible[np.argsort(-archive.accuracy[feasible])][:2]
        assert set(archive.accuracy[seen]) == set(archive.accuracy[best_two])
    np.testing.assert_allclose(archive.validation[seen], archive.accuracy[seen], rtol=1e-6)


def test_measured_costs_and_traced_ones_give_the_same_round(problem):
    counted = budgets.Budget("kept", 12.0, 0.5, 0.25, None, meter=lambda mask: float(mask.sum()))
    measured = problem._replace(budgets=(counted,))
    assert not measured.traceable
    left, _ = agent.update(SMALL, problem, agent.init(SMALL, problem, KEY))
    right, _ = agent.update(SMALL, measured, agent.init(SMALL, measured, KEY))
    assert left.archive.masks.shape == right.archive.masks.shape
    np.testing.assert_allclose(right.archive.cost, right.archive.masks.mean(-1), rtol=1e-6)


def test_fine_rewards_are_those_of_the_soft_masks(problem):
    config = dataclasses.replace(SMALL, strategy="fine")
    state, metrics = agent.update(config, problem, agent.init(config, problem, KEY))
    *_, episodes = play(config, problem)
    del episodes
    hard = [float(weighted(jnp.asarray(mask, jnp.float32))) for mask in state.archive.masks]
    np.testing.assert_allclose(state.archive.accuracy, hard, rtol=1e-5)
    assert abs(metrics["reward"] - np.mean(hard[:-1])) > 1e-4


def test_the_loss_can_be_the_reward(problem):
    config = dataclasses.replace(SMALL, reward="loss")
    _, metrics = agent.update(config, problem, agent.init(config, problem, KEY))
    _, accuracy = agent.update(SMALL, problem, agent.init(SMALL, problem, KEY))
    np.testing.assert_allclose(metrics["reward"], accuracy["reward"] - 1, rtol=1e-5)


def test_the_same_key_gives_the_same_search_and_resuming_changes_nothing(problem, tmp_path):
    whole = agent.search(SMALL, problem, KEY)
    states = []
    agent.search(SMALL, problem, KEY, progress=lambda state, metrics: states.append(state))
    checkpoint.save(tmp_path / "state", states[0])
    kept = checkpoint.load(tmp_path / "state", like=agent.init(SMALL, problem, KEY))
    resumed = agent.search(SMALL, problem, jax.random.PRNGKey(9), state=kept)
    same(whole.state, states[-1])
    same(whole.state, resumed.state)
    np.testing.assert_array_equal(whole.mask, resumed.mask)
    other = agent.search(SMALL, problem, jax.random.PRNGKey(1))
    assert not np.array_equal(whole.archive.masks, other.archive.masks)


def test_nothing_is_compiled_after_the_first_round(problem, caplog):
    state = agent.init(SMALL, problem, KEY)
    state, _ = agent.update(SMALL, problem, state)
    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        for _ in range(2):
            state, _ = agent.update(SMALL, problem, state)
    assert not [line for line in caplog.messages if "Compiling" in line]


# ------------------------------------------------------------------------------------------ answers


def test_the_answer_is_within_the_budget(problem):
    found = agent.search(SMALL, problem, KEY)
    assert found.mask.mean() <= 0.5
    assert found.episodes == 18
    assert len(found.archive.cost) == 24
    assert found.variables is None


def test_each_round_ends_with_a_network_that_just_meets_the_budget(known_problem):
    """Three channels must do, one of each group; ratios are clipped far above that."""
    tight = known_problem((3, 5, 4), 0.26, weighted)
    config = dataclasses.replace(SMALL, initial_ratio=0.1, ratio_rise=0.0)
    lines = []
    found = agent.search(config, tight, KEY, progress=lambda _, metrics: lines.append(metrics))
    assert found.mask.sum() == 3
    assert all(line["feasible"] == 0 for line in lines)  # no episode met it
    np.testing.assert_array_equal(found.archive.masks.sum(-1)[7::8], [3, 3, 3])


@pytest.mark.slow
def test_the_untrained_policy_begins_at_uniform_pruning(known_problem):
    for budget in (0.26, 0.51, 0.81):
        posed = known_problem((20, 40, 60), budget, weighted)
        config = dataclasses.replace(SMALL, learning_rate=1e-6)
        assert episodes.initial_action(config, posed) == pytest.approx(1 - budget, abs=0.01)
        state, _ = agent.update(config, posed, agent.init(config, posed, KEY))
        *_, scaled = state.archive.masks
        uniform = np.asarray(uniform_l1(posed))
        groups_ = np.repeat([0, 1, 2], (20, 40, 60))
        widths = [np.bincount(groups_, mask) for mask in (scaled, uniform)]
        np.testing.assert_allclose(*widths, atol=1)
        assert scaled.mean() <= budget < (scaled.sum() + 1) / 120


def test_where_the_policy_begins_can_be_set(problem):
    config = dataclasses.replace(SMALL, initial_action=0.3)
    learner = agent.init(config, problem, KEY).learner
    seen = jnp.asarray(layerwise.rules(problem.structure).observations, jnp.float32)
    for step in seen:
        action = learning.mean_action(config, learner, step)
        np.testing.assert_allclose(action, 0.3, atol=0.02)
    fine = dataclasses.replace(config, strategy="fine")
    assert episodes.initial_action(fine, problem) == 0.5


def test_the_largest_ratio_follows_the_tightest_budget(known_problem):
    def ratio(budget, iteration=0, **settings):
        posed = known_problem((30, 30, 30), budget, weighted)
        config = dataclasses.replace(SMALL, iterations=10, ratio_rise=0.04, **settings)
        return float(episodes.largest_ratio(config, posed, iteration))

    assert ratio(0.5) == pytest.approx(0.9)
    assert ratio(0.5, 5) == pytest.approx(0.92)
    assert ratio(0.05) == pytest.approx(0.95)
    assert ratio(0.05, initial_ratio=0.8) == pytest.approx(0.8)


@pytest.mark.slow
def test_a_known_optimum_is_found(known_problem):
    """The last group is worthless and dear: to go as far as it can, the others to stay."""

    def accuracy(mask):
        return mask[:8].mean()

    problem = known_problem((4, 4, 8), 0.6, accuracy)
    config = ppo_lagrangian.Config(iterations=60, episodes=32, learning_rate=3e-3)
    lines = []
    found = agent.search(config, problem, KEY, progress=lambda _, metrics: lines.append(metrics))
    np.testing.assert_array_equal(found.mask[:8], 1)
    assert found.mask[8:].sum() <= 1
    last = lines[-1]
    assert last["reward"] > lines[0]["reward"] + 0.2
    assert last["action"][2] > 0.6 > 0.3 > max(last["action"][:2])


@pytest.mark.slow
def test_two_budgets_at_once(known_problem):
    base = known_problem((4, 4), 0.5, weighted)

    def first_half(mask):
        return mask[:4].mean()

    def second_half(mask):
        return mask[4:].mean()

    pair = tuple(
        budgets.Budget(name, 4.0, limit, 0.25, cost)
        for name, limit, cost in (("first", 0.75, first_half), ("second", 0.5, second_half))
    )
    problem = base._replace(
        budgets=pair,
        cost=lambda mask: jnp.maximum(first_half(mask) / 0.75, second_half(mask) / 0.5),
        budget=1.0,
    )
    lines = []
    config = dataclasses.replace(SMALL, iterations=4)
    found = agent.search(config, problem, KEY, progress=lambda _, metrics: lines.append(metrics))
    assert first_half(found.mask) <= 0.75
    assert second_half(found.mask) <= 0.5
    assert lines[0]["limit"] == [0.75, 0.5]
    assert all(len(line["multiplier"]) == len(line["cost"]) == 2 for line in lines)


# ---------------------------------------------------------------------------------------- training


class Recorder:
    """A trainer whose networks are numbers: what it was asked for can be read off."""

    def __init__(self):
        self.tuned = []

    def finetune(self, masks, steps, key):
        self.tuned.append((steps, len(masks)))
        scores = Scores(loss=1 - masks.mean(-1), accuracy=masks.mean(-1) * steps / 100)
        return scores, scores

    def initial(self, key):
        return {"steps": jnp.zeros(())}

    def train(self, weights, masks, steps, key):
        return {"steps": weights["steps"] + steps}

    def evaluate(self, weights, masks):
        return Scores(loss=1 - masks.mean(-1), accuracy=masks.mean(-1) * weights["steps"] / 100)

    def problem(self, base: Problem) -> Problem:
        parts = self.finetune, self.initial, self.train, self.evaluate, self.evaluate
        return base._replace(trainer=Trainer(*parts))


def test_rewards_are_computed_after_the_scheduled_fine_tuning(problem):
    recorder = Recorder()
    config = dataclasses.replace(SMALL, iterations=6, finetune_schedule=(0, 10, 40))
    lines = []
    agent.search(
        config, recorder.problem(problem), KEY, progress=lambda _, metrics: lines.append(metrics)
    )
    assert recorder.tuned == [(10, 8), (10, 8), (40, 8), (40, 8)]
    assert [line["finetune_steps"] for line in lines] == [0, 0, 10, 10, 40, 40]


def test_the_schedule_is_in_equal_intervals():
    config = dataclasses.replace(SMALL, iterations=9, finetune_schedule=(0, 32, 128))
    steps = [agent.finetuning_steps(config, i) for i in range(9)]
    assert steps == [0, 0, 0, 32, 32, 32, 128, 128, 128]
    assert agent.finetuning_steps(dataclasses.replace(config, iterations=1), 0) == 0


def test_online_the_network_is_trained_with_the_policy(problem):
    recorder = Recorder()
    config = dataclasses.replace(SMALL, online=True, online_steps=25)
    found = agent.search(config, recorder.problem(problem), KEY)
    assert found.variables["steps"] == 75
    archive = found.archive
    trained = np.repeat([25, 50, 75], 8) / 100
    np.testing.assert_allclose(archive.accuracy, archive.masks.mean(-1) * trained, rtol=1e-5)
    assert recorder.tuned == []


def test_training_without_data_is_refused(problem):
    for wrong, says in (
        ({"online": True}, "the setting online trains"),
        ({"finetune_schedule": (0, 8)}, "the setting finetune_schedule trains"),
    ):
        with pytest.raises(UserError, match=says):
            agent.init(dataclasses.replace(SMALL, **wrong), problem, KEY)


def test_rewards_that_are_not_finite_stop_the_search(problem):
    broken = problem._replace(evaluate=lambda masks: Scores(masks.sum(-1), masks.sum(-1) * jnp.nan))
    with pytest.raises(UserError, match="the accuracy of a candidate is nan in round 1"):
        agent.search(SMALL, broken, KEY)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("iterations", 0),
        ("episodes", 0),
        ("validated", 0),
        ("online_steps", 0),
        ("finetune_schedule", ()),
        ("finetune_schedule", (0, -1)),
        ("initial_ratio", 1.5),
        ("initial_action", 1.0),
        ("ratio_rise", -0.1),
    ],
)
def test_impossible_settings_are_named(field, value):
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(SMALL, **{field: value})


def test_methods_and_package_agree():
    assert methods.get("crl") is ppo_lagrangian
