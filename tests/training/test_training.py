"""Training: optimizer steps against NumPy, exact measuring, no recompiling, resuming, the cache."""

import math
import re
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.tree_util import Partial
from sklearn.metrics import accuracy_score, log_loss

import jaxprune
from jaxprune import training
from jaxprune.files import arrays
from jaxprune.networks import bundled
from jaxprune.training import data, loop, pretraining, recipes
from jaxprune.training.recipes import Recipe


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


class Trained(NamedTuple):
    """A network to train, shared between tests so that its steps are compiled once."""

    network: bundled.Network
    variables: dict
    preprocess: data.Preprocess


def trained(digits, network):
    variables = network.init(jax.random.key(0))
    return Trained(network, variables, data.preprocess(digits, network.flat))


class SmallConv(nn.Module):
    """A convolution and a BatchNorm: what the bundled networks have, compiled in less time."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(8, (3, 3), use_bias=False, name="conv1")(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="bn1")(x)
        return nn.Dense(10, name="classifier")(nn.relu(x).mean((1, 2)))


@pytest.fixture(scope="module")
def conv(digits):
    module = SmallConv()

    def apply_train(variables, x):
        return module.apply(variables, x, train=True, mutable=["batch_stats"])

    init = jax.jit(lambda key: module.init(key, jnp.zeros((1, 8, 8, 1))))
    network = bundled.Network(init, module.apply, apply_train, "small", module)
    return trained(digits, network)


@pytest.fixture(scope="module")
def perceptron(digits):
    return trained(digits, bundled.build("lenet300", (8, 8, 1)))


def flat(images):
    return images.reshape((images.shape[0], -1)).astype(jnp.float32) / 255


def linear(variables, x):
    params = variables["params"]
    return x @ params["kernel"] + params["bias"]


def linear_train(variables, x):
    return linear(variables, x), {}


def linear_variables(classes=10, features=64):
    random = np.random.default_rng(0)
    kernel = random.normal(0, 0.1, (features, classes)).astype(np.float32)
    bias = random.normal(0, 0.1, classes).astype(np.float32)
    return {"params": {"kernel": kernel, "bias": bias}}


def assert_trees_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def assert_trees_close(left, right, **tolerance):
    jax.tree.map(partial(np.testing.assert_allclose, **tolerance), left, right)


# --- recipes -------------------------------------------------------------------------------------


def test_learning_rate_rises_and_then_follows_a_cosine_to_zero():
    rate = recipes.learning_rate(Recipe(epochs=10, learning_rate=0.4, warmup=0.5), steps=8)
    expected = [0.4 * step / 4 for step in range(4)]
    expected += [0.2 * (1 + math.cos(math.pi * step / 76)) for step in range(77)]
    np.testing.assert_allclose([rate(step) for step in range(81)], expected, atol=1e-6)
    without = recipes.learning_rate(Recipe(epochs=1, learning_rate=0.4), steps=2)
    np.testing.assert_allclose([without(step) for step in range(3)], [0.4, 0.2, 0], atol=1e-7)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("epochs", -1, "0 or more"),
        ("batch_size", 0, "1 or more"),
        ("optimizer", "adam", "sgd or adamw"),
        ("learning_rate", 0.0, "above 0"),
        ("momentum", 1.0, r"in \[0, 1\)"),
        ("weight_decay", -1e-4, "0 or more"),
        ("warmup", -1.0, "0 or more"),
        ("label_smoothing", 1.0, r"in \[0, 1\)"),
        ("augment", True, "none or shift or shift_mirror or crop_mirror"),
        ("precision", "float16", "auto, float32 or bfloat16"),
    ],
)
def test_recipes_refuse_what_cannot_work(field, value, allowed):
    with pytest.raises(ValueError, match=f"^{field} is {value!r}, but must be {allowed}$"):
        Recipe(**{field: value})


def test_every_model_and_dataset_has_recipes():
    for model in bundled.NAMES:
        for dataset in data.NAMES:
            pretrain = training.default_recipe(model, dataset)
            finetune = training.default_recipe(model, dataset, phase="finetune")
            convolutional = model not in ("lenet300", "mlp")
            nothing_new = convolutional or dataset == "digits"
            assert finetune.epochs > 0
            assert finetune.epochs < pretrain.epochs or not nothing_new
            assert finetune.learning_rate <= pretrain.learning_rate
            cropped = dataset == "cifar10" and convolutional
            assert pretrain.augment == ("crop_mirror" if cropped else "none")
            assert (finetune.augment == pretrain.augment) == nothing_new
    with pytest.raises(ValueError, match="unknown phase 'test'"):
        training.default_recipe("cnn", "digits", phase="test")


# --- steps against NumPy -------------------------------------------------------------------------


def softmax_gradient(params, x, labels, smoothing):
    """Loss and gradient of softmax regression, by hand."""
    logits = x @ params["kernel"] + params["bias"]
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    targets = (1 - smoothing) * np.eye(10)[labels] + smoothing / 10
    loss = -(targets * np.log(probabilities)).sum(1).mean()
    error = (probabilities - targets) / len(x)
    return loss, {"kernel": x.T @ error, "bias": error.sum(0)}


def cosine(recipe, step):
    return recipe.learning_rate / 2 * (1 + math.cos(math.pi * step / recipe.epochs))


def sgd_by_hand(params, x, labels, recipe):
    """One step an epoch: gradient plus decay of the kernel, then Nesterov momentum."""
    velocity = jax.tree.map(np.zeros_like, params)
    losses = []
    for step in range(recipe.epochs):
        loss, gradient = softmax_gradient(params, x, labels, recipe.label_smoothing)
        losses.append(loss)
        gradient["kernel"] = gradient["kernel"] + recipe.weight_decay * params["kernel"]
        for name in params:
            velocity[name] = recipe.momentum * velocity[name] + gradient[name]
            change = gradient[name] + recipe.momentum * velocity[name]
            params = {**params, name: params[name] - cosine(recipe, step) * change}
    return params, losses


def adamw_by_hand(params, x, labels, recipe):
    first, second = (jax.tree.map(np.zeros_like, params) for _ in range(2))
    losses = []
    for step in range(recipe.epochs):
        loss, gradient = softmax_gradient(params, x, labels, recipe.label_smoothing)
        losses.append(loss)
        for name in params:
            first[name] = 0.9 * first[name] + 0.1 * gradient[name]
            second[name] = 0.999 * second[name] + 0.001 * gradient[name] ** 2
            mean = first[name] / (1 - 0.9 ** (step + 1))
            scale = np.sqrt(second[name] / (1 - 0.999 ** (step + 1))) + 1e-8
            decay = recipe.weight_decay * params[name] if name == "kernel" else 0
            change = mean / scale + decay
            params = {**params, name: params[name] - cosine(recipe, step) * change}
    return params, losses


@pytest.mark.parametrize("by_hand", [sgd_by_hand, adamw_by_hand])
def test_steps_equal_those_by_hand(digits, by_hand):
    split = data.Split(digits.train.images[:100], digits.train.labels[:100])
    recipe = Recipe(
        epochs=5,
        batch_size=1000,  # larger than the split: one step an epoch, so the order is no matter
        optimizer="sgd" if by_hand is sgd_by_hand else "adamw",
        learning_rate=0.3 if by_hand is sgd_by_hand else 0.01,
        weight_decay=0.1,
        label_smoothing=0.2,
        precision="float32",
    )
    variables = linear_variables()
    fitted, history = training.fit(linear_train, variables, split, flat, recipe, jax.random.key(0))
    start = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables["params"])
    x = split.images.reshape(100, -1) / 255
    expected, losses = by_hand(start, x, split.labels, recipe)
    assert_trees_close(fitted["params"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(history.loss, losses, rtol=1e-5)
    assert history.accuracy.shape == (5,)


def test_an_epoch_sees_every_example_once_in_a_new_order():
    images = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1)
    split = data.Split(images, np.zeros(40, np.int32))
    plan = loop._Plan(Recipe(), 4, 10, (1, 1, 1))
    orders = [np.asarray(loop._batches(jax.random.key(seed), 40, plan)[0]) for seed in (0, 1)]
    for order in orders:
        assert order.shape == (4, 10)
        assert sorted(order.ravel()) == list(range(40))
    assert not np.array_equal(*orders)
    # Eleven a step leave seven over, which another order takes in.
    plan = loop._Plan(Recipe(), 3, 11, (1, 1, 1))
    order = np.asarray(loop._batches(jax.random.key(0), 40, plan)[0])
    assert order.shape == (3, 11)
    assert len(set(order.ravel())) == 33

    # The same through the front door: what the network sees in an epoch, added up.
    def summing(variables, x):
        logits = variables["params"]["kernel"] * jnp.ones((len(x), 1))
        return logits, {"seen": variables["seen"] + x.sum()}

    variables = {"params": {"kernel": jnp.zeros((1, 1))}, "seen": jnp.zeros(())}
    recipe = Recipe(epochs=3, batch_size=10, precision="float32")
    fitted, _ = training.fit(
        summing, variables, split, lambda images: images.astype(jnp.float32), recipe,
        jax.random.key(0),
    )  # fmt: skip
    assert fitted["seen"] == 3 * sum(range(40))


def test_augmentation_is_inside_the_step_and_differs_from_step_to_step():
    image = np.zeros((1, 9, 9, 1), np.uint8)
    image[0, 4, 4] = 1
    split = data.Split(np.repeat(image, 8, axis=0), np.zeros(8, np.int32))

    def recording(variables, x):
        logits = variables["params"]["kernel"] * jnp.ones((len(x), 1))
        return logits, {"seen": variables["seen"] + x.sum(0)}

    variables = {"params": {"kernel": jnp.zeros((1, 1))}, "seen": jnp.zeros((9, 9, 1))}
    recipe = Recipe(epochs=4, batch_size=4, augment="crop_mirror", precision="float32")
    fitted, _ = training.fit(
        recording, variables, split, lambda images: images.astype(jnp.float32), recipe,
        jax.random.key(0),
    )  # fmt: skip
    assert fitted["seen"].sum() == 32  # a shift of at most 4 keeps the pixel inside
    assert np.count_nonzero(fitted["seen"]) > 16


# --- the loop ------------------------------------------------------------------------------------

QUICK = Recipe(epochs=2, batch_size=64, learning_rate=0.05, precision="float32")


def test_the_same_key_gives_the_same_bits_and_leaves_the_start_untouched(digits, conv):
    network, variables, preprocess = conv
    before = jax.device_get(variables)
    arguments = network.apply_train, variables, digits.train, preprocess, QUICK
    first, first_history = training.fit(*arguments, jax.random.key(1))
    second, second_history = training.fit(*arguments, jax.random.key(1))
    other, _ = training.fit(*arguments, jax.random.key(2))
    assert_trees_equal(first, second)
    assert_trees_equal(first_history, second_history)
    assert_trees_equal(variables, before)
    assert not np.array_equal(
        first["params"]["conv1"]["kernel"], other["params"]["conv1"]["kernel"]
    )


def test_stepping_from_python_equals_the_scan(digits, conv):
    network, variables, preprocess = conv
    split = data.Split(digits.train.images[:128], digits.train.labels[:128])
    trainer = loop.Loop(network.apply_train, split, preprocess, QUICK, jax.random.key(0))
    results = [
        epoch(
            trainer._functions,
            trainer.start(variables),
            (),
            trainer._examples,
            jax.random.key(3),
            plan=trainer._plan,
            batched=False,
        )
        for epoch in (loop._epoch, loop._epoch_by_steps)
    ]
    assert_trees_close(*results, rtol=1e-4, atol=1e-5)


def test_history_and_progress_agree(digits):
    calls = []
    _, history = training.fit(
        linear_train,
        linear_variables(),
        digits.train,
        flat,
        replace(QUICK, epochs=3),
        jax.random.key(0),
        progress=lambda epoch, metrics: calls.append((epoch, metrics)),
    )
    assert [epoch for epoch, _ in calls] == [1, 2, 3]
    for name in ("loss", "accuracy"):
        np.testing.assert_array_equal([m[name] for _, m in calls], getattr(history, name))
    assert history.loss[2] < history.loss[1] < history.loss[0]


def test_no_epochs_change_nothing(digits):
    variables = linear_variables()
    fitted, history = training.fit(
        linear_train, variables, digits.train, flat, replace(QUICK, epochs=0), jax.random.key(0)
    )
    assert_trees_equal(fitted, variables)
    assert history.loss.shape == history.accuracy.shape == (0,)


class Counted:
    """A function that counts how often it is traced."""

    def __init__(self, function):
        self.function = function
        self.traces = 0

    def __call__(self, *arguments):
        self.traces += 1
        return self.function(*arguments)


def test_nothing_is_traced_again_between_epochs_or_calls(digits, conv, perceptron):
    for network, variables, _ in (conv, perceptron):  # on a CPU, stepped from Python and a scan
        function = Counted(network.apply_train)
        traces = []
        for seed in range(3):
            preprocess = data.preprocess(digits, network.flat)
            training.fit(function, variables, digits.train, preprocess, QUICK, jax.random.key(seed))
            traces.append(function.traces)
        assert 1 <= traces[0] == traces[1] == traces[2]


def test_bound_arrays_are_passed_instead_of_compiled_in(digits):
    def masked_train(mask, variables, x):
        return linear(variables, x * mask), {}

    function = Counted(masked_train)
    results, traces = [], []
    for kept in (64, 10, 64):
        bound = Partial(function, (jnp.arange(64) < kept).astype(jnp.float32))
        fitted, _ = training.fit(
            bound, linear_variables(), digits.train, flat, QUICK, jax.random.key(0)
        )
        results.append(fitted["params"]["kernel"])
        traces.append(function.traces)
    assert traces[0] == traces[1] == traces[2]
    np.testing.assert_array_equal(results[0], results[2])
    assert not np.array_equal(results[0], results[1])


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights(digits, conv):
    network, variables, preprocess = conv
    types = set()

    def watched(variables, x):
        types.update(leaf.dtype.name for leaf in jax.tree.leaves(variables["params"]))
        types.add(x.dtype.name)
        statistics = {leaf.dtype.name for leaf in jax.tree.leaves(variables["batch_stats"])}
        assert statistics == {"float32"}
        return network.apply_train(variables, x)

    recipe = replace(QUICK, precision="bfloat16", epochs=1)
    arguments = variables, digits.train, preprocess
    low, low_history = training.fit(watched, *arguments, recipe, jax.random.key(0))
    assert types == {"bfloat16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(low)} == {"float32"}
    full, full_history = training.fit(
        network.apply_train, *arguments, replace(recipe, precision="float32"), jax.random.key(0)
    )
    np.testing.assert_allclose(low_history.loss, full_history.loss, rtol=0.02)
    assert not np.array_equal(low["params"]["conv1"]["kernel"], full["params"]["conv1"]["kernel"])


def test_auto_precision_is_float32_on_a_cpu():
    expected = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    assert Recipe().resolved().precision == expected
    assert Recipe(precision="bfloat16").resolved().precision == "bfloat16"


def test_an_empty_split_is_refused(digits):
    nothing = data.Split(digits.train.images[:0], digits.train.labels[:0])
    with pytest.raises(ValueError, match="no examples to fit"):
        training.fit(linear_train, linear_variables(), nothing, flat, QUICK, jax.random.key(0))
    with pytest.raises(ValueError, match="no examples to measure"):
        training.scores(linear, linear_variables(), nothing, flat)


# --- measuring -----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 13, 26, 500])
def test_scores_count_every_example_once(digits, batch_size):
    split = data.Split(digits.test.images[:26], digits.test.labels[:26])
    variables = linear_variables()
    params = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables["params"])
    logits = split.images.reshape(26, -1) / 255 @ params["kernel"] + params["bias"]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss, accuracy = training.scores(linear, variables, split, flat, batch_size)
    assert loss == pytest.approx(log_loss(split.labels, probabilities, labels=range(10)), rel=1e-5)
    assert accuracy == accuracy_score(split.labels, logits.argmax(1))
    assert training.accuracy(linear, variables, split, flat, batch_size) == accuracy


def test_scores_refuse_a_batch_of_none(digits):
    with pytest.raises(ValueError, match="batch_size is 0"):
        training.scores(linear, linear_variables(), digits.test, flat, 0)


def test_unhashable_functions_are_measured_too(digits):
    class Unhashable:
        __hash__ = None

        def __call__(self, variables, x):
            return linear(variables, x)

    variables = linear_variables()
    expected = training.scores(linear, variables, digits.test, flat)
    assert training.scores(Unhashable(), variables, digits.test, flat) == expected


# --- many candidates -----------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "sizes"), [("conv", [3]), ("perceptron", [None, 2])])
def test_many_candidates_end_where_each_would_alone(digits, model, sizes, request):
    network, variables, preprocess = request.getfixturevalue(model)
    split = data.Split(digits.train.images[:128], digits.train.labels[:128])
    structure = jaxprune.trace(network.apply, variables, preprocess(split.images[:1]))
    masked_train = jaxprune.masked(network.apply_train, structure)
    random = np.random.default_rng(0)
    masks = {
        group.name: (random.random((3, group.size)) < 0.6).astype(np.float32)
        for group in structure.groups
    }

    def alone_train(masks, variables, x):
        return masked_train(variables, masks, x)

    arguments = split, preprocess, replace(QUICK, epochs=1), jax.random.key(0)
    alone = [
        training.finetune(
            Partial(alone_train, {name: mask[index] for name, mask in masks.items()}),
            variables,
            *arguments,
        )[0]
        for index in range(3)
    ]
    assert not np.array_equal(*(one["params"]["classifier" if model == "conv" else "fc3"]["kernel"]
                                for one in alone[:2]))  # fmt: skip
    for at_once in sizes:
        together = training.finetune_many(
            masked_train, variables, masks, *arguments, at_once=at_once
        )
        for index in range(3):
            candidate = jax.tree.map(lambda leaf, index=index: leaf[index], together)
            assert_trees_close(candidate, alone[index], rtol=1e-3, atol=1e-5)


def test_candidates_without_a_common_count_are_refused(digits):
    for masks in ({}, {"a": np.ones((0, 4))}, {"a": np.ones((2, 4)), "b": np.ones((3, 4))}):
        with pytest.raises(ValueError, match="the same number of masks"):
            training.finetune_many(
                linear_train, {}, masks, digits.train, flat, QUICK, jax.random.key(0)
            )
    with pytest.raises(ValueError, match="at_once is 0"):
        training.finetune_many(
            linear_train, {}, {"a": np.ones((2, 4))}, digits.train, flat, QUICK,
            jax.random.key(0), at_once=0,
        )  # fmt: skip


# --- pretrained networks -------------------------------------------------------------------------


def test_a_pretrained_network_is_made_once(digits, perceptron, tmp_path):
    epochs: list[int] = []

    def make(seed=0, recipe=QUICK, dataset=digits):
        epochs.clear()
        return training.pretrained(
            perceptron.network,
            dataset,
            recipe,
            seed,
            tmp_path,
            progress=lambda epoch, metrics: epochs.append(epoch),
        )

    first = make()
    assert epochs == [1, 2]
    second = make()
    assert epochs == []
    assert_trees_equal(first, second)
    (file,) = (tmp_path / "pretrained").iterdir()
    assert re.fullmatch(r"lenet300-digits-[0-9a-f]{16}\.npz", file.name)

    relabelled = data.Split(digits.train.images, digits.train.labels[::-1])
    changes = (
        {"seed": 1},
        {"recipe": replace(QUICK, warmup=1.0)},
        {"dataset": digits._replace(train=relabelled)},
    )
    for change in changes:
        other = make(**change)
        assert epochs == [1, 2]
        assert not np.array_equal(
            other["params"]["fc1"]["kernel"], first["params"]["fc1"]["kernel"]
        )
    assert len(list((tmp_path / "pretrained").iterdir())) == 4


def test_pretraining_learns_and_equals_fit(digits, perceptron, tmp_path):
    network, _, preprocess = perceptron
    recipe = replace(QUICK, epochs=15)
    variables = training.pretrained(network, digits, recipe, 3, tmp_path)
    assert training.accuracy(network.apply, variables, digits.validation, preprocess) > 0.95
    init_key, fit_key = jax.random.split(jax.random.key(3))
    fitted, _ = training.fit(
        network.apply_train, network.init(init_key), digits.train, preprocess, recipe, fit_key
    )
    assert_trees_equal(variables, fitted)


@pytest.mark.parametrize("model", ["perceptron", "conv"])
def test_interrupted_pretraining_resumes_and_ends_the_same(digits, tmp_path, model, request):
    network = request.getfixturevalue(model).network
    recipe = Recipe(epochs=5, batch_size=64, optimizer="adamw", learning_rate=1e-3)

    def make(folder, progress):
        return training.pretrained(
            network, digits, recipe, 0, tmp_path / folder, progress=progress, save_every=0.0
        )

    def interrupt(epoch, metrics):
        if epoch == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make("resumed", interrupt)
    epochs = []
    resumed = make("resumed", lambda epoch, metrics: epochs.append(epoch))
    assert epochs == [4, 5]
    assert_trees_equal(resumed, make("straight", None))


@pytest.mark.parametrize("damage", ["zeros", "half"])
def test_a_damaged_entry_is_made_again(digits, perceptron, tmp_path, damage):
    epochs: list[int] = []
    make = partial(
        training.pretrained,
        perceptron.network,
        digits,
        QUICK,
        0,
        tmp_path,
        progress=lambda epoch, metrics: epochs.append(epoch),
    )
    first = make()
    (entry,) = (tmp_path / "pretrained").iterdir()
    content = bytearray(entry.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20] = bytes(20)
    entry.write_bytes(content if damage == "zeros" else content[:middle])
    assert_trees_equal(make(), first)
    assert epochs == [1, 2, 1, 2]
    make()
    assert epochs == [1, 2, 1, 2]


def test_an_entry_of_other_shapes_does_not_fit(perceptron, tmp_path):
    like = jax.eval_shape(perceptron.network.init, jax.random.key(0))
    wide = bundled.build("lenet300", (9, 9, 1)).init(jax.random.key(0))
    arrays.save(tmp_path / "entry.npz", wide)
    assert pretraining._read(tmp_path / "entry.npz", like) is None
    arrays.save(tmp_path / "entry.npz", perceptron.variables)
    assert pretraining._read(tmp_path / "entry.npz", like) is not None


def test_a_cache_that_cannot_be_written_is_done_without(digits, perceptron, tmp_path):
    (tmp_path / "file").write_text("in the way")
    make = partial(training.pretrained, perceptron.network, digits, QUICK, 0)
    assert_trees_equal(make(tmp_path / "file"), make(tmp_path))


def test_the_default_network_reaches_98_percent_on_the_digits(digits, tmp_path):
    network = bundled.build("cnn", (8, 8, 1))
    recipe = training.default_recipe("cnn", "digits")
    variables = training.pretrained(network, digits, recipe, 0, tmp_path)
    preprocess = data.preprocess(digits, network.flat)
    assert training.accuracy(network.apply, variables, digits.test, preprocess) >= 0.98
