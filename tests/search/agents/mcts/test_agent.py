"""Self-play, learning and the outer loop of Algorithm 3."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import jaxprune
from jaxprune.files import checkpoint
from jaxprune.scoring.evaluation import separated
from jaxprune.search.agents import mcts
from jaxprune.search.agents.mcts import agent, tree
from jaxprune.search.agents.mcts import queue as queues
from jaxprune.search.baselines import global_l1
from jaxprune.search.envs import filterwise
from jaxprune.search.problem import Problem, make_problem

KEY = jax.random.PRNGKey(0)
SMALL = mcts.Config(
    games=3,
    simulations=6,
    width=2,
    learning_steps=4,
    batch_size=8,
    queue_length=64,
    iterations=3,
    patience=9,
)


def count_of_even_filters(mask: jax.Array) -> jax.Array:
    return mask[::2].mean()


@pytest.fixture(scope="module")
def problem(known_problem) -> Problem:
    return known_problem((3, 5), 0.51, count_of_even_filters, importance=[1, 2, 3, 1, 2, 3, 4, 5])


def play(config: mcts.Config, problem: Problem, baseline: float) -> agent.SelfPlay:
    state = agent.init(config, problem, KEY)
    return agent.self_play(
        agent._within_a_round(config, problem),
        filterwise.rules(problem),
        *separated(problem.evaluate, (1, 8)),
        jnp.asarray(problem.importance, jnp.float32),
        state.variables,
        state.queue,
        state.memory,
        jnp.float32(baseline),
        KEY,
    )


# ------------------------------------------------------------------------------------ Algorithm 2


def test_games_run_from_the_dense_network_to_the_budget(problem: Problem) -> None:
    played = play(SMALL, problem, 0.5)
    # 0.51 of eight filters of equal cost allows four: every game has four moves.
    np.testing.assert_array_equal(played.masks.sum(axis=-1), [4, 4, 4])
    assert played.moves == 12
    assert played.queue.size == 12
    size = int(played.queue.size)
    masks, policies = np.asarray(played.queue.masks), np.asarray(played.queue.policies)
    games = np.asarray(played.queue.game)
    for game in range(3):
        positions = np.flatnonzero(games[:size] == game)
        np.testing.assert_array_equal(masks[positions].sum(axis=-1), [8, 7, 6, 5])
        path = [*masks[positions], np.asarray(played.masks[game])]
        for before, after, policy in zip(path, path[1:], policies[positions], strict=False):
            removed = np.flatnonzero(before != after)
            assert len(removed) == 1
            assert policy[removed[0]] > 0  # drawn from the policy
            legal = np.asarray(filterwise.legal(filterwise.rules(problem), jnp.asarray(before)))
            assert policy[~legal].sum() == 0
            np.testing.assert_allclose(policy.sum(), 1, rtol=1e-6)
            # Visits of six simulations.
            np.testing.assert_allclose(policy * 6, np.round(policy * 6), atol=1e-5)


def test_the_best_network_the_trees_evaluated_is_reported(problem: Problem) -> None:
    played = play(SMALL, problem, 0.5)
    score = jax.vmap(count_of_even_filters)
    assert (score(played.found) >= score(played.masks)).all()
    np.testing.assert_array_equal(played.found.sum(axis=-1), [4, 4, 4])


@pytest.mark.slow
def test_every_simulation_is_a_visit_of_one_group(problem: Problem) -> None:
    _, metrics = agent.update(SMALL, problem, agent.init(SMALL, problem, KEY))
    # Three games of four moves, six simulations each.
    assert sum(metrics["visits"]) == metrics["simulations"] == 3 * 4 * 6
    assert len(metrics["visits"]) == len(problem.structure.groups)


@pytest.mark.slow
def test_all_positions_of_a_game_get_its_outcome(problem: Problem) -> None:
    state = agent.init(SMALL, problem, KEY)
    state, metrics = agent.update(SMALL, problem, state)
    finished = state.archive.masks[2:5]  # after the two magnitude baselines
    won = finished[:, ::2].mean(axis=-1) > state.archive.accuracy[:2].max()
    assert metrics["wins"] == pytest.approx(won.mean())
    # Three games of four moves, stored move by move.
    outcomes = np.asarray(state.queue.outcomes[:12]).reshape(4, 3)
    np.testing.assert_array_equal(outcomes, np.tile(np.where(won, 1, -1), (4, 1)))
    assert (np.asarray(state.queue.game) == queues.SETTLED).all()


# ------------------------------------------------------------------------------------ Algorithm 3


def test_the_first_baseline_is_the_better_magnitude_pruning(problem: Problem) -> None:
    state = agent.init(SMALL, problem, KEY)
    assert len(state.archive.cost) == 2
    assert state.baseline == state.archive.accuracy.max()
    given = agent.init(mcts.Config(baseline=0.125), problem, KEY)
    assert given.baseline == 0.125


def test_rising_baseline_and_stop_counter(problem: Problem) -> None:
    config = mcts.Config(patience=2, iterations=100)
    state = agent.init(config, problem, KEY)._replace(baseline=np.float32(0.5))
    first, second = jnp.zeros(8, jnp.uint8), jnp.ones(8, jnp.uint8)
    expected = [  # accuracy, then baseline, stop counter, finished
        (0.5, 0.5, 1, False),  # equal is not better
        (0.75, 0.75, 0, False),
        (0.7, 0.75, 1, False),
        (0.6, 0.75, 2, True),
    ]
    for (accuracy, baseline, counter, over), mask in zip(
        expected, (first, second, first, first), strict=True
    ):
        state = agent.raise_baseline(state, mask, accuracy)
        assert state.baseline == baseline
        assert state.stop_counter == counter
        assert agent.finished(config, state) is over
    np.testing.assert_array_equal(state.greedy_mask, second)


def test_iterations_end_the_search(problem: Problem) -> None:
    state = agent.init(SMALL, problem, KEY)
    assert not agent.finished(SMALL, state._replace(iteration=jnp.int32(2)))
    assert agent.finished(SMALL, state._replace(iteration=jnp.int32(3)))


def test_before_learning_the_greedy_network_is_global_magnitude_pruning(problem: Problem) -> None:
    state = agent.init(SMALL, problem, KEY)
    rules = filterwise.rules(problem)
    mask = jax.jit(functools.partial(agent.greedy, SMALL, rules))(
        problem.importance, state.variables
    )
    np.testing.assert_array_equal(mask, global_l1(problem))


def test_loss_by_hand(problem: Problem) -> None:
    # An untrained network says value 0 and, without a prior, the uniform policy over what is legal.
    config = dataclasses.replace(SMALL, importance_prior=0.0)
    state = agent.init(config, problem, KEY)
    masks = jnp.array([[1, 1, 1, 1, 1, 1, 1, 1], [1, 0, 0, 1, 1, 1, 0, 1]], jnp.uint8)
    policies = jnp.zeros((2, 8)).at[0, 2].set(1.0).at[1, 3].set(0.5).at[1, 4].set(0.5)
    samples = masks, policies, jnp.array([1.0, -1.0])
    total, parts = jax.jit(agent.loss, static_argnums=(0, 1))(
        config, filterwise.rules(problem), problem.importance, state.variables, samples
    )
    np.testing.assert_allclose(parts.value, 1.0)  # (1 - 0)^2 and (-1 - 0)^2
    np.testing.assert_allclose(parts.policy, (np.log(8) + np.log(4)) / 2, rtol=1e-6)
    np.testing.assert_allclose(total, parts.value + parts.policy)


@pytest.mark.slow
def test_learning_follows_the_targets(problem: Problem) -> None:
    config = dataclasses.replace(SMALL, learning_steps=32, learning_rate=1e-2)
    state, rules = agent.init(config, problem, KEY), filterwise.rules(problem)
    variables, optimizer, queue = state.variables, state.optimizer, state.queue
    playing = jnp.array([True, False, False])
    for move, action in enumerate((7, 5)):  # a game that was won by removing 7, then 5
        masks = jnp.ones((3, 8), jnp.uint8).at[0, 7].set(1 - move)
        queue = queues.push(queue, masks, jax.nn.one_hot(jnp.full(3, action), 8), playing)
    for key in jax.random.split(KEY, 60):
        variables, optimizer, queue, losses, greedy_mask = agent.learn(
            agent._within_a_round(config, problem),
            rules,
            jnp.asarray(problem.importance, jnp.float32),
            variables,
            optimizer,
            queue,
            jnp.ones(3),
            key,
        )
    assert losses.value < 0.05
    assert losses.policy < 0.2
    # The two removals come first; what follows was never learned.
    assert greedy_mask[7] == greedy_mask[5] == 0


def test_nothing_is_compiled_after_the_first_round(problem: Problem) -> None:
    state = agent.init(SMALL, problem, KEY)
    state, _ = agent.update(SMALL, problem, state)
    compiled = []
    listener = lambda event, seconds, **_: compiled.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    jax.jit(lambda x: x + 1)(0)
    assert [event for event in compiled if "backend_compile" in event]  # the count counts
    compiled.clear()
    for _ in range(2):
        state, _ = agent.update(SMALL, problem, state)
    jax.monitoring.unregister_event_duration_listener(listener)
    assert not [event for event in compiled if "backend_compile" in event]


def test_update_is_a_function_of_the_state(problem: Problem) -> None:
    state = agent.init(SMALL, problem, KEY)
    first, metrics = agent.update(SMALL, problem, state)
    second, again = agent.update(SMALL, problem, state)
    assert metrics == again
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_resuming_from_a_checkpoint_continues_bit_for_bit(problem: Problem, tmp_path) -> None:
    whole = mcts.search(SMALL, problem, KEY)
    state, _ = mcts.update(SMALL, problem, mcts.init(SMALL, problem, KEY))
    checkpoint.save(tmp_path / "state", state)
    state = checkpoint.load(tmp_path / "state", like=mcts.init(SMALL, problem, KEY))
    seen = []
    resumed = mcts.search(
        SMALL,
        problem,
        jax.random.PRNGKey(99),
        state=state,
        progress=lambda _, metrics: seen.append(metrics["iteration"]),
    )
    assert seen == [2, 3]
    np.testing.assert_array_equal(whole.mask, resumed.mask)
    jax.tree.map(np.testing.assert_array_equal, whole.state, resumed.state)


@pytest.mark.slow
def test_other_settings(problem: Problem) -> None:
    config = dataclasses.replace(
        SMALL, tree_policy="gumbel", terminal="value", head="per_filter", iterations=1
    )
    result = mcts.search(config, problem, KEY)
    assert result.episodes == 3
    # Two magnitude prunings, three games and one greedy network; the trees evaluated none.
    assert len(result.archive.cost) == 6
    assert (result.archive.cost <= 0.51).all()
    for leaf in jax.tree.leaves(result.state):
        assert np.isfinite(leaf).all()


def test_a_time_limit_ends_the_search(problem: Problem) -> None:
    config = dataclasses.replace(SMALL, iterations=50, seconds=1e-9)
    result = mcts.search(config, problem, KEY)
    assert result.state.iteration == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"games": 0}, "games must be at least 1, not 0"),
        ({"temperature": -1.0}, "temperature must not be negative, not -1.0"),
        ({"dirichlet_fraction": 1.5}, r"dirichlet_fraction must lie in \[0, 1\], not 1.5"),
        ({"queue_length": 4}, "queue_length must hold one position of each of the 8 games, not 4"),
        ({"terminal": "guess"}, "terminal must be one of auto, evaluate, value, not 'guess'"),
    ],
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mcts.Config(**settings)


# ------------------------------------------------------------------------------- does it search?


@pytest.fixture(scope="module")
def small_network() -> tuple[Problem, float]:
    """A trained network of twelve hidden neurons, six of which must go, and the best of all ways.

    Brute force measures all 922 subsets that leave each layer a neuron.
    """
    digits = load_digits()
    x, y = jnp.asarray(digits.data[:1024] / 16), jnp.asarray(digits.target[:1024])

    def apply(params: list, x: jax.Array) -> jax.Array:
        for kernel, bias in params[:-1]:
            x = jnp.tanh(x @ kernel + bias)
        return x @ params[-1][0] + params[-1][1]

    def loss(params: list) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, x), y).mean()

    optimizer = optax.adam(0.01)

    def step(carry: tuple, _: None) -> tuple:
        params, state = carry
        changes, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, changes), state), None

    widths = (64, 6, 6, 10)
    keys = jax.random.split(KEY, 3)
    params = [
        (jax.random.normal(key, shape) / np.sqrt(shape[0]), jnp.zeros(shape[1]))
        for key, shape in zip(keys, itertools.pairwise(widths), strict=True)
    ]
    train = jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), None, 400))
    params = train(params)[0][0]

    structure = jaxprune.trace(apply, params, x[:1])
    problem = make_problem(apply, structure, params, (x, y), (x, y), cost="neurons", budget=0.5)
    subsets = np.array([[int(bit) for bit in f"{number:012b}"] for number in range(2**12)])
    feasible = subsets[(subsets.sum(1) == 6) & subsets[:, :6].any(1) & subsets[:, 6:].any(1)]
    assert len(feasible) == 922
    return problem, float(problem.evaluate(jnp.asarray(feasible)).accuracy.max())


@pytest.mark.slow
def test_finds_the_best_of_all_subsets_more_often_than_the_prior_alone(small_network) -> None:
    problem, best = small_network
    config = mcts.Config(
        games=8, simulations=24, width=2, iterations=6, patience=9, learning_steps=16
    )
    rules = filterwise.rules(problem)

    @jax.jit
    def play_by_prior(variables: dict, key: jax.Array) -> jax.Array:
        """As many games as the search plays, each removal drawn from the untrained policy."""

        def draw(masks: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            logits, _ = agent.policy_value(config, rules, problem.importance, variables, masks)
            actions = jax.random.categorical(key, logits)
            return jax.vmap(lambda m, a: filterwise.step(rules, m, a).mask)(masks, actions), None

        start = jnp.ones((config.games * config.iterations, 12), jnp.uint8)
        return jax.lax.scan(draw, start, jax.random.split(key, 6))[0]

    found_by_search = found_by_prior = 0
    for seed in range(5):
        key = jax.random.PRNGKey(seed)
        result = mcts.search(config, problem, key)
        found_by_search += bool(result.archive.accuracy.max() >= best)
        masks = play_by_prior(agent.init(config, problem, key).variables, key)
        np.testing.assert_array_equal(masks.sum(axis=-1), 6)
        found_by_prior += bool(problem.evaluate(masks).accuracy.max() >= best)
    assert found_by_search >= 4
    assert found_by_prior < found_by_search


def test_assess_gives_illegal_removals_no_chance(problem: Problem) -> None:
    state = agent.init(SMALL, problem, KEY)
    masks = jnp.array([[1, 0, 0, 1, 1, 1, 0, 1]], jnp.uint8)
    logits, _ = agent.policy_value(
        SMALL, filterwise.rules(problem), problem.importance, state.variables, masks
    )
    illegal = np.array([True, True, True, False, False, False, True, False])
    np.testing.assert_array_equal(np.asarray(logits[0]) == tree.ILLEGAL_LOGIT, illegal)


@pytest.mark.slow
def test_a_search_with_blocks_uses_the_budget_up(known_problem) -> None:
    order = np.random.default_rng(0).permutation(16).tolist()
    problem = known_problem((6, 10), 0.51, count_of_even_filters, importance=order)
    found = mcts.search(dataclasses.replace(SMALL, block=4), problem, KEY)
    assert found.archive.masks.shape[1] == 16
    assert found.mask.sum() == 8  # 0.51 of 16 filters of equal cost
    played = found.archive.masks[2:]  # after the two magnitude baselines
    np.testing.assert_array_equal(played.sum(axis=-1), 8)
    # Of each group the least important filters are gone.
    importance = np.asarray(problem.importance)
    for mask in played:
        for part in (slice(0, 6), slice(6, 16)):
            kept, lost = (importance[part][mask[part] == value] for value in (1, 0))
            assert not len(lost) or kept.min() >= lost.max()


def test_auto_is_the_papers_game_for_few_filters(problem: Problem) -> None:
    rules, importance = agent.game(SMALL, problem)
    assert rules == filterwise.rules(problem)
    np.testing.assert_array_equal(importance, problem.importance)


def test_the_importance_of_a_block_is_the_mean_of_its_filters(problem: Problem) -> None:
    rules, importance = agent.game(dataclasses.replace(SMALL, block=2), problem)
    # Groups of importance 1 2 3 and 1 2 3 4 5, each in blocks from below; the last one stays.
    assert rules.sizes == (2, 3)
    np.testing.assert_allclose(importance, [1.5, 3, 1.5, 3.5, 5])


def test_a_network_that_was_evaluated_is_remembered(problem: Problem) -> None:
    state, _ = agent.update(SMALL, problem, agent.init(SMALL, problem, KEY))
    used = int(state.memory.next)
    assert used > 0
    masks, accuracy = (np.asarray(part[:used]) for part in state.memory[::2])
    np.testing.assert_allclose(accuracy, masks[:, ::2].mean(axis=-1))
    assert len(np.unique(masks, axis=0)) == used
