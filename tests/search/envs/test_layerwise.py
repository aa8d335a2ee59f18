"""The layerwise environment: what is seen, what actions do, what always stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune import trace
from jaxprune.costs import within_groups
from jaxprune.costs.limits import any_width
from jaxprune.networks import bundled
from jaxprune.search.envs import layerwise
from jaxprune.search.envs.layerwise import Rules

SIZES = (3, 5, 2)
OBSERVATIONS = tuple((float(t), 1.0, float(size), 1.0, 1.0, 0.0) for t, size in enumerate(SIZES))
RANK = jnp.array([2, 0, 1, 4, 3, 2, 1, 0, 0, 1])
ONE = jnp.float32(1)


def rules_for(strategy: str) -> Rules:
    return Rules(any_width(SIZES), OBSERVATIONS, strategy)


def play(rules: Rules, actions: list, most: float = 1.0) -> layerwise.Step:
    state = layerwise.reset(rules, RANK)
    result = None
    for action in actions:
        padded = jnp.zeros(rules.action_size).at[: len(action)].set(jnp.array(action))
        result = layerwise.step(rules, RANK, state, padded, jnp.float32(most))
        state = result.state
    assert result is not None
    return result


def structure_of(name: str, image: tuple[int, int, int], **options):
    network = bundled.build(name, image)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    shape = (2, int(np.prod(image))) if network.flat else (2, *image)
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return trace(network.apply, variables, x, **options)


def test_what_is_seen_of_vgg11() -> None:
    rules = layerwise.rules(structure_of("vgg11", (32, 32, 3)))
    widths = [64, 128, 256, 256, 512, 512, 512, 512]
    inputs = [3, *widths]
    assert rules.sizes[:8] == tuple(widths)
    for t, width in enumerate(widths):
        assert rules.observations[t] == (t, inputs[t], width, 3, 1, 1)
    np.testing.assert_array_equal(layerwise.observe(rules, jnp.int32(2)), [2, 128, 256, 3, 1, 1])
    assert rules.action_size == 1
    assert layerwise.rules(structure_of("vgg11", (32, 32, 3)), "fine").action_size == 512


def test_what_is_seen_of_strides_dense_layers_and_inputs() -> None:
    resnet = layerwise.rules(structure_of("resnet20", (32, 32, 3)))
    strides = {observation[4] for observation in resnet.observations}
    assert strides == {1, 2}
    dense = layerwise.rules(structure_of("lenet300", (28, 28, 1), prune_inputs=True))
    assert dense.observations == (
        (0, 784, 784, 1, 1, 0),
        (1, 784, 300, 1, 1, 0),
        (2, 300, 100, 1, 1, 0),
    )


def test_rules_can_be_static_arguments() -> None:
    structure = structure_of("lenet300", (28, 28, 1))
    assert layerwise.rules(structure) == layerwise.rules(structure)
    assert hash(layerwise.rules(structure)) == hash(layerwise.rules(structure))
    with pytest.raises(ValueError, match="unknown strategy 'medium'; it is coarse or fine"):
        layerwise.rules(structure, "medium")


def test_coarse_actions_by_hand() -> None:
    rules = rules_for("coarse")
    # 0.4 of three is 1.2: one goes, the one of rank 0. Half of five is 2.5: three go. None of two.
    end = play(rules, [[0.4], [0.5], [0.1]])
    np.testing.assert_array_equal(end.state.values, [1, 0, 1, 1, 1, 0, 0, 0, 1, 1])
    assert end.done
    np.testing.assert_array_equal(layerwise.hard_mask(rules, end.state.values), end.state.values)


def test_the_ratio_is_clipped_and_one_channel_stays() -> None:
    rules = rules_for("coarse")
    end = play(rules, [[1.0], [7.0], [-3.0]])
    np.testing.assert_array_equal(end.state.values, [1, 0, 0, 1, 0, 0, 0, 0, 1, 1])
    end = play(rules, [[1.0], [7.0], [-3.0]], most=0.4)
    np.testing.assert_array_equal(end.state.values, [1, 0, 1, 1, 1, 1, 0, 0, 1, 1])


def test_fine_actions_by_hand() -> None:
    rules = rules_for("fine")
    assert rules.action_size == 5
    end = play(rules, [[0.2, 0.5, 1.4, 9, 9], [0.1, 0.4, 0.3, 0.49, -1], [0.6, 0.7]])
    np.testing.assert_allclose(
        end.state.values, [0.2, 0.5, 1, 0.1, 0.4, 0.3, 0.49, 0, 0.6, 0.7], rtol=1e-6
    )
    # At 0.5 a channel stays; of the second group, all below, the largest does.
    np.testing.assert_array_equal(
        layerwise.hard_mask(rules, end.state.values), [0, 1, 1, 0, 0, 0, 1, 0, 1, 1]
    )


def test_steps_and_the_end() -> None:
    rules = rules_for("coarse")
    first = play(rules, [[0.4]])
    assert not first.done
    assert int(first.state.step) == 1
    np.testing.assert_array_equal(first.observation, OBSERVATIONS[1])
    np.testing.assert_array_equal(first.state.values[3:], 1)  # undecided
    end = play(rules, [[0.4], [0.5], [0.1]])
    after = layerwise.step(rules, RANK, end.state, jnp.ones(1), ONE)
    assert after.done
    np.testing.assert_array_equal(after.state.values, end.state.values)
    np.testing.assert_array_equal(after.observation, OBSERVATIONS[2])


def test_the_clip_rises_by_equation_5_1() -> None:
    at = [float(layerwise.largest_ratio(0.8, 0.05, jnp.float32(t))) for t in (0, 0.5, 1)]
    np.testing.assert_allclose(at, [0.8, 0.825, 0.85], rtol=1e-6)
    assert float(layerwise.largest_ratio(0.99, 0.05, ONE)) == 1


def test_the_order_removes_before_1_what_the_actions_remove() -> None:
    rules = Rules(any_width((10, 4)), ((0.0,) * 6,) * 2, "coarse")
    rank = jnp.asarray([*range(9, -1, -1), 2, 0, 3, 1])
    actions = jnp.asarray([[0.3], [0.5]])
    order = layerwise.order(rules, rank, actions)
    state = layerwise.reset(rules, rank)
    for action in actions:
        state = layerwise.step(rules, rank, state, action, ONE).state
    np.testing.assert_array_equal(order < 1, state.values == 0)
    # Twice the actions: six of the first group, and all four of the second.
    np.testing.assert_array_equal(np.flatnonzero(order < 2), [4, 5, 6, 7, 8, 9, 10, 11, 12, 13])

    fine = Rules(any_width((3, 2)), ((0.0,) * 6,) * 2, "fine")
    drawn = jnp.asarray([[0.2, 0.5, 1.3], [0.4, 0.9, 7.0]])
    np.testing.assert_allclose(
        layerwise.order(fine, jnp.arange(5), drawn), [0.4, 1, 2, 0.8, 1.8], rtol=1e-6
    )


@pytest.mark.slow
@settings(deadline=None, max_examples=6)
@given(
    strategy=st.sampled_from(["coarse", "fine"]),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    seed=st.integers(0, 2**31 - 1),
)
def test_every_group_keeps_a_channel_and_jit_changes_nothing(strategy, sizes, seed) -> None:
    rules = Rules(any_width(sizes), tuple((0.0,) * 6 for _ in sizes), strategy)
    key, rank_key = jax.random.split(jax.random.key(seed))
    rank = within_groups.rank(rules.sizes, jax.random.uniform(rank_key, (sum(sizes),)))
    actions = jax.random.normal(key, (4, len(sizes), rules.action_size)) * 2

    def episode(actions):
        state = layerwise.reset(rules, rank)
        for t in range(len(sizes)):
            state = layerwise.step(rules, rank, state, actions[t], jnp.float32(0.95)).state
        return state.values

    values = jax.jit(jax.vmap(episode))(actions)
    np.testing.assert_array_equal(values[0], episode(actions[0]))
    masks = jax.vmap(lambda v: layerwise.hard_mask(rules, v))(values)
    kept = np.stack([np.asarray(within_groups.total(rules.sizes, mask)) for mask in masks])
    assert (kept >= 1).all()
    assert ((values >= 0) & (values <= 1)).all()
