import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxprune import trace
from jaxprune.networks.bundled import build


def bundled(name, image_shape):
    network = build(name, image_shape)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    shape = (2, int(np.prod(image_shape))) if network.flat else (2, *image_shape)
    return network, variables, jax.ShapeDtypeStruct(shape, jnp.float32)


def dense_layer(params, x):
    return x @ params["kernel"] + params["bias"]


def layer(inputs, outputs):
    return {"kernel": jnp.ones((inputs, outputs)), "bias": jnp.zeros(outputs)}


X = np.ones((4, 3), np.float32)


def test_a_chain_of_layers():
    network, variables, x = bundled("lenet300", (28, 28, 1))
    structure = trace(network.apply, variables, x)
    assert [(group.name, group.size) for group in structure.groups] == [("fc1", 300), ("fc2", 100)]
    first = structure.groups[0]
    assert first.layers == ("fc1",)
    assert first.consumers == ("fc2",)
    assert set(first.carried) == {"fc1/bias", "fc1/kernel", "fc2/kernel"}
    assert structure.num_channels == 400
    np.testing.assert_array_equal(structure.group_index, [0] * 300 + [1] * 100)
    assert [(f.layers, f.size, f.reason) for f in structure.frozen] == [
        (("fc3",), 10, "the function returns them")
    ]


def test_channels_are_numbered_in_the_order_of_the_layer():
    network, variables, x = bundled("lenet300", (28, 28, 1))
    structure = trace(network.apply, variables, x)
    leaf = structure.paths.index("fc2/kernel")
    np.testing.assert_array_equal(structure.channels[leaf][0], np.arange(300))
    np.testing.assert_array_equal(structure.channels[leaf][1], np.arange(300, 400))


def test_flatten_tiles_channels_over_positions():
    network, variables, x = bundled("lenet5", (28, 28, 1))
    structure = trace(network.apply, variables, x)
    assert [(group.name, group.size) for group in structure.groups] == [
        ("conv1", 20),
        ("conv2", 50),
        ("fc1", 500),
    ]
    kernel = structure.channels[structure.paths.index("fc1/kernel")][0]
    np.testing.assert_array_equal(kernel, np.tile(np.arange(20, 70), 16))


def test_a_residual_sum_couples_layers():
    network, variables, x = bundled("resnet20", (32, 32, 3))
    structure = trace(network.apply, variables, x)
    by_name = {group.name: group for group in structure.groups}
    assert by_name["conv1"].layers == (
        "conv1",
        "stage1_block0/conv2",
        "stage1_block1/conv2",
        "stage1_block2/conv2",
    )
    assert len(structure.groups) == 12  # 3 stages and the inner layer of 9 blocks
    assert structure.num_channels == 16 + 32 + 64 + 3 * (16 + 32 + 64)


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "resnet50"])
def test_every_layer_but_the_last_is_prunable(name):
    network, variables, x = bundled(name, (32, 32, 3))
    structure = trace(network.apply, variables, x)
    produced = {layer for group in structure.groups for layer in group.layers}
    kernels = {path.removesuffix("/kernel") for path in structure.paths if path.endswith("/kernel")}
    assert kernels - produced == {"classifier"}
    assert [frozen.layers for frozen in structure.frozen] == [("classifier",)]


def test_input_features_on_request():
    network, variables, x = bundled("lenet300", (28, 28, 1))
    structure = trace(network.apply, variables, x, prune_inputs=True)
    assert [(g.name, g.size) for g in structure.groups] == [
        ("input", 784),
        ("fc1", 300),
        ("fc2", 100),
    ]


def test_ignored_layers_stay_whole():
    network, variables, x = bundled("resnet20", (32, 32, 3))
    structure = trace(network.apply, variables, x, ignore=["stage1_*/conv1"])
    names = {group.name for group in structure.groups}
    assert not any(name.startswith("stage1_") for name in names)
    assert {f.layers for f in structure.frozen if "ignored" in f.reason} == {
        ("stage1_block0/conv1",),
        ("stage1_block1/conv1",),
        ("stage1_block2/conv1",),
    }
    with pytest.raises(ValueError, match="ignore: 'stage9_\\*' matches no layer"):
        trace(network.apply, variables, x, ignore=["stage9_*"])


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (({}, dense_layer, X), {}, TypeError, r"apply is of type dict, .* trace\(apply, params, "),
        ((nn.Dense(2), layer(3, 2), X), {}, TypeError, "of type Dense, .* its attribute `apply`"),
        ((dense_layer, layer(3, 2) | {"act": jnp.tanh}, X), {}, TypeError, "'act' is of type "),
        ((dense_layer, layer(3, 2), "x"), {}, TypeError, "an input is of type str, no array"),
        ((dense_layer, layer(3, 2), X), {"ignore": "fc1"}, TypeError, r"ignore=\['fc1'\]"),
        ((dense_layer, layer(3, 2), X), {"also": dense_layer}, TypeError, r"also=\[fn\]"),
        ((dense_layer, layer(3, 2), X[:0]), {}, ValueError, r"no example: .* \(0, 3\); give at"),
    ],
)
def test_what_is_refused(arguments, options, error, message):
    with pytest.raises(error, match=message):
        trace(*arguments, **options)


