"""Episodes, rounds, answers: what the search does with a problem."""

import dataclasses
import itertools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune import UserError, trace
from jaxprune.costs import budgets, within_groups
from jaxprune.files import checkpoint
from jaxprune.networks import bundled
from jaxprune.scoring.evaluation import Scores
from jaxprune.search import methods
from jaxprune.search.agents import acnn, amc, cacp, ddpg
from jaxprune.search.agents.ddpg import agent, learning
from jaxprune.search.agents.ddpg.episodes import most_removed, rollout
from jaxprune.search.problem import Problem

KEY = jax.random.PRNGKey(0)
SIZES = (3, 5, 4)
QUICK = {"iterations": 3, "episodes": 4, "warmup": 4, "batch": 8, "validated": 2, "hidden": (8, 8)}
ACNN, AMC, CACP = acnn.Config(**QUICK), amc.Config(**QUICK), cacp.Config(**QUICK)
FREE = dataclasses.replace(ACNN, beta=0.5, unbounded=True, replay=None)
ALL = pytest.mark.parametrize(
    "config",
    [ACNN, *(pytest.param(config, marks=pytest.mark.slow) for config in (AMC, CACP))],
    ids=["acnn", "amc", "cacp"],
)


def weighted(mask: jax.Array) -> jax.Array:
    return (mask * jnp.linspace(0.1, 1, mask.shape[-1])).mean()


@pytest.fixture(scope="module")
def problem(known_problem) -> Problem:
    return known_problem(SIZES, 0.5, weighted, importance=[1, 2, 3, 5, 4, 3, 2, 1, 1, 2, 3, 4])


def same(left, right) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


_rollout = jax.jit(rollout, static_argnums=(0, 1, 2, 3))


def played(config, problem, limits, key=KEY):
    """Episodes with these limits, and the order in which channels go."""
    rank = within_groups.rank(SIZES, problem.importance)
    actor = learning.init(config, key, len(agent.ENTRIES[config.observation])).networks.actor
    arrays = (
        rank,
        most_removed(config, problem),
        jnp.asarray(limits, jnp.float32),
        jnp.int32(0),
        key,
    )
    return rank, _rollout(config, problem.structure, problem.allowed, problem.cost, actor, *arrays)


# ---------------------------------------------------------------------------------------- episodes


@pytest.mark.slow
def test_the_least_important_channels_go_layer_by_layer(problem):
    rank, episodes = played(FREE, problem, [0.5] * 6)
    assert episodes.observations.shape == (6, 4, 4)
    assert episodes.values.shape == (6, 3, 12)
    group = within_groups.index(SIZES)
    for k, t in itertools.product(range(6), range(3)):
        size = SIZES[t]
        gone = min(int(np.floor(episodes.actions[k, t] * size + 0.5)), size - 1)
        np.testing.assert_allclose(episodes.ratios[k, t], gone / size, rtol=1e-6)
        mask = episodes.values[k, t]
        np.testing.assert_array_equal(mask[group == t], rank[group == t] >= gone)
        assert mask[group > t].all()
        if t:
            np.testing.assert_array_equal(mask[group < t], episodes.values[k, t - 1][group < t])


def test_the_last_network_is_the_actors_own(problem):
    """An untrained actor says one half, whatever the others try."""
    _, episodes = played(FREE, problem, [0.5] * 6)
    np.testing.assert_allclose(episodes.actions[-1], 0.5, atol=0.02)
    assert np.abs(np.asarray(episodes.actions[:-1]) - 0.5).max() > 0.2


def test_a_group_may_lose_its_ratio_or_what_uniform_pruning_takes(known_problem):
    loose = known_problem((10, 10), 0.5, weighted)
    np.testing.assert_array_equal(most_removed(dataclasses.replace(AMC), loose), [9, 9])
    tighter = dataclasses.replace(AMC, max_ratio_dense=0.42)
    np.testing.assert_array_equal(most_removed(tighter, loose), [5, 5])
    lower = dataclasses.replace(tighter, targets=(0.3,))
    np.testing.assert_array_equal(most_removed(lower, loose), [7, 7])


