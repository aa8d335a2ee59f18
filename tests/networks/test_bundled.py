"""The bundled models: published sizes, layer names, BatchNorm, and the same numbers as PyTorch."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.extend import core

from jaxprune import compact, linen_module, masked, trace
from jaxprune.errors import UserError
from jaxprune.networks import bundled
from jaxprune.networks.bundled.ghost import Ghost
from jaxprune.networks.bundled.resnet import Block
from jaxprune.networks.bundled.vgg import STAGES

IMAGE_SHAPES = {"cnn": (8, 8, 1), "lenet300": (28, 28, 1), "lenet5": (28, 28, 1)}


def build(name: str) -> bundled.Network:
    return bundled.build(name, IMAGE_SHAPES.get(name, (32, 32, 3)))


def example(name: str, batch: int = 1) -> jax.ShapeDtypeStruct:
    shape = IMAGE_SHAPES.get(name, (32, 32, 3))
    shape = (math.prod(shape),) if build(name).flat else shape
    return jax.ShapeDtypeStruct((batch, *shape), jnp.float32)


def random_variables(init):
    """Variables of the shapes that `init` makes, every leaf random: scales and statistics too."""
    random = np.random.default_rng(0)

    def draw(path, shape):
        leaf = random.normal(0, 0.2, shape.shape).astype(np.float32)
        return 1 + leaf**2 if path[-1].key in ("scale", "var") else leaf

    return jax.tree.map_with_path(draw, jax.eval_shape(init, jax.random.key(0)))


def random_images(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def count_macs(jaxpr: core.Jaxpr) -> int:
    """Multiply-accumulates, padding included, read off every equation of a jaxpr."""
    total = 0
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            if isinstance(value, core.ClosedJaxpr):
                total += count_macs(value.jaxpr)
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            layout = equation.params["dimension_numbers"].rhs_spec
            total += equation.outvars[0].aval.size * math.prod(kernel) // kernel[layout[0]]
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    return total


# Exact parameters, exact multiply-accumulates, and both in millions as published: the papers named
# in the models for LeNet; Li et al. 2017 for VGG-16 and ResNet-56 (option A there); the usual CIFAR
# tables for the rest.
SIZES = {
    "cnn": (24_058, 378_496, None, None),
    "lenet300": (266_610, 266_200, 0.267, 0.266),
    "lenet5": (431_080, 2_293_000, 0.43, 2.29),
    "mlp": (4_206_602, 4_204_544, None, None),
    "vgg11": (9_228_362, 152_769_536, 9.23, 153),
    "vgg16": (14_724_042, 313_201_664, 14.72, 313),
    "vgg19": (20_035_018, 398_136_320, 20.04, 398),
    "resnet18": (11_173_962, 555_422_720, 11.17, 555),
    "resnet50": (23_520_842, 1_297_829_888, 23.52, 1298),
    "resnet20": (272_474, 40_813_184, 0.27, 41),
    "resnet56": (855_770, 125_747_840, 0.86, 126),
    # Han et al. 2020, table 3, count 7.7 M parameters with a classifier of two layers.
    "ghost_vgg16": (7_387_818, 157_847_552, 7.39, 158),
    "ghost_resnet20": (141_722, 21_385_856, None, None),
}


@pytest.mark.parametrize("name", bundled.NAMES)
def test_parameters_and_macs_are_the_published_ones(name):
    network = build(name)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    params = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    macs = count_macs(jax.make_jaxpr(network.apply)(variables, example(name)).jaxpr)
    exact_params, exact_macs, millions_of_params, millions_of_macs = SIZES[name]
    assert (params, macs) == (exact_params, exact_macs)
    if millions_of_params is not None:
        assert params / 1e6 == pytest.approx(millions_of_params, abs=0.006)
        assert macs / 1e6 == pytest.approx(millions_of_macs, rel=0.006)


def test_lenet5_has_430500_weights_and_580_biases():
    params = jax.eval_shape(build("lenet5").init, jax.random.key(0))["params"]
    weights = {layer: leaves["kernel"].shape for layer, leaves in params.items()}
    assert weights == {
        "conv1": (5, 5, 1, 20),
        "conv2": (5, 5, 20, 50),
        "fc1": (800, 500),
        "fc2": (500, 10),
    }
    assert sum(math.prod(shape) for shape in weights.values()) == 430_500
    assert sum(leaves["bias"].size for leaves in params.values()) == 580


@pytest.mark.parametrize(("name", "extra"), [("resnet20", 2_752), ("resnet56", 2_752)])
def test_projections_are_all_that_differs_from_he_et_al(name, extra):
    # 19 or 55 convolutions of 3x3, BatchNorm after each, and the classifier: option A's count.
    blocks = {"resnet20": 3, "resnet56": 9}[name]
    count, inputs = 3 * 16 * 9 + 2 * 16, 16
    for width in (16, 32, 64):
        for _ in range(blocks):
            count += inputs * width * 9 + width * width * 9 + 4 * width
            inputs = width
    count += 64 * 10 + 10
    assert SIZES[name][0] - count == extra


def test_ghost_modules_halve_every_convolution_but_shortcuts():
    """Half of each convolution's weights, a 3x3 window for each ghost, the same BatchNorm."""
    vgg = sum(
        9 * inputs * outputs // 2 + 9 * outputs // 2 + 2 * outputs
        for inputs, outputs in itertools.pairwise((3, *(w for s in STAGES[16] for w in s)))
    )
    assert SIZES["ghost_vgg16"][0] == vgg + 512 * 10 + 10
    widths = [3, 16, *[16] * 6, *[32] * 6, *[64] * 6]
    resnet = sum(9 * a * b // 2 + 9 * b // 2 + 2 * b for a, b in itertools.pairwise(widths))
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert SIZES["ghost_resnet20"][0] == resnet + shortcuts + 64 * 10 + 10


def layers(tree, prefix=()):
    """Module paths that own parameters."""
    for name, value in tree.items():
        if all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in value.values()):
            yield "/".join((*prefix, name))
        else:
            yield from layers(value, (*prefix, name))


