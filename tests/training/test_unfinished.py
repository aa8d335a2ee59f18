"""Training that is left at any step goes on there, and ends with the same bits."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.tree_util import Partial

from jaxprune import training
from jaxprune.training import data
from jaxprune.training.recipes import Recipe

RECIPE = Recipe(
    epochs=3, batch_size=64, learning_rate=0.05, augment="shift_mirror", mirror="alternating"
)
STEPS = 4  # of an epoch


class Conv(nn.Module):
    """A convolution, so that a processor takes single steps, and a BatchNorm."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3), use_bias=False)(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return nn.Dense(10)(nn.relu(x).mean((1, 2)))


MODULE = Conv()


def apply_train(variables, x):
    return MODULE.apply(variables, x, train=True, mutable=["batch_stats"])


def to_floats(images):
    return images.astype(jnp.float32) / 255


class Interrupting(training.Kept):
    """Ctrl-C right after a position was saved."""

    def __init__(self, path, saves):
        super().__init__(path, every=0.0)
        self.left = saves

    def save(self, position):
        super().save(position)
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


class Epochs:
    """Remembers which epochs were done."""

    def __init__(self):
        self.done = []

    def __call__(self, epoch, metrics):
        self.done.append(epoch)


@pytest.fixture(scope="module")
def start():
    return jax.jit(MODULE.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))


@pytest.fixture(scope="module")
def fit(start):
    split = data.subset(data.load("digits"), STEPS * 64).train
    teacher = Partial(MODULE.apply, start)

    def of(recipe, keep=None, progress=None):
        return training.fit(
            *(apply_train, start, split, to_floats),
            *(recipe, jax.random.key(1)),
            teacher=teacher,
            keep=keep,
            progress=progress,
        )

    return of


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


FULL = replace(RECIPE, average=0.9, distill=0.5)


@pytest.mark.parametrize(
    "recipe",
    [RECIPE, pytest.param(FULL, marks=pytest.mark.slow)],
    ids=["plain", "averaged and taught"],
)
def test_training_goes_on_from_any_step(fit, recipe, tmp_path):
    expected = fit(recipe)
    # After each step, and once more after the last one of an epoch.
    for saves, epochs in ((2, [1, 2, 3]), (5, [2, 3]), (8, [2, 3]), (14, [3])):
        path = tmp_path / f"{saves}.npz"
        with pytest.raises(KeyboardInterrupt):
            fit(recipe, Interrupting(path, saves))
        seen = Epochs()
        assert_same(fit(recipe, training.Kept(path), seen), expected)
        assert seen.done == epochs


def test_a_position_is_saved_when_its_time_has_come(fit, tmp_path):
    fit(RECIPE, training.Kept(tmp_path / "never.npz", every=1e6))
    assert not (tmp_path / "never.npz").exists()
    kept = training.Kept(tmp_path / "always.npz", every=0.0)
    fit(RECIPE, kept)
    assert kept.path.exists()
    kept.remove()
    assert not kept.path.exists()


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_damaged_position_or_another_ones_is_not_used(fit, tmp_path, content):
    path = tmp_path / "position.npz"
    if content is None:
        fit(FULL, training.Kept(path, every=0.0))
    else:
        path.write_bytes(content)
    seen = Epochs()
    fit(RECIPE, training.Kept(path), seen)
    assert seen.done == [1, 2, 3]


def test_a_folder_that_cannot_be_written_is_done_without(fit, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert_same(fit(RECIPE, training.Kept(tmp_path / "file" / "p.npz", every=0.0)), fit(RECIPE))
