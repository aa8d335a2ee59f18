"""Masked and compact networks do what removing channels by hand does."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dependency.checks import assert_close, check_removal, quick_jit, random_masks, sliced
from jaxprune import CouplingError, compact, masked, trace
from jaxprune.networks import bundled

QUICK = {
    "lenet300": (28, 28, 1),
    "lenet5": (28, 28, 1),
    "cnn": (8, 8, 1),
    "mlp": (32, 32, 3),
    "resnet20": (8, 8, 3),
}
LONG = {
    "vgg11": (32, 32, 3),
    "vgg16": (32, 32, 3),
    "vgg19": (32, 32, 3),
    "resnet18": (8, 8, 3),
    "resnet50": (8, 8, 3),
    "resnet56": (8, 8, 3),
    "ghost_resnet20": (8, 8, 3),
}


def every_model(*also_slow):
    """The bundled models; those that compile for long are for the slow run."""
    return pytest.mark.parametrize(
        ("name", "shape"),
        [
            pytest.param(
                name,
                shape,
                id=name,
                marks=[pytest.mark.slow] * (name in LONG or name in also_slow),
            )
            for name, shape in {**QUICK, **LONG}.items()
        ],
    )


@cache
def network_with_statistics(name, image_shape, batch=4):
    """A bundled network with random weights and statistics, an input and labels.

    The numbers come from numpy: initialising through JAX would compile something for every shape.
    """
    network = bundled.build(name, image_shape)
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        kind = path[-1].key
        if kind in ("scale", "var"):
            values = rng.uniform(0.5, 1.5, leaf.shape)
        elif kind in ("bias", "mean"):
            values = rng.normal(0, 0.1, leaf.shape)
        else:
            values = rng.normal(0, 1 / np.sqrt(np.prod(leaf.shape[:-1])), leaf.shape)
        return jnp.asarray(values, jnp.float32)

    shapes = jax.eval_shape(network.init, jax.random.key(0))
    variables = jax.tree_util.tree_map_with_path(fill, shapes)
    shape = (batch, int(np.prod(image_shape))) if network.flat else (batch, *image_shape)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    return network, variables, x, jnp.arange(batch) % 10


def training_step(network):
    """A step of gradient descent with weight decay, BatchNorm in training mode."""

    def step(variables, x, y):
        def loss(params):
            logits, state = network.apply_train({**variables, "params": params}, x)
            decay = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
            data = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
            return data + 1e-4 * decay, state

        (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        params = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], gradient)
        return {"params": params, **state}, value

    return step


def loss_of(apply, *masks):
    def loss(variables, x, y):
        logits = apply(variables, *masks, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return loss


@every_model()
def test_full_masks_change_no_bit(name, shape):
    network, variables, x, _ = network_with_statistics(name, shape)
    structure = trace(network.apply, variables, x)
    function = jax.jit(masked(network.apply, structure))
    ours = function(variables, structure.full_masks(), x)
    np.testing.assert_array_equal(ours, jax.jit(network.apply)(variables, x))


@every_model("resnet20")
def test_masked_equals_compact(name, shape):
    network, variables, x, _ = network_with_statistics(name, shape)
    structure = trace(network.apply, variables, x)
    masks = random_masks(structure, 0)
    small = compact(network.apply, structure, variables, masks)
    assert_close(
        quick_jit(small)(small.params, x),
        quick_jit(masked(network.apply, structure))(variables, masks, x),
    )
    assert small.widths == {name: int(mask.sum()) for name, mask in masks.items()}
    assert_close(small.params, sliced(structure, variables, masks), tolerance=0)


@every_model("resnet20", "lenet5", "lenet300")
def test_masked_equals_compact_in_a_training_step(name, shape):
    network, variables, x, y = network_with_statistics(name, shape)
    structure = trace(network.apply, variables, x)
    masks = random_masks(structure, 1)
    step = training_step(network)
    # In double precision: BatchNorm over a batch of four divides by deviations so small that fifty
    # layers of single precision would hide a mistake behind their rounding.
    with jax.enable_x64(True):
        variables, x, masks = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64), (variables, x, masks)
        )
        big, big_loss = quick_jit(masked(step, structure))(variables, masks, x, y)
        small = compact(step, structure, variables, masks)
        little, little_loss = quick_jit(small)(small.params, x, y)
        assert {leaf.dtype for leaf in jax.tree.leaves(little)} == {jnp.dtype("float64")}
        assert_close(little_loss, big_loss, tolerance=1e-10)
        assert_close(little, sliced(structure, big, masks), tolerance=1e-10)


@every_model("resnet20", "mlp")
def test_masked_equals_compact_in_the_gradient(name, shape):
    network, variables, x, y = network_with_statistics(name, shape)
    structure = trace(network.apply, variables, x)
    masks = random_masks(structure, 2)
    with jax.enable_x64(True):  # the deepest networks have gradients of the size of rounding
        variables, x, masks = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64), (variables, x, masks)
        )
        small = compact(network.apply, structure, variables, masks)
        whole = masked(network.apply, structure)
        big = quick_jit(jax.grad(loss_of(whole, masks)))(variables, x, y)
        little = quick_jit(jax.grad(loss_of(small)))(small.params, x, y)
        assert_close(little, sliced(structure, big, masks), tolerance=1e-10)


def test_parameters_of_another_precision_than_the_traced_ones():
    network, variables, x, _ = network_with_statistics("lenet300", (28, 28, 1))
    structure = trace(network.apply, variables, x)
    masks = random_masks(structure, 6)
    small = compact(network.apply, structure, variables, masks)
    whole = jax.jit(masked(network.apply, structure))
    expected = whole(variables, masks, x)
    halved = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (variables, small.params, x))
    logits = whole(halved[0], masks, halved[2]), jax.jit(small)(halved[1], halved[2])
    for actual in logits:
        assert actual.dtype == jnp.bfloat16
        assert_close(actual.astype(jnp.float32), expected, tolerance=0.05)
    assert_close(whole(variables, masks, x), expected, tolerance=0)


def test_masking_is_removal_by_hand():
    network, variables, x, _ = network_with_statistics("lenet300", (28, 28, 1))
    structure = trace(network.apply, variables, x)
    masks = random_masks(structure, 3)
    keep1, keep2 = masks["fc1"].astype(bool), masks["fc2"].astype(bool)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    hidden = np.maximum(np.asarray(x) @ p["fc1"]["kernel"] + p["fc1"]["bias"], 0)[:, keep1]
    hidden = hidden @ p["fc2"]["kernel"][keep1] + p["fc2"]["bias"]
    hidden = np.maximum(hidden, 0)[:, keep2]
    expected = hidden @ p["fc3"]["kernel"][keep2] + p["fc3"]["bias"]
    actual = masked(network.apply, structure)(variables, masks, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_removed_input_features_are_dropped():
    network, variables, x, _ = network_with_statistics("lenet300", (28, 28, 1))
    structure = trace(network.apply, variables, x, prune_inputs=True)
    masks = random_masks(structure, 4)
    small = compact(network.apply, structure, variables, masks)
    assert small.params["params"]["fc1"]["kernel"].shape == (
        small.widths["input"],
        small.widths["fc1"],
    )
    expected = network.apply(variables, x * masks["input"])
    only_input = {**structure.full_masks(), "input": masks["input"]}
    assert_close(masked(network.apply, structure)(variables, only_input, x), expected)
    assert_close(small(small.params, x), masked(network.apply, structure)(variables, masks, x))


def test_other_batch_sizes():
    network, variables, x, _ = network_with_statistics("cnn", (8, 8, 1))
    structure = trace(network.apply, variables, x[:1])
    masks = random_masks(structure, 5)
    function = masked(network.apply, structure)
    small = compact(network.apply, structure, variables, masks)
    whole = function(variables, masks, x)
    for batch in (1, 3):
        assert_close(function(variables, masks, x[:batch]), whole[:batch])
        assert_close(small(small.params, x[:batch]), whole[:batch])


def test_a_compact_network_can_be_pruned_again():
    network, variables, x, _ = network_with_statistics("resnet20", (8, 8, 3))
    structure = trace(network.apply, variables, x)
    first = random_masks(structure, 6)
    small = compact(network.apply, structure, variables, first)
    again = trace(small, small.params, x)
    assert {g.name: g.size for g in again.groups} == small.widths
    second = random_masks(again, 7)
    smaller = compact(small, again, small.params, second)
    both = {}
    for name, mask in first.items():
        both[name] = mask.copy()
        both[name][mask == 1] = second[name]
    expected = quick_jit(masked(network.apply, structure))(variables, both, x)
    assert_close(quick_jit(smaller)(smaller.params, x), expected, tolerance=2e-5)


def test_known_masks_inside_jit():
    """Arrays that a jitted function closes over: full ones, and others."""
    network, variables, x, _ = network_with_statistics("lenet300", (28, 28, 1))
    structure = trace(network.apply, variables, x)
    function = masked(network.apply, structure)
    masks = jax.tree.map(jnp.asarray, random_masks(structure, 0))
    for known in (masks, jax.tree.map(jnp.ones_like, masks)):
        closed = jax.jit(lambda x, known=known: function(variables, known, x))(x)
        assert_close(closed, jax.jit(function)(variables, known, x))


def test_many_masks_at_once():
    network, variables, x, _ = network_with_statistics("cnn", (8, 8, 1))
    structure = trace(network.apply, variables, x)
    function = masked(network.apply, structure)
    candidates = [random_masks(structure, seed) for seed in range(3)]
    batch = jax.tree.map(lambda *rows: jnp.stack(rows), *candidates)
    together = jax.jit(jax.vmap(function, in_axes=(None, 0, None)))(variables, batch, x)
    for row, candidate in zip(together, candidates, strict=True):
        assert_close(row, function(variables, candidate, x))


def test_soft_masks_have_gradients():
    """The derivative for a mask entry is that of scaling what the next layer reads."""
    network, variables, x, y = network_with_statistics("lenet300", (28, 28, 1))
    structure = trace(network.apply, variables, x)
    function = masked(network.apply, structure)

    def loss(masks):
        logits = function(variables, masks, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    gradient = jax.grad(loss)(structure.full_masks())

    def scaled(channel, factor):
        kernel = variables["params"]["fc3"]["kernel"].at[channel].multiply(factor)
        params = {**variables["params"], "fc3": {**variables["params"]["fc3"], "kernel": kernel}}
        logits = network.apply({"params": params}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    for channel in (0, 17, 99):
        expected = jax.grad(scaled, argnums=1)(channel, 1.0)
        np.testing.assert_allclose(gradient["fc2"][channel], expected, rtol=1e-3, atol=1e-6)


def test_custom_derivatives_survive():
    """relu has derivative 0 at 0, max has 1/2: removed channels sit exactly there."""

    def apply(params, x):
        return jax.nn.relu(x @ params["a"]) @ params["b"]

    params = {"a": jnp.zeros((3, 4)), "b": jnp.ones((4, 2))}
    x = jnp.ones((5, 3))
    structure = trace(apply, params, x)
    masks = {"a": jnp.array([1.0, 0, 1, 1])}
    big = jax.grad(lambda p: masked(apply, structure)(p, masks, x).sum())(params)
    small = compact(apply, structure, params, masks)
    little = jax.grad(lambda p: small(p, x).sum())(small.params)
    assert (big["a"] == 0).all()
    assert (little["a"] == 0).all()


def test_custom_jvp_around_a_sum_over_channels():
    @jax.custom_jvp
    def readout(hidden, kernel):
        return jnp.tanh(hidden @ kernel)

    @readout.defjvp
    def readout_jvp(primals, tangents):
        hidden, kernel = primals
        out = readout(hidden, kernel)
        return out, 3.0 * (tangents[0] @ kernel + hidden @ tangents[1])

    def apply(params, x):
        return readout(x @ params["a"], params["b"])

    key = jax.random.key(0)
    params = {"a": jax.random.normal(key, (3, 6)), "b": jax.random.normal(key, (6, 2))}
    x = jax.random.normal(jax.random.key(1), (5, 3))
    structure = trace(apply, params, x)
    masks = random_masks(structure, 8)
    function = masked(apply, structure)
    small = compact(apply, structure, params, masks)
    assert_close(small(small.params, x), function(params, masks, x))
    big = jax.grad(lambda p: function(p, masks, x).sum())(params)
    little = jax.grad(lambda p: small(p, x).sum())(small.params)
    assert_close(little, sliced(structure, big, masks))
    kept = masks["a"].astype(bool)
    by_hand = 3.0 * (np.asarray(x @ params["a"])[:, kept]).sum(0)[:, None] * np.ones((1, 2))
    np.testing.assert_allclose(little["b"], by_hand, rtol=1e-4)


def test_checkpointed_blocks():
    def apply(params, x):
        block = jax.checkpoint(lambda h, kernel: jnp.tanh(h @ kernel))
        return block(block(x, params["a"]), params["b"])

    key = jax.random.key(0)
    params = {"a": jax.random.normal(key, (3, 6)), "b": jax.random.normal(key, (6, 2))}
    x = jax.random.normal(jax.random.key(1), (5, 3))
    structure = trace(apply, params, x)
    masks = random_masks(structure, 9)
    function = masked(apply, structure)
    small = compact(apply, structure, params, masks)
    assert_close(small(small.params, x), function(params, masks, x))
    big = jax.grad(lambda p: function(p, masks, x).sum())(params)
    assert_close(jax.grad(lambda p: small(p, x).sum())(small.params), sliced(structure, big, masks))


CHANGING_WIDTH = ("conv", "strided", "concat", "grouped", "split", "pad")
KEEPING_WIDTH = ("depthwise", "residual", "pool", "gate", "shuffle", "scan", "mixed")
OVER_CHANNELS = ("layer_norm", "group_norm", "squeeze", "attention")
KINDS = (*CHANGING_WIDTH, *KEEPING_WIDTH, *OVER_CHANNELS)


@st.composite
def random_network(draw):
    """A network of random blocks on 6x6 images: its apply, parameters and input."""
    plan = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    params, width = {}, 6

    def weight(name, *shape):
        fan_in = int(np.prod(shape[:-1]))
        params[name] = jnp.asarray(rng.normal(size=shape) / np.sqrt(fan_in), jnp.float32)

    weight("stem", 3, 3, 2, width)
    for i, kind in enumerate(plan):
        if kind in ("conv", "strided", "concat"):
            out = int(rng.integers(2, 7))
            weight(f"k{i}", 3, 3, width, out)
            width = out + width if kind == "concat" else out
        elif kind == "depthwise":
            weight(f"k{i}", 3, 3, 1, width)
        elif kind == "grouped" and width % 2 == 0:
            weight(f"k{i}", 3, 3, width // 2, 6)
            width = 6
        elif kind in ("residual", "gate"):
            weight(f"k{i}", 3, 3, width, width)
            weight(f"b{i}", width)
        elif kind == "split":
            width = width if width % 2 else width // 2
        elif kind == "pad":
            width += 3
        elif kind in ("layer_norm", "group_norm", "scan"):
            weight(f"s{i}", width)
        elif kind == "squeeze":
            weight(f"d{i}", width, 4)
            weight(f"u{i}", 4, width)
        elif kind == "attention":
            weight(f"q{i}", width, 12)
            weight(f"o{i}", 6, width)
    weight("last", width, 3)

    def conv(x, kernel, stride=1, groups=1):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    def normalise(x):
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / jnp.sqrt(variance + 0.1)

    def attend(x, kernel):
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        queries, values = jnp.split(tokens @ kernel, 2, axis=-1)
        queries, values = (t.reshape(*t.shape[:2], 2, 3) for t in (queries, values))
        scores = jax.nn.softmax(jnp.einsum("bnhd,bmhd->bhnm", queries, values))
        out = jnp.einsum("bhnm,bmhd->bnhd", scores, values)
        return out.reshape(*x.shape[:3], 6)

    def apply(params, x):
        x = conv(x, params["stem"])
        for i, kind in enumerate(plan):
            width = x.shape[-1]
            if kind == "conv":
                x = jax.nn.relu(conv(x, params[f"k{i}"]))
            elif kind == "strided":
                x = jax.nn.silu(conv(x, params[f"k{i}"], stride=2))
            elif kind == "depthwise":
                x = jnp.tanh(conv(x, params[f"k{i}"], groups=width))
            elif kind == "grouped" and width % 2 == 0:
                x = jax.nn.gelu(conv(x, params[f"k{i}"], groups=2))
            elif kind == "residual":
                x = x + jax.nn.relu(conv(x, params[f"k{i}"]) + params[f"b{i}"])
            elif kind == "gate":
                x = x * jax.nn.sigmoid(conv(x, params[f"k{i}"]) + params[f"b{i}"])
            elif kind == "concat":
                x = jnp.concatenate([jax.nn.gelu(conv(x, params[f"k{i}"])), x], axis=-1)
            elif kind == "pool":
                x = jax.lax.reduce_window(
                    x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "SAME"
                )
            elif kind == "split" and width % 2 == 0:
                left, right = jnp.split(x, 2, axis=-1)
                x = left * right
            elif kind == "pad":
                x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (1, 2)))
            elif kind == "shuffle" and width % 2 == 0:
                x = x.reshape(*x.shape[:3], 2, width // 2).swapaxes(3, 4).reshape(x.shape)
            elif kind == "layer_norm":
                x = normalise(x) * params[f"s{i}"]
            elif kind == "group_norm" and width % 3 == 0:
                x = normalise(x.reshape(*x.shape[:3], 3, -1)).reshape(x.shape) * params[f"s{i}"]
            elif kind == "squeeze":
                gates = jax.nn.relu(x.mean((1, 2)) @ params[f"d{i}"]) @ params[f"u{i}"]
                x = x * jax.nn.sigmoid(gates)[:, None, None]
            elif kind == "attention":
                x = x + attend(x, params[f"q{i}"]) @ params[f"o{i}"]
            elif kind == "scan":
                x, _ = jax.lax.scan(
                    lambda h, t: (jnp.tanh(h * t), None), x, params[f"s{i}"][:, None]
                )
            elif kind == "mixed" and width % 2 == 0:
                x = x[..., np.arange(width).reshape(2, -1).T.reshape(-1)] + x[..., ::-1]
        return x.mean((1, 2)) @ params["last"]

    x = jnp.asarray(rng.normal(size=(2, 6, 6, 2)), jnp.float32)
    return apply, params, x, int(rng.integers(2**20))


def check_network(apply, params, x, seed):
    structure = trace(apply, params, x)
    if structure.groups:
        check_removal(apply, params, x, structure, seed)


@settings(max_examples=3, deadline=None)
@given(random_network())
def test_random_networks(network):
    check_network(*network)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(random_network())
def test_many_random_networks(network):
    check_network(*network)


def cnn():
    network, variables, x, _ = network_with_statistics("cnn", (8, 8, 1))
    return network, variables, x, trace(network.apply, variables, x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("conv1"), r"missing \['conv1'\]"),
        (lambda m: m.update(conv9=np.ones(3)), r"unknown \['conv9'\]"),
        (lambda m: m.update(conv1=np.ones(3)), "'conv1' has 16 entries, got shape"),
        (lambda m: m.update(conv1=np.full(16, 0.5)), "'conv1' holds values other than 0 and 1"),
        (lambda m: m.update(conv1=np.zeros(16)), "'conv1' is empty; keep at least one"),
        (lambda m: m.update(conv1=np.full(16, np.nan)), "'conv1' holds values other than 0 and 1"),
        (lambda m: m.update(conv1=np.ones((2, 16))), "one candidate at a time"),
    ],
)
def test_bad_masks(change, message):
    network, variables, _, structure = cnn()
    masks = structure.full_masks()
    change(masks)
    with pytest.raises(ValueError, match=message):
        compact(network.apply, structure, variables, masks)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.ones(112), r"they are a dict \{group: \[size\]\}, got ndarray; structure\.unflatten"),
        ({"conv1": np.ones(16)}, r"missing \['conv2', 'conv3'\]"),
        (
            {"conv1": np.ones((5, 16)), "conv2": np.ones((5, 32)), "conv3": np.ones((5, 64))},
            r"'conv1' has shape \(5, 16\); use jax\.vmap",
        ),
    ],
)
def test_masks_that_do_not_fit_a_masked_function(masks, message):
    network, variables, x, structure = cnn()
    with pytest.raises(ValueError, match=message):
        masked(network.apply, structure)(variables, masks, x)


def test_what_is_no_structure():
    network, variables, _, structure = cnn()
    masks = structure.full_masks()
    message = "structure is of type dict; give what jaxprune.trace returned"
    with pytest.raises(TypeError, match=message):
        masked(network.apply, masks)
    with pytest.raises(TypeError, match=message):
        compact(network.apply, variables, structure, masks)


def test_a_compact_network_shows_its_widths():
    network, variables, _, structure = cnn()
    small = compact(network.apply, structure, variables, structure.full_masks())
    assert repr(small) == "CompactNetwork(widths={'conv1': 16, 'conv2': 32, 'conv3': 64})"


def test_other_params():
    network, variables, x, structure = cnn()
    with pytest.raises(ValueError, match="another tree"):
        masked(network.apply, structure)(variables["params"], structure.full_masks(), x)
    wide = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf], axis=-1), variables)
    with pytest.raises(ValueError, match=r"has shape .* traced was"):
        compact(network.apply, structure, wide, structure.full_masks())
    small = compact(network.apply, structure, variables, random_masks(structure, 0))
    with pytest.raises(ValueError, match="not those of this compact network"):
        small(variables, x)


def test_traced_masks_cannot_be_compacted():
    network, variables, _, structure = cnn()
    with pytest.raises(ValueError, match="concrete masks"):
        jax.jit(lambda masks: compact(network.apply, structure, variables, masks).params)(
            structure.full_masks()
        )


def test_a_function_that_couples_channels_is_refused():
    network, variables, x, structure = cnn()

    def mixes(variables, x):
        kernel = variables["params"]["conv2"]["kernel"]  # [3, 3, 16, 32]
        return (
            network.apply(variables, x).sum()
            + (kernel[..., :16] * kernel.swapaxes(2, 3)[..., :16, :]).sum()
        )

    with pytest.raises(CouplingError, match=r"at .*test_removal"):
        masked(mixes, structure)(variables, structure.full_masks(), x)
