"""Every network that a method scores obeys the limits on widths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune import Kept, Limits
from jaxprune.costs import within_groups
from jaxprune.scoring.evaluation import Scores
from jaxprune.search import methods
from jaxprune.search.agents import amc, mcts
from jaxprune.search.agents.ddpg import learning
from jaxprune.search.agents.ddpg.episodes import most_removed, rollout
from jaxprune.search.baselines import random_mask
from jaxprune.search.baselines.removal import least_removal, refill
from jaxprune.search.envs import filterwise, layerwise
from jaxprune.search.envs.observations import ENTRIES
from jaxprune.search.problem import Host
from marks import slow_if_in

SIZES = (8, 6, 5, 8)
LIMITS = Limits(
    round_to=3,
    min_size=2,
    groups={"layer2": Kept(least=1.0), "layer3": Kept(most=7)},
    equal=(("layer0", "layer3"),),
)
"""Groups 0 and 3 keep 6 or 3 of 8 alike, group 1 keeps 6 or 3 of 6, and group 2 all of 5."""

ROUND = {"iterations": 2, "episodes": 6, "validated": 2, "hidden": (8,)}
LAYERWISE = ROUND | {"hidden": (8, 8), "warmup": 6, "batch": 8, "max_ratio_dense": 0.7}
GAMES: dict = {
    **{"iterations": 1, "games": 2, "simulations": 4, "terminal": "evaluate"},
    **{"width": 2, "learning_steps": 2, "queue_length": 32},
}
SETTINGS = {
    "magnitude": {},
    "random": {"candidates": 8},
    "sensitivity": {"iterations": 2},
    "knapsack": {"iterations": 2},
    "evolution": {"candidates": 24, "batch": 8},
    "mcts": GAMES,
    "mcts two at once": GAMES | {"block": 2},
    "crl": ROUND | {"epochs": 1, "minibatch_size": 8},
    "crl fine": ROUND | {"epochs": 1, "minibatch_size": 8, "strategy": "fine"},
    "acnn": LAYERWISE,
    "acnn unbounded": LAYERWISE | {"unbounded": True},
    "amc": LAYERWISE,
    "cacp": LAYERWISE | {"targets": (0.8,)},
}
SLOW = {*SETTINGS} - {"magnitude", "random", "sensitivity", "knapsack", "evolution"}
"""Those that compile much; what they play is looked at below."""


@pytest.fixture(scope="module")
def problem(known_problem):
    """A problem, and a list that gets the masks of all networks that are scored."""
    seen = []

    def keep(masks):
        seen.append(np.asarray(masks).reshape(-1, masks.shape[-1]))

    def evaluate(masks):
        jax.debug.callback(keep, masks)
        accuracy = jnp.asarray(masks, jnp.float32).mean(-1)
        return Scores(1 - accuracy, accuracy)

    importance = np.random.default_rng(0).permutation(sum(SIZES)) + 1.0
    made = known_problem(SIZES, 0.65, importance=importance)
    made = made._replace(evaluate=evaluate, validate=evaluate, host=Host(evaluate, evaluate))
    return made._replace(widths=LIMITS), seen


def test_what_the_limits_allow(problem):
    assert problem[0].allowed.widths == ((6, 3), (6, 3), (5,), (6, 3))


@pytest.mark.parametrize("name", slow_if_in(SLOW, SETTINGS))
def test_every_network_that_a_search_scores_obeys(problem, name):
    problem, seen = problem
    method = methods.get(name.split()[0])
    seen.clear()
    found = method.search(method.Config(**SETTINGS[name]), problem, jax.random.PRNGKey(1))
    jax.effects_barrier()
    scored = np.concatenate(seen)
    if "fine" in name:  # whose rewards are those of soft masks
        scored = scored[np.isin(scored, (0, 1)).all(1)]
    scored = scored[~scored.all(1)]  # the dense network, which others are compared with
    assert len(scored)
    assert problem.allowed.holds(scored).all()
    assert problem.allowed.holds(found.archive.masks).all()
    assert problem.allowed.holds(found.mask)
    assert problem.cost(found.mask) <= problem.budget


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31 - 1))
def test_removal_in_any_order_obeys_and_so_does_what_is_given_back(problem, seed):
    """Methods that train a network remove by `least_removal` in the end, whatever their scores."""
    problem, _ = problem
    rng = np.random.default_rng(seed)
    score = jnp.asarray(rng.standard_normal(sum(SIZES)), jnp.float32)
    smaller = least_removal(problem._replace(budget=0.55), score)
    masks = np.stack([smaller, random_mask(problem, jax.random.PRNGKey(seed))])
    back = np.asarray(refill(problem, masks))
    for found in (masks, back):
        assert problem.allowed.holds(found).all()
        assert (jax.vmap(problem.cost)(found) <= problem.budget).all()
    assert (back >= masks).all()


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31 - 1), strategy=st.sampled_from(["coarse", "fine"]))
def test_any_actions_lead_to_allowed_widths(problem, seed, strategy):
    problem, _ = problem
    rules = layerwise.rules(problem.structure, strategy, problem.allowed)
    rank = within_groups.rank(SIZES, problem.importance)
    actions = np.random.default_rng(seed).uniform(-0.2, 1.2, (len(SIZES), rules.action_size))
    values = _play(rules, rank, actions.astype(np.float32))
    mask = layerwise.hard_mask(rules, values[-1])
    assert problem.allowed.holds(mask)
    if strategy == "coarse":
        assert problem.allowed.holds(values).all()  # after every step
        np.testing.assert_array_equal(mask, values[-1])
    assert (values[:, 14:19] == 1).all()


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31 - 1))
def test_any_episode_of_ddpg_goes_through_allowed_widths(problem, seed):
    problem, _ = problem
    config = amc.Config(**LAYERWISE)
    key = jax.random.PRNGKey(seed)
    actor = learning.init(config, key, len(ENTRIES["amc"])).networks.actor
    rank = within_groups.rank(SIZES, problem.importance)
    most = most_removed(config, problem)
    budgets = jnp.full(5, problem.budget, jnp.float32)
    posed = problem.structure, problem.allowed, problem.cost
    played = _rollout(config, *posed, actor, rank, most, budgets, jnp.int32(0), key)
    assert problem.allowed.holds(played.values).all()
    assert (jax.vmap(problem.cost)(played.values[:, -1]) <= problem.budget).all()
    kept = np.stack([part.sum(-1) for part in np.split(played.values[:, -1], [8, 14, 19], -1)], -1)
    np.testing.assert_allclose(played.ratios, 1 - kept / SIZES, atol=1e-6)


_rollout = jax.jit(rollout, static_argnums=(0, 1, 2, 3))


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31 - 1))
def test_any_game_goes_through_allowed_widths(problem, seed):
    problem, _ = problem
    rules, _ = mcts.agent.game(mcts.Config(block=2), problem)
    state, rng = filterwise.reset(rules), np.random.default_rng(seed)
    done = False
    while not done:
        mask, legal = _look(rules, state)
        assert problem.allowed.holds(mask)
        state, cost, done = _move(rules, state, jnp.int32(rng.choice(np.flatnonzero(legal))))
    assert problem.allowed.holds(_look(rules, state)[0])
    assert cost <= problem.budget


_move = jax.jit(filterwise.step, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _look(rules, state):
    return filterwise.filters(rules, state), filterwise.legal(rules, state)


@functools.partial(jax.jit, static_argnums=0)
def _play(rules, rank, actions):
    state, values = layerwise.reset(rules, rank), []
    for action in actions:
        state = layerwise.step(rules, rank, state, action, jnp.float32(1)).state
        values.append(state.values)
    return jnp.stack(values)
