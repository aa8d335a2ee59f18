"""Every network that a method scores obeys the limits on widths."""

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
from jaxprune.search.baselines import random_mask
from jaxprune.search.baselines.removal import least_removal, refill
from jaxprune.search.envs import layerwise
from jaxprune.search.problem import Host

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
SETTINGS = {
    "magnitude": {},
    "random": {"candidates": 8},
    "crl": ROUND | {"epochs": 1, "minibatch_size": 8},
    "crl fine": ROUND | {"epochs": 1, "minibatch_size": 8, "strategy": "fine"},
    "acnn": LAYERWISE,
    "acnn unbounded": LAYERWISE | {"unbounded": True},
    "amc": LAYERWISE,
    "cacp": LAYERWISE | {"targets": (0.8,)},
}


@pytest.fixture(scope="module")
def problem(known_problem):
    """A problem, and a list that gets the masks of all networks that are scored."""
    seen = []

    def evaluate(masks):
        seen.append(np.asarray(masks).reshape(-1, masks.shape[-1]))
        accuracy = jnp.asarray(masks).mean(-1)
        return Scores(1 - accuracy, accuracy)

    importance = np.random.default_rng(0).permutation(sum(SIZES)) + 1.0
    made = known_problem(SIZES, 0.65, importance=importance)
    return made._replace(widths=LIMITS, host=Host(evaluate, evaluate)), seen


def test_what_the_limits_allow(problem):
    assert problem[0].allowed.widths == ((6, 3), (6, 3), (5,), (6, 3))


@pytest.mark.parametrize("name", SETTINGS)
def test_every_network_that_a_search_scores_obeys(problem, name):
    problem, seen = problem
    method = methods.get(name.split()[0])
    seen.clear()
    found = method.search(method.Config(**SETTINGS[name]), problem, jax.random.PRNGKey(1))
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


@jax.jit(static_argnums=0)
def _play(rules, rank, actions):
    state, values = layerwise.reset(rules, rank), []
    for action in actions:
        state = layerwise.step(rules, rank, state, action, jnp.float32(1)).state
        values.append(state.values)
    return jnp.stack(values)