def test_a_primitive_without_a_rule_freezes_and_says_so():
    def apply(params, x):
        _, hidden = jax.lax.linalg.qr(dense_layer(params["first"], x), full_matrices=False)
        hidden = dense_layer(params["second"], hidden)
        return dense_layer(params["third"], jnp.tanh(hidden))

    params = {"first": layer(3, 8), "second": layer(8, 6), "third": layer(6, 2)}
    structure = trace(apply, params, jnp.ones((4, 3)))
    assert [group.name for group in structure.groups] == ["second"]
    reasons = {frozen.layers: frozen for frozen in structure.frozen}
    assert reasons[("first",)].reason == "no rule for primitive 'qr'"
    assert "test_trace.py" in reasons[("first",)].source


def test_concatenated_layers_form_groups_of_their_own():
    def apply(params, x):
        a, b = dense_layer(params["a"], x), dense_layer(params["b"], x)
        return dense_layer(params["c"], jnp.concatenate([a, b], axis=-1))

    params = {"a": layer(3, 4), "b": layer(3, 5), "c": layer(9, 2)}
    structure = trace(apply, params, jnp.ones((4, 3)))
    assert [(group.name, group.size) for group in structure.groups] == [("a", 4), ("b", 5)]
    kernel = structure.channels[structure.paths.index("c/kernel")][0]
    np.testing.assert_array_equal(kernel, np.arange(9))


def test_parts_of_one_layer_that_are_read_apart():
    def apply(params, x):
        left, right = jnp.split(dense_layer(params["both"], x), 2, axis=-1)
        return dense_layer(params["l"], left) + dense_layer(params["r"], right)

    params = {"both": layer(3, 8), "l": layer(4, 2), "r": layer(4, 2)}
    structure = trace(apply, params, jnp.ones((4, 3)))
    assert [(group.name, group.size) for group in structure.groups] == [("both", 4), ("both#2", 4)]


def test_a_split_axis_loses_whole_rows_and_columns():
    def apply(params, x):
        hidden = dense_layer(params["first"], x).reshape(4, 2, 3)
        return dense_layer(params["second"], jnp.einsum("brc,r->bc", hidden, params["mix"]))

    params = {"first": layer(3, 6), "mix": jnp.ones(2), "second": layer(3, 2)}
    structure = trace(apply, params, jnp.ones((4, 3)))
    assert [(g.name, g.size) for g in structure.groups] == [("first", 2), ("first#2", 3)]
    kernel = structure.channels[structure.paths.index("first/kernel")][1]
    rows, columns = np.divmod(np.arange(6), 3)
    np.testing.assert_array_equal(structure.joints[kernel - 5], np.stack([rows, 2 + columns], 1))
    mix, second = (
        structure.channels[structure.paths.index(p)][0] for p in ("mix", "second/kernel")
    )
    np.testing.assert_array_equal(mix, [0, 1])
    np.testing.assert_array_equal(second, [2, 3, 4])


def test_one_example_traces_like_many():
    network, variables, x = bundled("lenet5", (28, 28, 1))
    one = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    assert str(trace(network.apply, variables, one)) == str(trace(network.apply, variables, x))


def test_the_table_names_groups_and_totals():
    network, variables, x = bundled("cnn", (8, 8, 1))
    text = str(trace(network.apply, variables, x))
    assert "conv1        16       4,784         82,944  conv1   conv2" in text
    assert "frozen: classifier (10 channels): the function returns them" in text
    assert "3 groups, 112 channels, 24,058 parameters, 378,496 multiply-adds" in text


def test_flat_masks_round_trip():
    network, variables, x = bundled("cnn", (8, 8, 1))
    structure = trace(network.apply, variables, x)
    vector = np.random.default_rng(0).random((5, structure.num_channels)) < 0.5
    masks = structure.unflatten(vector)
    assert {name: mask.shape for name, mask in masks.items()} == {
        "conv1": (5, 16),
        "conv2": (5, 32),
        "conv3": (5, 64),
    }
    np.testing.assert_array_equal(structure.flatten(masks), vector)
    for wrong in (vector[:, 1:], [1] * 111, 1.0):
        with pytest.raises(ValueError, match="112 entries"):
            structure.unflatten(wrong)


def test_widths_of_masks_of_any_kind():
    network, variables, x = bundled("cnn", (8, 8, 1))
    structure = trace(network.apply, variables, x)
    lists = {"conv1": [1] * 9 + [0] * 7, "conv2": [True] * 32, "conv3": [1.0] + [0.0] * 63}
    np.testing.assert_array_equal(structure.widths(lists), [9, 32, 1])
    arrays = {name: np.array(mask) for name, mask in lists.items()}
    np.testing.assert_array_equal(structure.widths(arrays), [9, 32, 1])
    whole = trace(network.apply, variables, x, ignore=["*"])
    assert whole.widths({}).shape == (0,)


@pytest.mark.parametrize("apply", [lambda p, x: x * 2, lambda p, x: None, lambda p, x: 3.0])
def test_a_function_that_does_not_use_its_parameters(apply):
    with pytest.raises(ValueError, match="nothing that depends on its parameters"):
        trace(apply, {"a": jnp.ones((3, 2))}, jnp.ones((4, 3)))
