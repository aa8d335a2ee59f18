"""How many candidates fit on a device: counted by hand, and asked for more than there is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune
from jaxprune.errors import UserError
from jaxprune.scoring import memory
from jaxprune.scoring.evaluation import EXAMPLES_AT_ONCE, candidates_at_once, evaluate


def peak(function, *arguments):
    return memory.peak_bytes(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_arrays_live_until_their_last_use():
    def chain(x):  # [4] float32 each: two at a time
        a = x + 1
        b = a * 2
        c = b - 3
        return c / 4

    assert peak(chain, jnp.ones(4)) == 2 * 16

    def held(x):  # a lives to the end
        a = x + 1
        b = a * 2
        c = b - 3
        return c / a

    assert peak(held, jnp.ones(4)) == 3 * 16
    assert peak(lambda x: x, jnp.ones(4)) == 0


def test_results_live_to_the_end_and_types_count():
    def several(x):
        a = x.astype(jnp.float16)  # 8 bytes, a result
        b = x + 1  # 16
        c = b * 2  # 16
        return a, c

    assert peak(several, jnp.ones(4)) == 8 + 16 + 16


def test_the_inside_of_calls_counts():
    @jax.jit
    def inner(x):
        wide = jnp.broadcast_to(x[None], (10, 4))  # 160
        return wide.sum(0)  # 16

    direct = peak(lambda x: inner(x) + 1, jnp.ones(4))
    assert direct >= 160 + 16


def layer(params, masks, x):
    return jnp.tanh(x @ params["in"]) * masks["in"] @ params["out"]


PARAMS = {"in": jnp.ones((100, 1000)), "out": jnp.ones((1000, 10))}
MASKS = {"in": jnp.ones(1000)}


def test_examples_that_fit_are_those_of_the_widest_moment(monkeypatch):
    x = jnp.ones((64, 100))
    monkeypatch.setattr(memory, "device_bytes", lambda: 10_000_000)
    # Two arrays of 1,000 float32 an example, and a mask as wide that is there once.
    assert memory.examples_that_fit(layer, PARAMS, MASKS, x) == pytest.approx(625, abs=2)
    monkeypatch.setattr(memory, "device_bytes", lambda: None)
    assert memory.examples_that_fit(layer, PARAMS, MASKS, x) is None


def test_fewer_candidates_at_once_where_memory_is_short(monkeypatch):
    x = jnp.ones((64, 100))
    plenty = candidates_at_once(layer, PARAMS, MASKS, x)
    assert plenty == EXAMPLES_AT_ONCE[True] // 64
    monkeypatch.setattr(memory, "device_bytes", lambda: 4_000_000)  # about 250 examples
    assert candidates_at_once(layer, PARAMS, MASKS, x) == 3
    monkeypatch.setattr(memory, "device_bytes", lambda: 500_000)  # about 30
    with pytest.raises(UserError, match=r"64 images .*29 images fit.*--search-examples"):
        candidates_at_once(layer, PARAMS, MASKS, x)


def test_scores_do_not_depend_on_the_memory(monkeypatch):
    rng = np.random.default_rng(0)
    params = {"in": rng.normal(size=(100, 1000)), "out": rng.normal(size=(1000, 10))}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)

    def apply(params, x):
        return jnp.tanh(x @ params["in"] / 10) @ params["out"]

    x, y = jnp.asarray(rng.normal(size=(64, 100)), jnp.float32), jnp.arange(64) % 10
    structure = jaxprune.trace(apply, params, x)
    masks = {structure.groups[0].name: jnp.asarray(rng.integers(0, 2, (20, 1000)), jnp.float32)}
    masked = jaxprune.masked(apply, structure)
    wide = evaluate(masked, params, masks, x, y)
    evaluate.clear_cache()
    monkeypatch.setattr(memory, "device_bytes", lambda: 1_500_000)
    narrow = evaluate(masked, params, masks, x, y)
    np.testing.assert_allclose(wide.loss, narrow.loss, rtol=1e-5)
    np.testing.assert_array_equal(wide.accuracy, narrow.accuracy)


def test_this_machine_knows_its_memory():
    assert memory.device_bytes() > 2**28