def test_ratios_of_convolutions_and_dense_layers():
    network = bundled.build("lenet5", (28, 28, 1), 10)
    variables = network.init(KEY)
    structure = trace(network.apply, variables, jnp.zeros((1, 28, 28, 1)))

    def evaluate(masks):
        return Scores(masks.mean(-1), masks.mean(-1))

    base = Problem(
        structure,
        evaluate,
        evaluate,
        lambda mask: mask.mean(),
        0.9,
        jnp.ones(structure.num_channels),
    )
    # 20 and 50 filters, 500 units.
    np.testing.assert_array_equal(most_removed(amc.Config(), base), [16, 40, 490])


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000),
    limits=st.lists(st.sampled_from([3, 5, 8, 12]), min_size=3, max_size=3),
    most=st.sampled_from([0.5, 0.98]),
)
def test_bounded_networks_meet_their_budget_and_keep_a_channel_of_each_group(
    problem, seed, limits, most
):
    problem = problem._replace(budget=min(limits) / 12)
    config = dataclasses.replace(CACP, max_ratio_dense=most, targets=(), warmup=1000)
    shares = [limit / 12 for limit in limits]
    _, episodes = played(config, problem, shares, jax.random.PRNGKey(seed))
    finished = np.asarray(episodes.values[:, -1])
    costs = np.asarray(jax.vmap(problem.cost)(episodes.values[:, -1]))
    assert (costs <= np.float32(shares)).all()
    for group in np.split(finished, np.cumsum(SIZES)[:-1], axis=1):
        assert (group.sum(1) >= 1).all()


# ------------------------------------------------------------------------------------------ rounds


@ALL
def test_what_a_round_reports(problem, config):
    state, metrics = agent.update(config, problem, agent.init(config, problem, KEY))
    archive = state.archive
    np.testing.assert_allclose(archive.cost, archive.masks.mean(-1), rtol=1e-6)
    expected = [float(weighted(jnp.asarray(mask, jnp.float32))) for mask in archive.masks]
    np.testing.assert_allclose(archive.accuracy, expected, rtol=1e-5)
    assert (metrics["iteration"], metrics["episodes"], metrics["candidates"]) == (1, 4, 5)
    np.testing.assert_allclose(metrics["cost"], [archive.cost[:-1].mean()], rtol=1e-5)
    assert metrics["limit"] == [0.5]
    assert metrics["replay"] == pytest.approx(min(1, 4 / (config.replay or config.episodes)))
    removed = [1 - part.mean() for part in np.split(archive.masks[:-1], [3, 8], axis=1)]
    np.testing.assert_allclose(metrics["action"], removed, rtol=1e-5)
    assert metrics["critic_loss"] == metrics["actor_loss"] == 0  # four episodes of warm-up
    state, metrics = agent.update(config, problem, state)
    assert metrics["critic_loss"] > 0
    seen = np.flatnonzero(np.isfinite(state.archive.validation))
    assert len(seen) == 4  # two of each round
    assert metrics["best_accuracy"] == state.archive.validation[seen].max()


@pytest.mark.slow
def test_acnn_is_paid_after_every_layer(problem):
    state, metrics = agent.update(FREE, problem, agent.init(FREE, problem, KEY))
    dense = float(weighted(jnp.ones(12)))
    total = 0.0
    for mask in state.archive.masks[:-1]:
        for end in (3, 8, 12):
            prefix = jnp.asarray(np.r_[mask[:end], np.ones(12 - end)], jnp.float32)
            total += min(float(weighted(prefix)) / dense, 1) + 0.5 * min(0.5 / prefix.mean(), 1)
    np.testing.assert_allclose(metrics["reward"], total / 4, rtol=1e-5)
    steps = state.replay.transitions
    np.testing.assert_allclose(steps.rewards.sum() / 4, total / 4, rtol=1e-5)
    np.testing.assert_array_equal(steps.continues, [1, 1, 0] * 4)
    np.testing.assert_array_equal(steps.following[:2], steps.observations[1:3])
    assert steps.rewards.shape == (12,)  # one round


