"""What the structure says of each layer, against numbers computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import Layer, costs, masked, trace
from jaxprune.networks.bundled import build

POINT = {"kernel": (1,), "stride": (1,), "padding": ((0, 0),), "spatial": (1,)}


def weights(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def conv(x, kernel, stride=1, padding="SAME", groups=1):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def bundled(name, image_shape, batch=2):
    network = build(name, image_shape)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    shape = (int(np.prod(image_shape)),) if network.flat else image_shape
    return trace(network.apply, variables, weights(batch, *shape))


def test_lenet5():
    window = {"kernel": (5, 5), "stride": (1, 1), "padding": ((0, 0), (0, 0))}
    structure = bundled("lenet5", (28, 28, 1))
    assert structure.layers == (
        Layer(
            path="conv1",
            group=0,
            inputs=1,
            outputs=20,
            **window,
            spatial=(24, 24),
            macs=24 * 24 * 25 * 20,
            params=25 * 20 + 20,
        ),
        Layer(
            path="conv2",
            group=1,
            inputs=20,
            outputs=50,
            **window,
            spatial=(8, 8),
            macs=8 * 8 * 25 * 20 * 50,
            params=25 * 20 * 50 + 50,
        ),
        Layer("fc1", 2, 800, 500, **POINT, macs=800 * 500, params=800 * 500 + 500),
        Layer("fc2", None, 500, 10, **POINT, macs=500 * 10, params=500 * 10 + 10),
    )


def test_stride_and_padding():
    def apply(params, x):
        hidden = conv(x, params["a"]["w"], 2, ((2, 1), (0, 3))) + params["a"]["b"]
        return jax.nn.relu(hidden).mean((1, 2)) @ params["b"]["w"]

    params = {"a": {"w": weights(3, 5, 4, 6), "b": weights(6)}, "b": {"w": weights(6, 2)}}
    first, _ = trace(apply, params, weights(8, 9, 12, 4)).layers
    # (9 + 3 - 3) // 2 + 1 rows and (12 + 3 - 5) // 2 + 1 columns.
    assert first == Layer(
        path="a",
        group=0,
        inputs=4,
        outputs=6,
        kernel=(3, 5),
        stride=(2, 2),
        padding=((2, 1), (0, 3)),
        spatial=(5, 6),
        macs=5 * 6 * 3 * 5 * 4 * 6,
        params=3 * 5 * 4 * 6 + 6,
    )


def test_channels_first():
    def apply(params, x):
        hidden = jax.lax.conv(x, params["a"], (1, 1), "SAME")
        return hidden.mean((2, 3)) @ params["b"]

    params = {"a": weights(6, 4, 3, 3), "b": weights(6, 2)}
    first, last = trace(apply, params, weights(8, 4, 7, 5)).layers
    assert (first.inputs, first.outputs, first.kernel, first.spatial) == (4, 6, (3, 3), (7, 5))
    assert last == Layer("b", None, 6, 2, **POINT, macs=12, params=12)


def test_depthwise_convolution():
    def apply(params, x):
        hidden = conv(x, params["expand"])
        hidden = conv(jax.nn.relu(hidden), params["depthwise"], stride=2, groups=8)
        return conv(hidden, params["project"])

    params = {
        "expand": weights(1, 1, 3, 8),
        "depthwise": weights(3, 3, 1, 8),
        "project": weights(1, 1, 8, 2),
    }
    expand, depthwise, project = trace(apply, params, weights(2, 6, 6, 3)).layers
    assert (expand.group, depthwise.group, project.group) == (0, 0, None)
    assert depthwise == Layer(
        path="depthwise",
        group=0,
        inputs=8,
        outputs=8,
        kernel=(3, 3),
        stride=(2, 2),
        padding=((0, 1), (0, 1)),
        spatial=(3, 3),
        macs=3 * 3 * 9 * 8,
        params=9 * 8,
    )


def test_a_residual_block_with_a_projection():
    def apply(params, x):
        x = jax.nn.relu(conv(x, params["stem"]))
        inner = jax.nn.relu(conv(x, params["conv1"], stride=2))
        x = jax.nn.relu(conv(inner, params["conv2"]) + conv(x, params["shortcut"], stride=2))
        return x.mean((1, 2)) @ params["out"]

    params = {
        "stem": weights(3, 3, 3, 4),
        "conv1": weights(3, 3, 4, 6),
        "conv2": weights(3, 3, 6, 8),
        "shortcut": weights(1, 1, 4, 8),
        "out": weights(8, 5),
    }
    structure = trace(apply, params, weights(2, 8, 8, 3))
    described = [(x.path, x.group, x.stride, x.spatial, x.macs) for x in structure.layers]
    assert described == [
        ("stem", 0, (1, 1), (8, 8), 64 * 9 * 3 * 4),
        ("conv1", 1, (2, 2), (4, 4), 16 * 9 * 4 * 6),
        ("conv2", 2, (1, 1), (4, 4), 16 * 9 * 6 * 8),
        ("shortcut", 2, (2, 2), (4, 4), 16 * 4 * 8),
        ("out", None, (1,), (1,), 8 * 5),
    ]
    assert structure.groups[2].layers == ("conv2", "shortcut")


def test_a_perceptron():
    structure = bundled("mlp", (8, 8, 1))
    assert structure.layers == (
        Layer("fc1", 0, 64, 1024, **POINT, macs=64 * 1024, params=64 * 1024 + 1024),
        Layer("fc2", 1, 1024, 1024, **POINT, macs=1024**2, params=1024**2 + 1024),
        Layer("fc3", None, 1024, 10, **POINT, macs=1024 * 10, params=1024 * 10 + 10),
    )


def test_a_kernel_on_the_left_is_the_same_layer():
    def apply(params, x):
        return (params["b"]["weight"] @ jnp.tanh(params["a"]["weight"] @ x.T)).T

    params = {"a": {"weight": weights(7, 3)}, "b": {"weight": weights(2, 7)}}
    first, last = trace(apply, params, weights(4, 3)).layers
    assert first == Layer("a", 0, 3, 7, **POINT, macs=21, params=21)
    assert last == Layer("b", None, 7, 2, **POINT, macs=14, params=14)


@pytest.mark.parametrize("merged", [False, True])
def test_tokens_are_the_map_of_a_matrix_product(merged):
    def apply(params, x):  # [B, 5, 3]
        x = x.reshape(-1, 3) if merged else x
        x = jnp.tanh(x @ params["a"]) @ params["b"]
        return x.reshape(-1, 5, 2)

    first, _ = trace(apply, {"a": weights(3, 7), "b": weights(7, 2)}, weights(4, 5, 3)).layers
    assert first == Layer("a", 0, 3, 7, **POINT | {"spatial": (5,)}, macs=5 * 21, params=21)


def test_heads_and_head_dimension():
    def apply(params, x):
        query, key, value = (
            jnp.einsum("btd,dhe->bthe", x, params[name]) for name in ("query", "key", "value")
        )
        scores = jnp.einsum("bthe,bshe->bhts", query, key)
        return jnp.einsum("bhts,bshe,hed->btd", jax.nn.softmax(scores), value, params["out"])

    params = {name: weights(10, 3, 4) for name in ("query", "key", "value")}
    params["out"] = weights(3, 4, 10)
    structure = trace(apply, params, weights(2, 5, 10))
    by_path = {layer.path: layer for layer in structure.layers}
    for name in ("query", "key", "value"):
        layer = by_path[name]
        assert (layer.inputs, layer.outputs, layer.spatial) == (10, 12, (5,))
        assert structure.groups[layer.group].size == 3  # heads are first, then head dimension
    # The product with the attention weights and that of queries and keys are no layers.
    assert by_path["query"].macs == 5 * 10 * 12
    rest = costs.dense(structure, "macs") - sum(layer.macs for layer in structure.layers)
    assert rest == 2 * 3 * 5 * 5 * 4


def test_the_group_of_the_largest_part():
    def apply(params, x):
        hidden = jnp.tanh(x @ params["a"])
        return hidden[:, :2] @ params["b"] + hidden[:, 2:] @ params["c"]

    params = {"a": weights(3, 7), "b": weights(2, 2), "c": weights(5, 2)}
    structure = trace(apply, params, weights(4, 3))
    assert [group.size for group in structure.groups] == [2, 5]
    assert structure.layers[0].group == 1


def test_layers_of_a_loop_are_listed_once():
    def apply(params, x):
        def block(hidden, layer):
            return hidden + jnp.tanh(hidden @ layer["up"]) @ layer["down"], None

        hidden, _ = jax.lax.scan(block, x @ params["in"], params["layers"])
        return hidden @ params["out"]

    layers = {"up": weights(4, 6, 8), "down": weights(4, 8, 6)}
    params = {"in": weights(3, 6), "layers": layers, "out": weights(6, 2)}
    structure = trace(apply, params, weights(5, 3))
    assert [(x.path, x.inputs, x.outputs, x.macs, x.params) for x in structure.layers] == [
        ("in", 3, 6, 18, 18),
        ("layers/up", 6, 8, 4 * 48, 4 * 48),
        ("layers/down", 8, 6, 4 * 48, 4 * 48),
        ("out", 6, 2, 12, 12),
    ]
    assert [structure.groups[x.group].name for x in structure.layers[:3]] == [
        "in",
        "layers/up",
        "in",
    ]


def test_a_kernel_used_twice_is_listed_once():
    def apply(params, x):
        left, right = (jnp.tanh(part @ params["a"]) for part in (x[:, :3], x[:, 3:]))
        return (left * right) @ params["b"]

    params = {"a": weights(3, 5), "b": weights(5, 2)}
    structure = trace(apply, params, weights(4, 6))
    assert [(x.path, x.macs, x.params) for x in structure.layers] == [
        ("a", 2 * 15, 15),
        ("b", 10, 10),
    ]


def test_statistics_and_products_of_parameters_are_no_layers():
    def apply(variables, x):
        params = variables["params"]
        hidden = (x - variables["batch_stats"]["mean"]) @ (params["left"] @ params["right"])
        return jnp.tanh(hidden) @ params["out"]

    variables = {
        "params": {"left": weights(3, 2), "right": weights(2, 6), "out": weights(6, 2)},
        "batch_stats": {"mean": weights(3)},
    }
    structure = trace(apply, variables, weights(4, 3))
    assert [(x.path, x.inputs, x.outputs, x.macs) for x in structure.layers] == [
        ("left", 3, 6, 18),
        ("out", 6, 2, 12),
    ]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("name", "image_shape"),
    [
        ("cnn", (8, 8, 1)),
        ("lenet300", (28, 28, 1)),
        ("lenet5", (28, 28, 1)),
        ("mlp", (8, 8, 1)),
        ("vgg11", (32, 32, 3)),
        ("resnet20", (32, 32, 3)),
    ],
)
def test_the_layers_of_bundled_networks_are_all_there_is(name, image_shape, batch):
    structure = bundled(name, image_shape, batch)
    assert sum(layer.macs for layer in structure.layers) == costs.dense(structure, "macs")
    kernels = [path for path in structure.paths if path.endswith("/kernel")]
    assert {f"{layer.path}/kernel" for layer in structure.layers} == set(kernels)
    assert len(structure.layers) == len(kernels)
    for layer in structure.layers:
        if layer.group is None:
            assert any(layer.path in frozen.layers for frozen in structure.frozen)
        else:
            assert layer.path in structure.groups[layer.group].layers
            assert layer.outputs == structure.groups[layer.group].size


def test_layers_of_a_masked_network():
    def apply(params, x):
        return jax.nn.relu(x @ params["a"]) @ params["b"]

    params = {"a": weights(3, 5), "b": weights(5, 2)}
    structure = trace(apply, params, weights(4, 3))
    function = masked(apply, structure)
    masks = {"a": np.float32([1, 0, 1, 1, 1])}
    again = trace(lambda params, x: function(params, masks, x), params, weights(4, 3))
    assert again.layers == structure.layers
