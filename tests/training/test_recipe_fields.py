"""What the fields of a recipe do to a step, against NumPy: a teacher, a mean, mirroring, decay."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.special import log_softmax, softmax

from jaxprune import training
from jaxprune.training import data, recipes
from jaxprune.training.loop import Loop
from jaxprune.training.recipes import Recipe

COUNT, FEATURES, CLASSES = 12, 16, 5


def linear(variables, x):
    return x @ variables["params"]["kernel"]


def linear_train(variables, x):
    return linear(variables, x), {}


def flat(images):
    return images.reshape((len(images), -1)).astype(jnp.float32) / 255


@pytest.fixture
def problem():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (COUNT, 4, 4, 1), np.uint8)
    split = data.Split(images, random.integers(0, CLASSES, COUNT).astype(np.int32))

    def weights():
        kernel = random.normal(0, 1, (FEATURES, CLASSES)).astype(np.float32)
        return {"params": {"kernel": kernel}}

    return split, weights(), weights()


ONE_STEP = Recipe(epochs=1, batch_size=COUNT, learning_rate=0.5, momentum=0.0, weight_decay=0.0)


@pytest.mark.parametrize(("weight", "temperature"), [(0.3, 4.0), (1.0, 1.0), (0.7, 2.5)])
def test_a_step_with_a_teacher_equals_one_by_hand(problem, weight, temperature):
    split, student, teacher = problem
    recipe = replace(ONE_STEP, distill=weight, temperature=temperature, label_smoothing=0.2)
    fitted, history = training.fit(
        *(linear_train, student, split, flat, recipe, jax.random.key(0)),
        teacher=Partial(linear, teacher),
    )
    x = split.images.reshape(COUNT, -1) / 255
    kernel = student["params"]["kernel"].astype(np.float64)
    logits, advice = x @ kernel, softmax(x @ teacher["params"]["kernel"] / temperature, axis=1)
    targets = np.full((COUNT, CLASSES), 0.2 / CLASSES)
    targets[np.arange(COUNT), split.labels] += 0.8
    guess = log_softmax(logits / temperature, axis=1)
    loss = (1 - weight) * -np.mean(np.sum(targets * log_softmax(logits, axis=1), axis=1))
    loss += weight * temperature**2 * np.mean(np.sum(advice * (np.log(advice) - guess), axis=1))
    slope = (1 - weight) * (softmax(logits, axis=1) - targets)
    slope += weight * temperature * (np.exp(guess) - advice)
    expected = kernel - 0.5 * x.T @ slope / COUNT
    np.testing.assert_allclose(history.loss, [loss], rtol=1e-5)
    np.testing.assert_allclose(fitted["params"]["kernel"], expected, rtol=1e-5, atol=1e-6)


def test_a_teacher_without_weight_changes_no_bit(problem):
    split, student, teacher = problem
    recipe = replace(ONE_STEP, epochs=3, batch_size=4, distill=0.0)
    arguments = (linear_train, student, split, flat, recipe, jax.random.key(0))
    alone = training.finetune(*arguments)
    beside = training.finetune(*arguments, teacher=Partial(linear, teacher))
    jax.tree.map(np.testing.assert_array_equal, alone, beside)


def test_a_teacher_may_be_any_function(problem):
    split, student, _ = problem
    recipe = replace(ONE_STEP, epochs=60, distill=1.0, learning_rate=2.0, temperature=1.0)

    def prefers_the_third(x):
        return jnp.tile(jnp.array([0.0, 0.0, 3.0, 0.0, 0.0]), (len(x), 1))

    fitted, _ = training.fit(
        *(linear_train, student, split, flat, recipe, jax.random.key(0)), teacher=prefers_the_third
    )
    assert (np.asarray(linear(fitted, flat(split.images))).argmax(1) == 2).all()


def test_a_weight_without_a_teacher_is_refused(problem):
    split, student, _ = problem
    recipe = replace(ONE_STEP, distill=0.5)
    with pytest.raises(ValueError, match=r"distill is 0\.5, but there is no teacher"):
        training.fit(linear_train, student, split, flat, recipe, jax.random.key(0))


def test_the_average_is_the_mean_of_the_weights_after_each_step(problem):
    split, student, _ = problem
    recipe = replace(ONE_STEP, epochs=5, average=0.7)
    loop = Loop(linear_train, split, flat, recipe, jax.random.key(0))
    state = loop.start(student)
    expected = student["params"]["kernel"]
    for epoch in range(5):  # of one step each
        state, _ = loop.epoch(epoch, state)
        expected = 0.7 * expected + 0.3 * np.asarray(state.variables["params"]["kernel"])
    np.testing.assert_allclose(state.fitted["params"]["kernel"], expected, rtol=1e-5)
    fitted, _ = training.fit(linear_train, student, split, flat, recipe, jax.random.key(0))
    np.testing.assert_array_equal(fitted["params"]["kernel"], state.fitted["params"]["kernel"])


@pytest.mark.slow
def test_alternating_mirrors_show_every_image_both_ways():
    count = 40
    images = np.zeros((count, 8, 8, 2), np.uint8)
    images[:, :, :4, 0] = 200  # the left half is bright
    images[..., 1] = np.arange(count)[:, None, None]  # which image it is

    def looking(variables, x):
        mirrored = x[..., :4, 0].mean((1, 2)) < x[..., 4:, 0].mean((1, 2))
        seen = variables["seen"].at[x[:, 4, 4, 1].astype(int)].set(mirrored)
        return variables["params"]["w"] * jnp.ones((len(x), 2)), {"seen": seen}

    def seen_in(epoch, mirror):
        recipe = Recipe(epochs=epoch, batch_size=10, augment="shift_mirror", mirror=mirror)
        start = {"params": {"w": jnp.ones(2)}, "seen": jnp.zeros(count, bool)}
        split = data.Split(images, np.zeros(count, np.int32))
        fitted, _ = training.fit(
            *(looking, start, split, lambda images: images.astype(jnp.float32)),
            *(recipe, jax.random.key(3)),
        )
        return np.asarray(fitted["seen"])

    first, second, third = (seen_in(epoch, "alternating") for epoch in (1, 2, 3))
    assert 8 < first.sum() < 32  # which are first is left to chance
    np.testing.assert_array_equal(second, ~first)
    np.testing.assert_array_equal(third, first)
    assert not np.array_equal(seen_in(2, "random"), ~seen_in(1, "random"))


def test_the_learning_rate_can_fall_in_a_line():
    rate = recipes.learning_rate(Recipe(epochs=5, learning_rate=0.4, warmup=1, decay="linear"), 4)
    expected = [0.1 * step for step in range(4)] + [0.4 * (1 - step / 16) for step in range(17)]
    np.testing.assert_allclose([rate(step) for step in range(21)], expected, atol=1e-7)


def test_the_papers_recipe_stays_and_the_others_are_shorter():
    paper, default, short = (
        recipes.default_recipe("resnet20", "cifar10", name=name)
        for name in ("paper", "default", "short")
    )
    assert paper == Recipe(epochs=200, learning_rate=0.1, warmup=5, augment="crop_mirror")
    assert (default.epochs, short.epochs) == (50, 12)
    tuned = [
        recipes.default_recipe("resnet20", "cifar10", phase="finetune", name=name).epochs
        for name in ("paper", "default", "short")
    ]
    assert tuned == [50, 13, 4]
    digits = [recipes.default_recipe("cnn", "digits", name=name) for name in ("paper", "short")]
    assert digits[0] == digits[1] == recipes.default_recipe("cnn", "digits")
    with pytest.raises(ValueError, match="unknown recipe 'long'"):
        recipes.default_recipe("cnn", "digits", name="long")
