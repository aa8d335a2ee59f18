"""What networks take and return, saved: several inputs, dicts, scalars, examples that depend."""

import json
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune
from jaxprune.errors import UserError
from jaxprune.networks import export

_RNG = np.random.default_rng(5)


def weights(*shape):
    return jnp.asarray(_RNG.normal(size=shape) / np.sqrt(shape[0]), jnp.float32)


PARAMS = {"a": weights(4, 6), "b": weights(5, 6), "o": weights(6, 3)}
X, Y = weights(3, 4), weights(3, 5)


def hidden(params, x):
    return jax.nn.relu(x @ params["a"])


def pruned(apply, *inputs, params=PARAMS):
    """The network without channels 1 and 4 of each group."""
    structure = jaxprune.trace(apply, params, *inputs)
    masks = {g.name: ~np.isin(np.arange(g.size), [1, 4]) for g in structure.groups}
    assert masks
    return jaxprune.compact(apply, structure, params, masks)


def saved(folder, apply, *inputs, params=PARAMS):
    """The compact network and what is read back of it, which agree on the inputs."""
    small = pruned(apply, *inputs, params=params)
    export.save(folder, small, *inputs)
    loaded = export.load(folder)
    assert_same(loaded(loaded.params, *inputs), small(small.params, *inputs))
    return small, loaded


def assert_same(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_two_inputs(tmp_path):
    def apply(params, x, y):
        return jax.nn.relu(x @ params["a"] + y @ params["b"]) @ params["o"]

    small, loaded = saved(tmp_path, apply, X, Y)
    assert str(loaded.inputs) == "(0: float32(batch, 4), 1: float32(batch, 5))"
    assert_same(loaded(loaded.params, X[:1], Y[:1]), small(small.params, X, Y)[:1])
    with pytest.raises(ValueError, match="takes inputs 0, 1, it was given 0"):
        loaded(loaded.params, X)
    with pytest.raises(ValueError, match=r"different numbers of examples: \[2, 3\]"):
        loaded(loaded.params, X[:2], Y)
    with pytest.raises(ValueError, match=r"input 1 has shape \(3, 4\) instead of \(batch, 5\)"):
        loaded(loaded.params, X, X)


TEXT = {"ids": jnp.array([[1, 2, 3], [4, 5, 0]]), "mask": jnp.array([[1.0, 1, 1], [1, 1, 0]])}


def encoder(params, text):
    tokens = params["table"][text["ids"]] * text["mask"][..., None]
    mean = tokens.sum(1) / text["mask"].sum(1)[:, None]
    return jax.nn.relu(mean @ params["b"]) @ params["o"]


def test_a_dict_of_inputs(tmp_path):
    params = {"table": weights(6, 5), "b": weights(5, 6), "o": weights(6, 3)}
    small, loaded = saved(tmp_path, encoder, TEXT, params=params)
    other = {"ids": jnp.array([[5, 1]] * 4), "mask": jnp.ones((4, 2))}
    with pytest.raises(ValueError, match=r"input 0/ids has shape \(4, 2\) instead of \(batch, 3\)"):
        loaded(loaded.params, other)
    other = jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], 5, 0), TEXT)
    assert_same(loaded(loaded.params, other), small(small.params, other))
    program = export.stablehlo(small, TEXT)
    assert_same(program.call(small.params, other), small(small.params, other))


@pytest.mark.parametrize("shared", [jnp.float32(2.0), 2.0, weights(5)])
def test_an_input_of_all_examples(tmp_path, shared):
    def apply(params, x, shared):
        return hidden(params, x) @ params["o"] / (1 + jnp.sum(shared) ** 2)

    small, loaded = saved(tmp_path, apply, X, shared)
    assert loaded.batch is None
    assert_same(loaded(loaded.params, X[:2], shared), small(small.params, X[:2], shared))


Named = namedtuple("Named", ["logits", "penalty"])


def test_named_outputs_and_a_scalar_of_the_parameters_alone(tmp_path):
    def apply(params, x):
        return Named(hidden(params, x) @ params["o"], jnp.square(params["a"]).sum())

    small = pruned(apply, X)
    export.save(tmp_path, small, X)
    loaded = export.load(tmp_path)
    for batch in (1, 3, 4):
        x = jnp.resize(X, (batch, 4))
        outputs = loaded(loaded.params, x)
        assert_same(outputs["logits"], small(small.params, x).logits)
        assert_same(outputs["penalty"], np.square(small.params["a"]).sum())


def with_balance(params, x):
    inside = hidden(params, x)
    return {"logits": inside @ params["o"], "balance": (inside.mean(0) ** 2).sum()}