def test_layers_have_readable_names():
    def names(model):
        return set(layers(jax.eval_shape(build(model).init, jax.random.key(0))["params"]))

    vgg16 = {f"{stage}_{n}" for stage in range(1, 6) for n in range(1, 3 if stage < 3 else 4)}
    expected = {kind + number for number in vgg16 for kind in ("conv", "bn")} | {"classifier"}
    assert names("vgg16") == expected
    assert names("lenet300") == {"fc1", "fc2", "fc3"}
    resnet50 = names("resnet50")
    assert {f"stage1_block0/conv{n}" for n in (1, 2, 3)} <= resnet50
    shortcuts = {name for name in resnet50 if name.endswith("conv_shortcut")}
    assert shortcuts == {f"stage{n}_block0/conv_shortcut" for n in (1, 2, 3, 4)}
    resnet20 = {name for name in names("resnet20") if name.endswith("conv_shortcut")}
    assert resnet20 == {f"stage{n}_block0/conv_shortcut" for n in (2, 3)}


@pytest.mark.parametrize("name", bundled.NAMES)
def test_training_keeps_shapes_and_returns_every_collection_but_params(name):
    network = build(name)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    x = example(name, batch=3)
    assert jax.eval_shape(network.apply, variables, x).shape == (3, 10)
    logits, state = jax.eval_shape(network.apply_train, variables, x)
    assert logits.shape == (3, 10)
    assert {**state, "params": variables["params"]} == variables


@pytest.mark.parametrize("name", ["lenet5", "mlp", "vgg11", "resnet20"])
def test_number_of_classes(name):
    network = bundled.build(name, IMAGE_SHAPES.get(name, (32, 32, 3)), num_classes=7)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    assert jax.eval_shape(network.apply, variables, example(name)).shape == (1, 7)