def test_amc_pays_the_last_reward_for_every_step(problem):
    state, metrics = agent.update(AMC, problem, agent.init(AMC, problem, KEY))
    errors = np.float32([weighted(jnp.asarray(m, jnp.float32)) - 1 for m in state.archive.masks])
    steps = state.replay.transitions
    np.testing.assert_allclose(steps.rewards[:12], np.repeat(errors[:-1], 3), rtol=1e-5)
    np.testing.assert_allclose(metrics["reward"], 3 * errors[:-1].mean(), rtol=1e-5)
    assert steps.rewards.shape == (300,)  # a hundred episodes
    assert state.replay.written == 12


@pytest.mark.slow
def test_amc_can_trade_size_for_accuracy(problem):
    config = dataclasses.replace(AMC, reward="error_log_params", unbounded=True)
    state, _ = agent.update(config, problem, agent.init(config, problem, KEY))
    for number, mask in enumerate(state.archive.masks[:-1]):
        a, b, c = (part.sum() for part in np.split(mask, [3, 8]))
        params = 3 * a + a * b + b * c + 2 * c
        wanted = (weighted(jnp.asarray(mask, jnp.float32)) - 1) * np.log(params)
        np.testing.assert_allclose(state.replay.transitions.rewards[3 * number], wanted, rtol=1e-5)


@pytest.mark.slow
def test_cacp_plays_for_several_targets(problem):
    config = dataclasses.replace(CACP, episodes=16, warmup=100)
    state, metrics = agent.update(config, problem, agent.init(config, problem, KEY))
    seen = np.asarray(state.replay.transitions.observations[: 3 * 16, 0]).reshape(16, 3)
    assert (seen == seen[:, :1]).all()
    aims = seen[:, 0]
    assert set(aims) == set(np.float32([0.5, 0.3, 0.7]))
    costs = state.archive.cost
    assert (costs[:-1] <= aims).all()
    assert (costs[:-1][aims == np.float32(0.7)] > 0.5).any()
    assert costs[-1] <= 0.5  # the actor's own network is for the budget
    assert metrics["feasible"] == (costs[:-1] <= 0.5).mean()
    assert metrics["limit"] == [0.5]


@pytest.mark.slow
def test_two_budgets_at_once(problem):
    def first_half(mask):
        return mask[:6].mean()

    def second_half(mask):
        return mask[6:].mean()

    pair = tuple(
        budgets.Budget(name, 6.0, limit, 0.25, cost)
        for name, limit, cost in (("first", 0.75, first_half), ("second", 0.5, second_half))
    )
    both = problem._replace(
        budgets=pair,
        cost=lambda mask: jnp.maximum(first_half(mask) / 0.75, second_half(mask) / 0.5),
        budget=1.0,
    )
    lines = []
    found = agent.search(AMC, both, KEY, progress=lambda _, metrics: lines.append(metrics))
    assert first_half(found.mask) <= 0.75
    assert second_half(found.mask) <= 0.5
    assert lines[0]["limit"] == [0.75, 0.5]
    assert len(lines[0]["cost"]) == 2
    assert all(line["feasible"] == 1 for line in lines)


@pytest.mark.parametrize("config", [ACNN, CACP], ids=["acnn", "cacp"])
def test_the_same_key_gives_the_same_search_and_resuming_changes_nothing(problem, tmp_path, config):
    whole = agent.search(config, problem, KEY)
    states = []
    agent.search(config, problem, KEY, progress=lambda state, metrics: states.append(state))
    checkpoint.save(tmp_path / "state", states[1])
    kept = checkpoint.load(tmp_path / "state", like=agent.init(config, problem, KEY))
    resumed = agent.search(config, problem, jax.random.PRNGKey(9), state=kept)
    same(whole.state, states[-1])
    same(whole.state, resumed.state)
    np.testing.assert_array_equal(whole.mask, resumed.mask)
    other = agent.search(config, problem, jax.random.PRNGKey(1))
    assert not np.array_equal(whole.archive.masks, other.archive.masks)