def batch_statistics(params, x):
    inside = x @ params["a"]
    return jax.nn.relu((inside - inside.mean(0)) / (inside.std(0) + 1e-3)) @ params["o"]


def graph(params, x):
    inside = hidden(params, x)
    return (inside + jax.ops.segment_sum(inside[jnp.array([0, 2])], jnp.array([1, 0]), 3)) @ params[
        "o"
    ]


def time_first(params, x):
    def step(state, now):
        state = jnp.tanh(now @ params["a"] + state)
        return state, state @ params["o"]

    return jax.lax.scan(step, jnp.zeros((x.shape[1], 6)), x)[1]


@pytest.mark.parametrize(
    ("apply", "x"),
    [(with_balance, X), (batch_statistics, X), (graph, X), (time_first, weights(3, 2, 4))],
)
def test_examples_that_depend_on_each_other_keep_their_number(tmp_path, apply, x):
    small = pruned(apply, x)
    export.save(tmp_path, small, x)
    loaded = export.load(tmp_path)
    assert loaded.batch == 3
    jax.tree.map(assert_same, loaded(loaded.params, 2 * x), small(small.params, 2 * x))
    with pytest.raises(ValueError, match=r"\(3, .*was saved for 3 examples, which depend on each"):
        loaded(loaded.params, x[:2])
    assert [aval.shape for aval in export.stablehlo(small, x).in_avals][-1] == x.shape


def test_several_rows_for_each_example(tmp_path):
    x = weights(2, 7, 4)
    _, loaded = saved(tmp_path, lambda p, x: (hidden(p, x) @ p["o"]).reshape(-1, 3), x)
    assert loaded(loaded.params, x[:1]).shape == (7, 3)


def test_prints_and_checks_are_left_out(tmp_path, capfd):
    eqx = pytest.importorskip("equinox")

    def apply(params, x):
        inside = hidden(params, x)
        jax.debug.print("largest {}", inside.max())
        inside = eqx.error_if(inside, jnp.isnan(inside).any(), "not a number")

        def halve(_, inside):
            jax.debug.callback(print, inside)
            return inside / 2

        return jax.lax.fori_loop(0, 2, halve, inside) @ params["o"]

    small = pruned(apply, X)
    export.save(tmp_path, small, X)
    capfd.readouterr()
    loaded = export.load(tmp_path)
    outputs = loaded(loaded.params, X)
    jax.effects_barrier()
    assert capfd.readouterr().out == ""
    assert_same(outputs, small(small.params, X))


def test_a_network_that_calls_python_is_refused(tmp_path):
    def apply(params, x):
        like = jax.ShapeDtypeStruct((3, 6), jnp.float32)
        noise = jax.pure_callback(lambda x: np.ones((3, 6), np.float32), like, x)
        return (hidden(params, x) + noise) @ params["o"]

    with pytest.raises(UserError, match=r"calls Python \('pure_callback' at .*test_inputs\.py:\d+"):
        export.save(tmp_path / "model", pruned(apply, X), X)
    assert not (tmp_path / "model").exists()


def test_what_is_no_batch_of_arrays(tmp_path):
    small = pruned(lambda params, x: hidden(params, x) @ params["o"], X)
    with pytest.raises(UserError, match="a batch of inputs is missing"):
        export.save(tmp_path, small)
    with pytest.raises(UserError, match=r"of type str, no array .*metadata is given by name"):
        export.save(tmp_path, small, X, {"task": "a test"})


def test_models_of_the_first_format_are_read(tmp_path):
    small, _ = saved(tmp_path, lambda params, x: hidden(params, x) @ params["o"], X)
    about = tmp_path / "widths.json"
    description = json.loads(about.read_text())
    del description["inputs"], description["batch"]
    description |= {"format": 1, "input": {"shape": [4], "dtype": "float32"}}
    about.write_text(json.dumps(description))
    loaded = export.load(tmp_path)
    assert (loaded.input_shape, loaded.input_dtype) == ((4,), np.float32)
    assert_same(loaded(loaded.params, X[:2]), small(small.params, X[:2]))


def test_onnx_of_two_inputs(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("jax2onnx")

    def apply(params, x, y):
        jax.debug.print("{}", x.sum())
        return {"sum": jax.nn.relu(x @ params["a"] + y @ params["b"]) @ params["o"]}

    small = pruned(apply, X, Y)
    export.onnx(tmp_path / "two.onnx", small, X, Y)
    session = runtime.InferenceSession(tmp_path / "two.onnx", providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {"0": np.asarray(X[:2]), "1": np.asarray(Y[:2])})
    assert_same(outputs, small(small.params, X[:2], Y[:2])["sum"])
    with pytest.raises(UserError, match="batch size"):
        export.onnx(tmp_path / "balance.onnx", pruned(with_balance, X), X)
