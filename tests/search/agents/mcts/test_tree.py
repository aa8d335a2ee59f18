"""The tree search, against hand-computed trees and a plain search written for the benchmark."""

import dataclasses
import functools
import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.search.agents.mcts import memory as memories
from jaxprune.search.agents.mcts import tree
from jaxprune.search.agents.mcts.config import Config
from jaxprune.search.envs import filterwise
from jaxprune.search.envs.filterwise import Rules

KEY = jax.random.PRNGKey(0)
REPOSITORY = Path(__file__).parents[4]


def quiet(**settings) -> Config:
    """Settings without noise at the root."""
    return Config(dirichlet_fraction=0.0, **settings)


def kept_fraction(mask: jax.Array) -> jax.Array:
    return mask.mean()


def assess_with(logits: list[float], values: float = 0.0):
    """The same logits in every state, illegal actions masked, and one value."""

    def make(rules: Rules):
        def assess(masks: jax.Array) -> tuple[jax.Array, jax.Array]:
            legal = jax.vmap(lambda mask: filterwise.legal(rules, mask))(masks)
            prior = jnp.where(legal, jnp.asarray(logits, jnp.float32), tree.ILLEGAL_LOGIT)
            return prior, jnp.full(masks.shape[0], values)

        return assess

    return make


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def search(config: Config, rules: Rules, assess, judge, masks: jax.Array) -> tree.Decision:
    return tree.search(config, rules, assess, judge, masks, KEY)


# ---------------------------------------------------------------------------------- Algorithm 1


def test_temperature() -> None:
    visits = jnp.array([1, 3, 0])
    np.testing.assert_allclose(tree.improved_policy(visits, 1.0), [0.25, 0.75, 0], rtol=1e-6)
    np.testing.assert_allclose(tree.improved_policy(visits, 0.5), [0.1, 0.9, 0], rtol=1e-6)
    np.testing.assert_array_equal(tree.improved_policy(visits, 0), [0, 1, 0])