def test_nothing_is_compiled_after_the_first_round(problem, caplog):
    state = agent.init(AMC, problem, KEY)
    state, _ = agent.update(AMC, problem, state)
    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        for iterations in (3, 7):  # the outer loop's settings change nothing either
            config = dataclasses.replace(AMC, iterations=iterations)
            state, _ = agent.update(config, problem, state)
    assert not [line for line in caplog.messages if "Compiling" in line]


# ------------------------------------------------------------------------------------------ answers


@ALL
def test_the_answer_is_within_the_budget(problem, config):
    found = agent.search(config, problem, KEY)
    assert found.mask.mean() <= 0.5
    assert found.episodes == 12
    assert len(found.archive.cost) == 15


def test_magnitude_answers_where_no_episode_met_the_budget(problem):
    tight = problem._replace(budget=0.26)
    config = dataclasses.replace(FREE, iterations=1)
    # One channel of each group must do: uniformly random actions do not get there.
    lines = []
    found = agent.search(config, tight, KEY, progress=lambda _, metrics: lines.append(metrics))
    assert found.mask.sum() == 3
    assert lines[0]["best_accuracy"] == lines[0]["feasible"] == 0
    assert len(found.archive.cost) == 5 + 2


def test_what_cannot_be_met_or_measured_is_refused(problem):
    with pytest.raises(ValueError, match=r"budget 0\.1 cannot be met"):
        agent.search(AMC, problem._replace(budget=0.1), KEY)
    with pytest.raises(ValueError, match=r"budget 0\.2 cannot be met"):
        agent.search(dataclasses.replace(CACP, targets=(0.2,)), problem, KEY)
    counted = budgets.Budget("kept", 12.0, 0.5, 0.25, None, meter=lambda mask: float(mask.sum()))
    with pytest.raises(UserError, match="cannot measure it; use another method, such as crl"):
        agent.init(AMC, problem._replace(budgets=(counted,)), KEY)


def test_rewards_that_are_not_finite_stop_the_search(problem):
    broken = problem._replace(evaluate=lambda masks: Scores(masks.sum(-1), masks.sum(-1) * jnp.nan))
    with pytest.raises(UserError, match="a reward of round 1 is not finite"):
        agent.search(AMC, broken, KEY)


# ------------------------------------------------------------------------------------ known optimum


@pytest.mark.slow
@pytest.mark.parametrize("method", ["acnn", pytest.param("amc", marks=pytest.mark.slow)])
def test_the_best_of_a_small_problem_is_found_more_often_than_by_chance(known_problem, method):
    """Only the first three of six groups are of worth, and the budget has room for just these."""
    sizes = (8,) * 6

    def accuracy(mask):
        return mask[:24].mean()

    problem = known_problem(sizes, 27 / 48, accuracy)
    best = np.repeat([1, 0], 24)
    best[[31, 39, 47]] = 1  # one channel of each group stays

    shorter = {"iterations": 40, "hidden": (32, 32)}
    config = dataclasses.replace(methods.get(method).Config(), **shorter)
    if method == "amc":  # which has 2.5 times the rounds to learn in
        config = dataclasses.replace(config, actor_rate=1e-3)
    chance = dataclasses.replace(config, warmup=10**6)  # the same agent, which never learns
    hits, accuracies = {}, {}
    for name, one in (("learning", config), ("chance", chance)):
        masks = [ddpg.search(one, problem, jax.random.PRNGKey(seed)).mask for seed in range(5)]
        hits[name] = sum(np.array_equal(mask, best) for mask in masks)
        accuracies[name] = np.mean([mask[:24].mean() for mask in masks])
    assert hits["learning"] >= 4, (hits, accuracies)
    assert hits["learning"] > hits["chance"], (hits, accuracies)
    assert accuracies["learning"] > accuracies["chance"]


def test_methods_and_modules_agree():
    for name, module in (("acnn", acnn), ("amc", amc), ("cacp", cacp)):
        assert methods.get(name) is module
        assert module.search is ddpg.search
        assert name in methods.TRACED_ONLY