def test_batchnorm_statistics_move_by_a_tenth():
    network = build("cnn")
    variables = random_variables(network.init)
    x = random_images(6, 8, 8, 1)
    _, state = jax.jit(network.apply_train)(variables, x)
    padded = np.pad(np.asarray(x)[..., 0], ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    kernel = np.asarray(variables["params"]["conv1"]["kernel"])[:, :, 0]
    before_norm = np.einsum("bhwij,ijc->bhwc", windows, kernel)
    axes = (0, 1, 2)
    old, new = variables["batch_stats"]["bn1"], state["batch_stats"]["bn1"]
    mean = 0.9 * old["mean"] + 0.1 * before_norm.mean(axes)
    variance = 0.9 * old["var"] + 0.1 * before_norm.var(axes)
    np.testing.assert_allclose(new["mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new["var"], variance, rtol=1e-4, atol=1e-5)


def test_inference_treats_each_example_alone():
    network = build("resnet20")
    variables = random_variables(network.init)
    x = random_images(3, 16, 16, 3)
    apply = jax.jit(network.apply)
    together = apply(variables, x)
    alone = jnp.concatenate([apply(variables, x[index : index + 1]) for index in range(3)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_unknown_model_lists_the_models():
    with pytest.raises(UserError, match=r"unknown model 'vgg13'.*lenet300.*vgg16.*resnet56"):
        bundled.build("vgg13", (32, 32, 3))


@pytest.mark.parametrize(("name", "size"), [("vgg16", 31), ("lenet5", 15), ("cnn", 1)])
def test_images_too_small_are_refused_and_the_smallest_size_works(name, size):
    with pytest.raises(UserError, match=f"{name}.*{size + 1}x{size + 1}.*{size}x{size}.*lenet300"):
        bundled.build(name, (size, size, 3))
    network = bundled.build(name, (size + 1, size + 1, 3))
    variables = jax.eval_shape(network.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((2, size + 1, size + 1, 3), jnp.float32)
    assert jax.eval_shape(network.apply, variables, x).shape == (2, 10)


# --- against PyTorch -----------------------------------------------------------------------------


class Torch:
    """The layers of a Flax model's variables as PyTorch functions on `[B, C, H, W]`."""

    def __init__(self, variables):
        self.torch = pytest.importorskip("torch", reason="compares with PyTorch")
        self.params = variables["params"]
        self.stats = variables.get("batch_stats", {})

    def tensor(self, array):
        return self.torch.from_numpy(np.array(array))

    def conv(self, x, name, stride=1, padding=0):
        layer = self.params[name]
        kernel = self.tensor(layer["kernel"]).permute(3, 2, 0, 1)
        bias = self.tensor(layer["bias"]) if "bias" in layer else None
        return self.torch.nn.functional.conv2d(x, kernel, bias, stride, padding)

    def norm(self, x, name):
        mean, var = (self.tensor(self.stats[name][key]) for key in ("mean", "var"))
        scale, bias = (self.tensor(self.params[name][key]) for key in ("scale", "bias"))
        return self.torch.nn.functional.batch_norm(x, mean, var, scale, bias, eps=1e-5)

    def dense(self, x, name):
        layer = self.params[name]
        return x @ self.tensor(layer["kernel"]) + self.tensor(layer["bias"])

    def image(self, x):
        return self.tensor(x).permute(0, 3, 1, 2)


def test_lenet5_equals_pytorch():
    network = build("lenet5")
    variables = random_variables(network.init)
    x = random_images(4, 28, 28, 1)
    torch = Torch(variables)
    pool = torch.torch.nn.functional.max_pool2d
    y = pool(torch.conv(torch.image(x), "conv1"), 2)
    y = pool(torch.conv(y, "conv2"), 2).permute(0, 2, 3, 1).flatten(1)
    y = torch.dense(torch.dense(y, "fc1").relu(), "fc2")
    np.testing.assert_allclose(jax.jit(network.apply)(variables, x), y, rtol=1e-4, atol=1e-3)


def test_cnn_equals_pytorch():
    network = build("cnn")
    variables = random_variables(network.init)
    x = random_images(4, 8, 8, 1)
    torch = Torch(variables)
    y = torch.norm(torch.conv(torch.image(x), "conv1", padding=1), "bn1").relu()
    y = torch.torch.nn.functional.max_pool2d(y, 2)
    for number in (2, 3):
        y = torch.norm(torch.conv(y, f"conv{number}", padding=1), f"bn{number}").relu()
    y = torch.dense(y.mean((2, 3)), "classifier")
    np.testing.assert_allclose(jax.jit(network.apply)(variables, x), y, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bottleneck", [False, True])
def test_residual_blocks_equal_pytorch(bottleneck, stride):
    module = Block(6, stride, projection=True, bottleneck=bottleneck)
    x = random_images(2, 8, 8, 5)
    variables = random_variables(lambda key: module.init(key, x, False))
    torch = Torch(variables)
    image = torch.image(x)
    if bottleneck:
        y = torch.norm(torch.conv(image, "conv1"), "bn1").relu()
        y = torch.norm(torch.conv(y, "conv2", stride, 1), "bn2").relu()
        y = torch.norm(torch.conv(y, "conv3"), "bn3")
    else:
        y = torch.norm(torch.conv(image, "conv1", stride, 1), "bn1").relu()
        y = torch.norm(torch.conv(y, "conv2", 1, 1), "bn2")
    y = (y + torch.norm(torch.conv(image, "conv_shortcut", stride), "bn_shortcut")).relu()
    actual = jax.jit(lambda variables, x: module.apply(variables, x, False))(variables, x)
    np.testing.assert_allclose(actual, y.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("features", "ratio", "stride"), [(6, 2, 1), (7, 3, 2)])
@pytest.mark.parametrize("activated", [True, False])
def test_ghost_modules_equal_pytorch(features, ratio, stride, activated):
    """Eqs. 2 and 3 with BatchNorm; of 7 channels in threes, two of nine are cut off."""
    module = Ghost(features, 3, stride, ratio, activated=activated)
    x = random_images(2, 8, 8, 5)
    variables = random_variables(lambda key: module.init(key, x, False))
    torch = Torch(variables)

    def finish(y, name):
        y = torch.norm(y, name)
        return y.relu() if activated else y

    few = -(-features // ratio)
    y = finish(torch.conv(torch.image(x), "conv", stride, 1), "bn")
    kernel = torch.tensor(variables["params"]["cheap"]["kernel"]).permute(3, 2, 0, 1)
    cheap = torch.torch.nn.functional.conv2d(y, kernel, padding=1, groups=few)
    y = torch.torch.cat([y, finish(cheap, "bn_cheap")], 1)[:, :features]
    actual = jax.jit(lambda variables, x: module.apply(variables, x, False))(variables, x)
    np.testing.assert_allclose(actual, y.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-4)


class Ghosts(nn.Module):
    """Two ghost modules around a residual sum, one with two ghosts a filter, a dense layer."""

    @nn.compact
    def __call__(self, x, train=False):
        x = Ghost(8, name="first")(x, train)
        x = nn.relu(x + Ghost(8, activated=False, name="second")(x, train))
        x = Ghost(9, stride=2, ratio=3, name="third")(x, train)
        return nn.Dense(3, name="out")(x.mean((1, 2)))


@pytest.mark.slow
def test_a_channel_goes_with_its_ghosts():
    module = Ghosts()
    x = random_images(2, 6, 6, 3)
    variables = random_variables(lambda key: module.init(key, x))
    structure = trace(module.apply, variables, x)
    assert [group.size for group in structure.groups] == [4, 3, 2]
    masks = {
        "first/conv": np.float32([1, 0, 1, 1]),
        "third/conv": np.float32([0, 1, 1]),
        "third/cheap": np.float32([1, 0]),  # of the two ghosts of each
    }
    small = compact(module.apply, structure, variables, masks)
    assert small.params["params"]["first"]["cheap"]["kernel"].shape == (3, 3, 1, 3)
    assert small.params["params"]["third"]["cheap"]["kernel"].shape == (3, 3, 1, 2)
    expected = masked(module.apply, structure)(variables, masks, x)
    np.testing.assert_allclose(small(small.params, x), expected, rtol=1e-4, atol=1e-5)
    narrow = linen_module(module, small, x)
    np.testing.assert_allclose(narrow.apply(small.params, x), expected, rtol=1e-4, atol=1e-5)
