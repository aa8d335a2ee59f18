"""Training while a search goes on: candidates for some steps, and the network with its policy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxprune import compact, masked, trace, training
from jaxprune.networks import bundled
from jaxprune.search import trainer as trainer_module
from jaxprune.search.trainer import make_trainer
from jaxprune.training import data

KEY = jax.random.PRNGKey(3)
RECIPE = training.Recipe(epochs=7, batch_size=16, learning_rate=0.05, warmup=2.0)


@pytest.fixture(scope="module")
def digits():
    dataset = data.subset(data.load("digits"), 200)
    network = bundled.build("lenet300", (8, 8, 1))
    preprocess = data.preprocess(dataset, flat=True)
    variables = network.init(jax.random.PRNGKey(0))
    x = preprocess(jnp.asarray(dataset.train.images))
    structure = trace(network.apply, variables, x)
    return dataset, network, preprocess, variables, structure


@pytest.fixture(scope="module")
def batches(digits):
    dataset, _, preprocess, _, _ = digits
    return [
        (preprocess(jnp.asarray(part.images)), jnp.asarray(part.labels))
        for part in (dataset.train, dataset.validation)
    ]


@pytest.fixture(scope="module")
def trainer(digits, batches):
    dataset, network, preprocess, variables, structure = digits
    return make_trainer(
        network,
        structure,
        variables,
        dataset.train,
        preprocess,
        finetune=RECIPE,
        pretrain=RECIPE,
        scored=network.apply,
        train=batches[0],
        validation=batches[1],
    )


def some_masks(structure, count):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.random((count, structure.num_channels)) < 0.7, jnp.float32)


def test_excerpts_have_so_many_steps(digits):
    split = digits[0].train
    for steps, epochs, examples in ((1, 1, 16), (5, 1, 80), (12, 1, 192), (13, 2, 104)):
        part, recipe = trainer_module._excerpt(split, RECIPE, steps, KEY)
        assert (recipe.epochs, len(part.labels)) == (epochs, examples)
        assert recipe.epochs * (len(part.labels) // recipe.batch_size) in (steps, steps - 1)
        rows = {image.tobytes() for image in part.images}
        assert rows <= {image.tobytes() for image in split.images}


@pytest.mark.slow
def test_a_candidate_is_scored_as_if_it_were_fine_tuned_alone(digits, trainer, batches):
    _, network, preprocess, variables, structure = digits
    masks = some_masks(structure, 3)
    train, validation = trainer.finetune(masks, 4, KEY)
    part, recipe = trainer_module._excerpt(digits[0].train, RECIPE, 4, KEY)
    apply_masked = masked(network.apply, structure)
    for k in range(3):
        mask = structure.unflatten(masks[k])
        function = jax.tree_util.Partial(
            lambda mask, variables, x: masked(network.apply_train, structure)(variables, mask, x),
            mask,
        )
        tuned, _ = training.fit(function, variables, part, preprocess, recipe, KEY)
        for scores, (x, y) in zip((train, validation), batches, strict=True):
            logits = apply_masked(tuned, mask, x)
            expected = (logits.argmax(-1) == y).mean()
            np.testing.assert_allclose(scores.accuracy[k], expected, atol=0.006)
    untrained = trainer.evaluate(variables, masks)
    assert (train.loss < untrained.loss).all()


@pytest.mark.slow
def test_smaller_networks_are_scored_as_masked_ones(monkeypatch, trainer, digits):
    masks = some_masks(digits[-1], 3)
    assert not trainer_module.compiling_pays(digits[-1], masks, 4 * 16)
    expected = trainer.finetune(masks, 4, KEY)
    monkeypatch.setattr(trainer_module, "COMPILING", 1)
    for found, other in zip(trainer.finetune(masks, 4, KEY, few=True), expected, strict=True):
        np.testing.assert_allclose(found.loss, other.loss, rtol=2e-5)
        np.testing.assert_allclose(found.accuracy, other.accuracy, atol=0.006)


@pytest.mark.slow
def test_compiling_pays_where_much_is_saved():
    network = bundled.build("vgg11", (32, 32, 3))
    variables = network.init(KEY)
    structure = trace(network.apply, variables, jnp.zeros((1, 32, 32, 3)))
    few = some_masks(structure, 2)  # 153 million multiply-adds in 9 layers, half of which go
    assert trainer_module.compiling_pays(structure, few, 64 * 128)
    assert not trainer_module.compiling_pays(structure, few, 128)
    assert not trainer_module.compiling_pays(structure, jnp.ones_like(few), 64 * 128)


def test_networks_that_are_fine_tuned_together_end_as_alone(digits):
    dataset, network, preprocess, variables, structure = digits
    smaller = [
        compact(network.apply_train, structure, variables, structure.unflatten(mask))
        for mask in some_masks(structure, 3)
    ]
    arguments = dataset.train, preprocess, dataclasses.replace(RECIPE, epochs=2), KEY
    for small, found in zip(smaller, training.finetune_each(smaller, *arguments), strict=True):
        alone, _ = training.finetune(small, small.params, *arguments)
        for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(left, right)


def test_shared_training_under_whole_masks_is_training(digits, trainer):
    dataset, network, preprocess, variables, _ = digits
    whole = jnp.ones((1, digits[-1].num_channels))
    fitted = trainer.train(variables, whole, 6, KEY)
    _, key = jax.random.split(KEY)
    part, recipe = trainer_module._excerpt(dataset.train, RECIPE, 6, key)
    expected, _ = training.fit(network.apply_train, variables, part, preprocess, recipe, key)
    for left, right in zip(jax.tree.leaves(fitted), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_shared_training_lowers_the_loss_of_its_candidates(digits, trainer):
    structure = digits[-1]
    weights = trainer.initial(KEY)
    masks = some_masks(structure, 8)
    before = trainer.evaluate(weights, masks)
    after = trainer.evaluate(trainer.train(weights, masks, 40, KEY), masks)
    assert after.loss.mean() < 0.7 * before.loss.mean()
    again = trainer.evaluate(trainer.train(weights, masks, 40, KEY), masks)
    np.testing.assert_array_equal(after.loss, again.loss)


def test_each_candidate_has_its_part_of_the_batch(digits):
    _, network, _, variables, structure = digits
    masks = some_masks(structure, 2)
    masked_train = masked(network.apply_train, structure)
    shared = trainer_module._Shared(masked_train)
    assert shared == trainer_module._Shared(masked_train)
    assert hash(shared) == hash(trainer_module._Shared(masked_train))
    x = jax.random.normal(KEY, (6, 64))
    logits, _ = shared(structure.unflatten(masks), variables, x)
    for k, rows in enumerate((slice(0, 3), slice(3, 6))):
        expected, _ = masked_train(variables, structure.unflatten(masks[k]), x[rows])
        np.testing.assert_allclose(logits[rows], expected, rtol=1e-5, atol=1e-6)


def test_running_statistics_are_the_mean_over_the_candidates():
    class Small(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(8)(x))
            return nn.Dense(3)(nn.relu(x))

    module = Small()
    variables = module.init(KEY, jnp.zeros((1, 5)))
    x = 1 + jax.random.normal(KEY, (4, 5))
    structure = trace(module.apply, variables, x)
    masks = some_masks(structure, 2)

    def apply_train(variables, x):
        return module.apply(variables, x, train=True, mutable=["batch_stats"])

    masked_train = masked(apply_train, structure)
    _, state = trainer_module._Shared(masked_train)(structure.unflatten(masks), variables, x)
    states = [
        masked_train(variables, structure.unflatten(masks[k]), x[2 * k : 2 * k + 2])[1]
        for k in range(2)
    ]
    expected = jax.tree.map(lambda left, right: (left + right) / 2, *states)
    for left, right in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)
