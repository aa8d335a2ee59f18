"""Keras 3 models on JAX: traced, pruned, and back to Keras at the new widths."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import numpy as np
import pytest

import jaxprune
from jaxprune.errors import UserError

keras = pytest.importorskip("keras", reason="the extra keras is not installed")
if keras.config.backend() != "jax":
    pytest.skip("keras was imported on another backend", allow_module_level=True)
L = keras.layers


def normal(*shape):
    return jax.random.normal(jax.random.key(0), shape)


def pruned(model, x, budget=0.5, **options):
    """The compact network of half the parameters, its structure and the model built from it."""
    keras.utils.set_random_seed(0)
    for variable in model.variables:  # biases and statistics that matter
        if "float" in variable.dtype:
            noise = np.random.default_rng(len(variable.path)).uniform(0.5, 1.5, variable.shape)
            variable.assign(variable.value + 0.1 * noise)
    apply, variables = jaxprune.from_keras(model)
    inputs = x if isinstance(x, tuple) else (x,)
    np.testing.assert_allclose(apply(variables, *inputs), model(x, training=False), rtol=1e-5)
    small = jaxprune.prune(apply, variables, x, cost="params", budget=budget, **options)
    narrow = jaxprune.keras_model(model, small, x)
    assert type(narrow) is type(model)
    np.testing.assert_allclose(
        narrow(x, training=False), small(small.params, *inputs), rtol=1e-4, atol=1e-4
    )
    assert narrow.count_params() < model.count_params()
    return small, narrow


@pytest.mark.slow
def test_a_convolutional_network_with_branches():
    i = L.Input((8, 8, 3))
    x = r = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same", name="stem")(i)))
    x = L.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depth")(x)
    x = L.Add()([L.SeparableConv2D(8, 3, padding="same", name="separable")(x), r])
    x = L.Conv2D(8, 3, groups=2, name="grouped")(x)
    x = L.LayerNormalization()(L.Conv2DTranspose(6, 3, strides=2, name="transposed")(x))
    x = L.Dropout(0.5)(L.PReLU(shared_axes=[1, 2])(x))
    model = keras.Model(i, L.Dense(4)(L.Dense(10, activation="gelu", name="last")(L.Flatten()(x))))
    small, narrow = pruned(model, normal(2, 8, 8, 3), scope="uniform")
    stem, separable = narrow.get_layer("stem"), narrow.get_layer("separable")
    assert stem.filters == separable.filters < 8  # the residual sum
    assert narrow.get_layer("grouped").groups <= 2
    assert narrow.get_layer("transposed").filters == small.widths["transposed"] < 6
    assert narrow.get_layer("last").units == small.widths["last"] < 10


def test_a_sequential_network_inside_another_and_two_inputs():
    inner = keras.Sequential([L.Input((6,)), L.Dense(12, "relu", name="hidden"), L.Dense(5)])
    a, b = L.Input((6,)), L.Input((4,))
    joined = L.Concatenate()([inner(a), L.Dense(8, "tanh", name="side")(b)])
    model = keras.Model([a, b], L.Dense(3)(joined))
    apply, variables = jaxprune.from_keras(model)
    x = normal(2, 6), normal(2, 4)
    structure = jaxprune.trace(apply, variables, *x)
    assert sorted(group.size for group in structure.groups) == [5, 8, 12]
    _, narrow = pruned(model, x)
    assert narrow.layers[-1].units == 3


@pytest.mark.slow
def test_attention_embedding_and_recurrent_layers():
    i = L.Input((7,), dtype="int32")
    x = L.Embedding(11, 8, name="embedding")(i)
    attention = L.MultiHeadAttention(4, 2, name="attention")
    x = L.Add()([x, attention(x, x)])
    x = L.RMSNormalization()(x)
    x = L.LSTM(6, name="recurrent")(
        L.EinsumDense("abc,cd->abd", (None, 9), bias_axes="d", name="einsum_dense")(x)
    )
    model = keras.Model(i, L.Dense(3)(x))
    tokens = np.arange(14, dtype=np.int32).reshape(2, 7) % 11
    apply, variables = jaxprune.from_keras(model)
    structure = jaxprune.trace(apply, variables, tokens)
    masks = structure.full_masks()
    gone = {"attention/query": 1, "embedding": 3, "einsum_dense": 2, "recurrent/lstm_cell": 2}
    for name, count in gone.items():
        masks[name][:count] = 0
    small = jaxprune.compact(apply, structure, variables, masks)
    narrow = jaxprune.keras_model(model, small, tokens)
    np.testing.assert_allclose(
        narrow(tokens, training=False), small(small.params, tokens), rtol=1e-4, atol=1e-5
    )
    assert narrow.get_layer("attention").num_heads == 3
    assert narrow.get_layer("embedding").output_dim == 5
    assert narrow.get_layer("recurrent").units == 4


def test_a_compiled_model_can_be_trained_and_saved(tmp_path):
    model = keras.Sequential(
        [L.Input((6,)), L.Dense(16, "relu"), L.BatchNormalization(), L.Dense(1)]
    )
    model.compile(optimizer="sgd", loss="mse")
    _, narrow = pruned(model, normal(4, 6))
    history = narrow.fit(normal(32, 6), normal(32, 1), epochs=3, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    narrow.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(loaded(normal(4, 6)), narrow(normal(4, 6)), rtol=1e-5)


def test_layers_that_are_not_trained_are_state():
    model = keras.Sequential([L.Input((6,)), L.Dense(16, name="fixed"), L.Dense(2)])
    model.layers[0].trainable = False
    _, variables = jaxprune.from_keras(model)
    assert [name.split("/", 1)[1] for name in variables["state"]] == ["fixed/kernel", "fixed/bias"]


def test_what_cannot_be_expressed_is_refused_with_the_reason():
    x = normal(2, 4)
    i = L.Input((4,))
    folded = L.Reshape((6, 2))(L.Dense(12, name="wide")(i))
    reshaped = keras.Model(i, L.Dense(2)(L.Dense(3, name="fold")(L.Flatten()(folded))))
    apply, variables = jaxprune.from_keras(reshaped)
    structure = jaxprune.trace(apply, variables, x)
    masks = structure.full_masks()
    masks["wide"][:4] = 0
    small = jaxprune.compact(apply, structure, variables, masks)
    with pytest.raises(UserError, match=r"cannot run at the new widths .*Reshape.call"):
        jaxprune.keras_model(reshaped, small, x)

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__(name="mine")
            self.dense, self.last = L.Dense(8), L.Dense(2)

        def call(self, x):
            return self.last(keras.ops.relu(self.dense(x)))

    model = Subclassed()
    with pytest.raises(UserError, match=r"'mine' has no variables yet: call it once"):
        jaxprune.from_keras(model)
    model(x)
    apply, variables = jaxprune.from_keras(model)
    small = jaxprune.prune(apply, variables, x)  # pruned it can be
    with pytest.raises(UserError, match=r"'mine' is a Subclassed, whose layers only its own code"):
        jaxprune.keras_model(model, small, x)
    with pytest.raises(UserError, match=r"not those of the model 'functional"):
        jaxprune.keras_model(reshaped, small, x)


def test_a_pruned_head_dimension_is_refused():
    i = L.Input((5, 8))
    model = keras.Model(i, L.Dense(2)(L.MultiHeadAttention(2, 4, name="attention")(i, i)))
    apply, variables = jaxprune.from_keras(model)
    structure = jaxprune.trace(apply, variables, normal(2, 5, 8))
    masks = structure.full_masks()
    for name in ("attention/query#2", "attention/value"):  # and of the values, as Keras wants it
        masks[name][0] = 0
    small = jaxprune.compact(apply, structure, variables, masks)
    with pytest.raises(UserError, match=r"outputs differ .*as attention does with its head dim"):
        jaxprune.keras_model(model, small, normal(2, 5, 8))


def test_another_backend_is_one_line(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "tensorflow")
    with pytest.raises(UserError, match=r"\AKeras runs on tensorflow, not on JAX: set .*=jax"):
        jaxprune.from_keras(keras.Sequential([L.Input((2,)), L.Dense(1)]))