def test_extreme_temperatures_stay_finite() -> None:
    visits = jnp.array([30, 31, 0])
    np.testing.assert_allclose(tree.improved_policy(visits, 1e-3), [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(tree.improved_policy(visits, 1e6), [0.5, 0.5, 0], atol=1e-5)


def test_of_equally_visited_actions_temperature_zero_takes_the_first() -> None:
    np.testing.assert_array_equal(tree.improved_policy(jnp.array([2, 5, 5]), 0), [0, 1, 0])


# ------------------------------------------------------------------------- hand-computed trees

# Three filters, any removal ends the game; only removing filter 1 wins.
ONE_MOVE = Rules(kept_fraction, budget=0.7, sizes=(3,))


def only_without_filter_1(masks: jax.Array) -> jax.Array:
    return jnp.where(masks[:, 1] == 0, 0.9, 0.1)


def test_a_search_by_hand() -> None:
    # Values are scaled to (Q + 1) / 2, c = 1.25, the root counts as visited once.
    # 1: all at 0.5, the prior decides: action 0, a loss. Mean value of the root (0 - 1) / 2.
    # 2: 0 + 1.25 sqrt2 .5 / 2 = 0.44; .25 + 1.25 sqrt2 .3 = 0.78; .25 + .35 = 0.60: action 1, won.
    # 3: 0 + 1.25 sqrt3 .5 / 2 = 0.54; 1 + 1.25 sqrt3 .3 / 2 = 1.32; .5 + .43 = 0.93: action 1.
    assess = assess_with(np.log([0.5, 0.3, 0.2]).tolist())(ONE_MOVE)
    judge = tree.judge(ONE_MOVE, only_without_filter_1, jnp.float32(0.5), 1)
    start = jnp.ones((1, 3), jnp.uint8)
    found = search(quiet(simulations=3, temperature=0.5), ONE_MOVE, assess, judge, start)

    np.testing.assert_array_equal(found.tree.children_visits[0, 0], [1, 2, 0])
    np.testing.assert_array_equal(found.tree.action_from_parent[0, 1:3], [0, 1])
    np.testing.assert_allclose(found.policy[0], [0.2, 0.8, 0], rtol=1e-6)
    np.testing.assert_array_equal(found.tree.children_rewards[0, 0], [-1, 1, 0])
    np.testing.assert_array_equal(found.tree.children_discounts[0, 0, :2], [0, 0])
    # Root, loss, win, and the third simulation, which went on from the win and stayed there.
    np.testing.assert_array_equal(
        found.tree.embeddings.mask[0], [[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 0, 1]]
    )
    np.testing.assert_array_equal(found.tree.node_values[0, 1:], [0, 0, 0])
    # Mean of the network's own 0, a loss and two wins.
    np.testing.assert_allclose(found.tree.node_values[0, 0], 0.25)
    np.testing.assert_allclose(found.tree.embeddings.accuracy[0], [-1, 0.1, 0.9, -1], rtol=1e-6)
    np.testing.assert_array_equal(found.finished.mask[0], [1, 0, 1])
    np.testing.assert_allclose(found.finished.accuracy, [0.9])


def test_a_win_two_moves_ahead_is_found() -> None:
    # Four filters of one group, two must go; only the pair {2, 3} wins, and the prior is against.
    rules = Rules(kept_fraction, budget=0.5, sizes=(4,))
    assess = assess_with([1.0, 1.0, 0.0, 0.0])(rules)

    def accuracy(masks: jax.Array) -> jax.Array:
        return 1 - masks[:, 2:].max(axis=-1)

    judge = tree.judge(rules, accuracy, jnp.float32(0.5), 1)
    start = jnp.ones((1, 4), jnp.uint8)
    found = search(quiet(simulations=64), rules, assess, judge, start)
    assert found.policy[0, 2:].sum() > 0.6
    np.testing.assert_array_equal(found.finished.mask[0], [1, 1, 0, 0])


def one_step(rules: Rules, judge: tree.Judge, masks: list[list[int]], actions: list[int]):
    assess = assess_with([0.0] * len(masks[0]), values=0.25)(rules)
    nodes = tree.Node(jnp.asarray(masks, jnp.uint8), jnp.full(len(masks), tree.UNKNOWN))
    return tree.model(rules, assess, judge)(None, KEY, jnp.asarray(actions), nodes)


def test_steps_of_the_model_by_hand() -> None:
    rules = Rules(kept_fraction, budget=0.5, sizes=(1, 3))
    judge = tree.judge(rules, lambda masks: masks[:, 3], jnp.float32(0.5), 2)
    masks = [[1, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0], [1, 0, 0, 1]]
    output, nodes = one_step(rules, judge, masks, [1, 1, 2, 3])
    # Goes on; ends with filter 3, a win; ends without it, a loss; was over before.
    np.testing.assert_array_equal(
        nodes.mask, [[1, 0, 1, 1], [1, 0, 0, 1], [1, 1, 0, 0], [1, 0, 0, 1]]
    )
    np.testing.assert_array_equal(nodes.accuracy, [-1, 1, 0, -1])
    np.testing.assert_array_equal(output.reward, [0, 1, -1, 0])
    np.testing.assert_array_equal(output.discount, [1, 0, 0, 0])
    np.testing.assert_array_equal(output.value, [0.25, 0, 0, 0])
    np.testing.assert_array_equal(output.prior_logits[0], [-1e9, -1e9, 0, 0])


def test_a_game_that_ends_above_the_budget_is_lost() -> None:
    rules = Rules(kept_fraction, budget=0.1, sizes=(2,))
    judge = tree.judge(rules, lambda masks: jnp.ones(len(masks)), jnp.float32(0.5), 1)
    output, nodes = one_step(rules, judge, [[1, 1]], [0])
    np.testing.assert_array_equal(nodes.mask, [[0, 1]])
    np.testing.assert_array_equal(output.reward, [-1])
    np.testing.assert_array_equal(output.discount, [0])
    assert nodes.accuracy[0] == tree.UNKNOWN


def test_the_value_head_may_judge_instead() -> None:
    assess = assess_with([0.0] * 3, values=0.25)(ONE_MOVE)
    output, nodes = one_step(ONE_MOVE, tree.guess(ONE_MOVE, assess), [[1, 1, 1]], [2])
    np.testing.assert_array_equal(output.reward, [0.25])
    np.testing.assert_array_equal(output.value, [0])
    assert nodes.accuracy[0] == tree.UNKNOWN


# ------------------------------------------------------------------------------- what is legal


GROUPS = np.repeat([0, 1, 2], [1, 4, 3])
MIXED = Rules(kept_fraction, budget=0.5, sizes=(1, 4, 3))


def legal_by_hand(mask: np.ndarray) -> np.ndarray:
    return (mask == 1) & (np.bincount(GROUPS, mask)[GROUPS] > 1)


def finished_by_hand(mask: np.ndarray) -> bool:
    return mask.sum() <= 4 or not legal_by_hand(mask).any()


@functools.partial(jax.jit, static_argnums=0)
def decide(config: Config, preference: jax.Array, start: jax.Array, key: jax.Array):
    def assess(masks: jax.Array) -> tuple[jax.Array, jax.Array]:
        legal = jax.vmap(lambda mask: filterwise.legal(MIXED, mask))(masks)
        # Illegal actions are what this prior likes best.
        logits = preference + 20 * (1 - masks)
        return jnp.where(legal, logits, tree.ILLEGAL_LOGIT), jnp.tanh(masks @ preference)

    judge = tree.judge(MIXED, lambda masks: masks @ preference, jnp.float32(0.4), 3)
    return tree.search(config, MIXED, assess, judge, start, key)


@pytest.mark.parametrize("tree_policy", ["puct", "gumbel"])
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31 - 1))
def test_no_node_breaks_the_rules(tree_policy: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    games, simulations = 8, 48
    start = np.ones((games, 8), np.uint8)
    for game in range(games):  # some removed already, among them the last but one of a group
        start[game, rng.permutation(np.arange(1, 5))[: game % 4]] = 0
    config = Config(simulations=simulations, tree_policy=tree_policy)
    preference = jnp.asarray(rng.normal(size=8) * 3, jnp.float32)
    found = decide(config, preference, jnp.asarray(start), jax.random.PRNGKey(seed % 1000))
    policy, action = np.asarray(found.policy), np.asarray(found.action)

    nodes = np.asarray(found.tree.embeddings.mask)
    parents = np.asarray(found.tree.parents)
    actions = np.asarray(found.tree.action_from_parent)
    for game in range(games):
        for node in range(1, simulations + 1):
            parent, mask = nodes[game, parents[game, node]], nodes[game, node]
            if finished_by_hand(parent):
                assert (mask == parent).all()
            else:
                assert legal_by_hand(parent)[actions[game, node]]
                assert parent.sum() - mask.sum() == 1
            assert mask[0] == 1
            assert mask[1:5].any()
            assert mask[5:].any()
        if not finished_by_hand(start[game]):
            legal = legal_by_hand(start[game])
            assert legal[action[game]]
            np.testing.assert_allclose(policy[game][~legal], 0, atol=1e-7)
            np.testing.assert_allclose(policy[game].sum(), 1, rtol=1e-5)


@pytest.mark.parametrize("tree_policy", ["puct", "gumbel"])
def test_finished_games_in_the_batch_stay_and_nothing_becomes_nan(tree_policy: str) -> None:
    start = np.ones((8, 8), np.uint8)
    start[1:4] = [1, 1, 1, 0, 0, 1, 0, 0]  # the budget is met
    start[5] = [1, 1, 0, 0, 0, 1, 0, 0]  # nothing legal is left either
    config = Config(simulations=48, tree_policy=tree_policy)
    found = decide(config, jnp.arange(8.0), jnp.asarray(start), KEY)
    assert np.isfinite(found.policy).all()
    assert np.isfinite(found.tree.node_values).all()
    for game in (1, 2, 3, 5):
        np.testing.assert_array_equal(
            found.tree.embeddings.mask[game], np.tile(start[game], (49, 1))
        )
        assert found.finished.accuracy[game] == tree.UNKNOWN


def test_noise_stays_on_legal_actions_and_keeps_its_share() -> None:
    legal = jnp.array([[True, True, False, True]])
    logits = jnp.array([[2.0, 0.0, 5.0, -1.0]])
    prior = np.exp([2.0, 0.0, -1.0]) / np.exp([2.0, 0.0, -1.0]).sum()
    total, with_noise = np.zeros(3), jax.jit(tree.with_noise, static_argnums=(3, 4))
    for seed in range(300):
        noisy = with_noise(jax.random.PRNGKey(seed), logits, legal, 0.25, 10.0)
        assert noisy[0, 2] == tree.ILLEGAL_LOGIT
        mixture = np.exp(noisy[0, np.array([0, 1, 3])])
        np.testing.assert_allclose(mixture.sum(), 1, rtol=1e-5)
        assert (mixture >= 0.75 * prior - 1e-6).all()
        total += mixture
    # The noise is uniform in the mean.
    np.testing.assert_allclose(total / 300, 0.75 * prior + 0.25 / 3, atol=0.01)


# ---------------------------------------------------------------------- evaluating what finished


@pytest.mark.parametrize("chunk", [1, 2, 3, 8, 20])
def test_only_finished_networks_are_evaluated(chunk: int) -> None:
    rng = np.random.default_rng(chunk)
    masks = jnp.asarray(rng.integers(0, 2, (8, 6)), jnp.uint8)
    rules = Rules(kept_fraction, budget=1.0, sizes=(6,))  # every mask is within it
    evaluated = []

    def accuracy(masks: jax.Array) -> jax.Array:
        jax.debug.callback(lambda masks: evaluated.append(len(masks)), masks)
        return masks.mean(axis=-1)

    judge = jax.jit(tree.judge(rules, accuracy, jnp.float32(0.5), chunk))
    for count in range(9):
        evaluated.clear()
        selected = np.zeros(8, bool)
        selected[rng.permutation(8)[:count]] = True
        found = judge(masks, jnp.asarray(selected))
        jax.effects_barrier()
        size = min(chunk, 8)
        assert sum(evaluated) == -(-count // size) * size
        share = np.asarray(masks).mean(axis=-1)
        won = share > 0.5
        np.testing.assert_array_equal(found.outcome, np.where(selected, np.where(won, 1, -1), 0))
        known = selected
        np.testing.assert_allclose(found.accuracy, np.where(known, share, -1), rtol=1e-6)


def test_outcome_is_algorithm_2s() -> None:
    accuracy = jnp.array([0.4, 0.5, 0.6, 0.6])
    feasible = jnp.array([True, True, True, False])
    np.testing.assert_array_equal(tree.outcome(accuracy, 0.5, feasible), [-1, -1, 1, -1])


# -------------------------------------------------------------------- against a plain search


def load_benchmark():
    path = REPOSITORY / "experiments/benchmarks/tree_search.py"
    spec = importlib.util.spec_from_file_location("tree_search_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_mctx_and_the_plain_search_visit_the_same() -> None:
    benchmark = load_benchmark()
    rules, importance, config, variables = benchmark.game((3, 6), width=2, head="dense", seed=0)
    config = dataclasses.replace(config, simulations=60)
    expand = benchmark.one_position(rules, importance, config)
    grow = benchmark.batched_search(rules, importance, config)
    search = jax.jit(lambda *given: grow(*given).summary().visit_counts)
    starts = np.ones((2, 9), np.uint8)
    starts[1, [1, 5]] = 0
    rng = np.random.default_rng(0)
    for _ in range(4):
        random = jax.tree.map(
            lambda leaf: leaf + rng.normal(0, 0.2, leaf.shape).astype(np.float32), variables
        )
        expected = [
            benchmark.python_puct(start, functools.partial(expand, random), 60, config.exploration)
            for start in starts
        ]
        assert np.sum(expected, axis=1).tolist() == [60, 60]
        np.testing.assert_array_equal(search(random, jnp.asarray(starts), KEY), expected)


def test_remembered_networks_and_those_above_the_budget_are_not_evaluated() -> None:
    rules = Rules(kept_fraction, budget=0.5, sizes=(4,))
    masks = jnp.array([[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1]], jnp.uint8)
    known = jnp.array([True, False, False, False])
    memory = memories.remember(memories.empty(4), masks, jnp.full(4, 0.9), known)
    evaluated = []

    def accuracy(masks: jax.Array) -> jax.Array:
        jax.debug.callback(lambda masks: evaluated.extend(np.asarray(masks).tolist()), masks)
        return masks[:, 1] * 0.8

    judge = jax.jit(tree.judge(rules, accuracy, jnp.float32(0.5), 1, memory))
    found = judge(masks, jnp.array([True, True, True, False]))
    jax.effects_barrier()
    assert evaluated == [[0, 1, 0, 0]]
    np.testing.assert_allclose(found.accuracy, [0.9, 0.8, tree.UNKNOWN, tree.UNKNOWN])
    np.testing.assert_array_equal(found.outcome, [1, 1, -1, 0])
