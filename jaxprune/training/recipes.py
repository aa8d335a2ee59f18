"""How weights are fitted: the settings, and which of them suit a bundled model."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import jax
import optax
from jax import Array

from jaxprune.training.data import Augmentation


@dataclass(frozen=True)
class Recipe:
    """How weights are fitted. Hashable: a training loop is compiled once for each recipe."""

    epochs: int = 30
    """Passes over the training split."""
    batch_size: int = 128
    """Examples a step, at most the size of the split; an incomplete last batch is dropped."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with Nesterov momentum, or AdamW."""
    learning_rate: float = 0.1
    """The peak of the schedule: linear warmup, then decay to 0."""
    momentum: float = 0.9
    """Momentum of SGD; AdamW keeps its own betas (0.9, 0.999)."""
    weight_decay: float = 5e-4
    """Decay of kernels; biases, BatchNorm scales and other vectors are left alone."""
    warmup: float = 0.0
    """Epochs of linear warmup; a fraction is allowed."""
    decay: Literal["cosine", "linear"] = "cosine"
    """How the learning rate falls after the warmup."""
    label_smoothing: float = 0.0
    """Share of the target probability spread evenly over all classes, in [0, 1)."""
    augment: Augmentation = "none"
    """How images are changed at random before each step (`data.augment`)."""
    mirror: Literal["random", "alternating"] = "random"
    """Which images an augmentation mirrors: each with probability one half, or each in every other
    epoch, so that two epochs show every image both ways (Jordan, arXiv 2404.00498)."""
    average: float = 0.0
    """Decay per step of an exponential mean of all variables, in [0, 1); with one above 0 the mean
    is the result, and not the last weights."""
    distill: float = 0.0
    """Weight of a teacher's answers in the loss, in [0, 1]; that of the labels is the rest."""
    temperature: float = 4.0
    """What the logits of teacher and network are divided by before they are compared."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the computation; parameters stay float32. Auto: bfloat16 except on a CPU."""

    def __post_init__(self) -> None:
        """Refuses values that cannot work.

        Raises:
            ValueError: Naming the first such field, its value and what is allowed.
        """
        rules = {
            "epochs": (self.epochs >= 0, "0 or more"),
            "batch_size": (self.batch_size >= 1, "1 or more"),
            "optimizer": (self.optimizer in ("sgd", "adamw"), "sgd or adamw"),
            "learning_rate": (self.learning_rate > 0, "above 0"),
            "momentum": (0 <= self.momentum < 1, "in [0, 1)"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "warmup": (self.warmup >= 0, "0 or more"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "in [0, 1)"),
            "augment": (
                self.augment in get_args(Augmentation),
                " or ".join(get_args(Augmentation)),
            ),
            "decay": (self.decay in ("cosine", "linear"), "cosine or linear"),
            "mirror": (self.mirror in ("random", "alternating"), "random or alternating"),
            "average": (0 <= self.average < 1, "in [0, 1)"),
            "distill": (0 <= self.distill <= 1, "in [0, 1]"),
            "temperature": (self.temperature > 0, "above 0"),
            "precision": (
                self.precision in ("auto", "float32", "bfloat16"),
                "auto, float32 or bfloat16",
            ),
        }
        for name, (valid, allowed) in rules.items():
            if not valid:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be {allowed}")

    def resolved(self) -> "Recipe":
        """The same recipe with the precision that "auto" stands for on this machine."""
        if self.precision != "auto":
            return self
        on_cpu = jax.default_backend() == "cpu"
        return replace(self, precision="float32" if on_cpu else "bfloat16")


def learning_rate(recipe: Recipe, steps: int) -> optax.Schedule:
    """The learning rate of each step: linear warmup from 0, then decay to 0.

    Args:
        recipe: How to fit.
        steps: Steps of an epoch.

    Returns:
        A function of the step count.
    """
    total = max(1, recipe.epochs * steps)
    warmup = min(round(recipe.warmup * steps), total - 1)
    decay = (
        optax.cosine_decay_schedule(recipe.learning_rate, total - warmup)
        if recipe.decay == "cosine"
        else optax.linear_schedule(recipe.learning_rate, 0.0, total - warmup)
    )
    if not warmup:
        return decay
    rise = optax.linear_schedule(0.0, recipe.learning_rate, warmup)
    return optax.join_schedules([rise, decay], [warmup])


def optimizer(recipe: Recipe, steps: int) -> optax.GradientTransformation:
    """The optax optimizer of a recipe, its schedule included.

    SGD adds the weight decay to the gradient, before the momentum, as PyTorch does and published
    CIFAR recipes assume; AdamW decouples it (Loshchilov & Hutter, arXiv 1711.05101).

    Args:
        recipe: How to fit.
        steps: Steps of an epoch.

    Returns:
        The optimizer.
    """
    rate = learning_rate(recipe, steps)
    if recipe.optimizer == "adamw":
        return optax.adamw(rate, weight_decay=recipe.weight_decay, mask=_decaying)
    return optax.chain(
        optax.add_decayed_weights(recipe.weight_decay, mask=_decaying),
        optax.sgd(rate, momentum=recipe.momentum, nesterov=True),
    )


def _decaying(params: optax.Params) -> optax.Params:
    """Which parameters decay: matrices and convolution kernels, known by their rank."""

    def is_kernel(leaf: Array) -> bool:
        return leaf.ndim > 1

    return jax.tree.map(is_kernel, params)


_SMALL_DENSE = Recipe(
    epochs=30, learning_rate=0.05, weight_decay=5e-4, warmup=1, label_smoothing=0.1
)
# Without augmentation: shifted images have black borders, and a network that learns each position
# on its own does not carry over to whole ones.
_MLP_CIFAR10 = Recipe(
    epochs=15, batch_size=256, learning_rate=0.05, weight_decay=1e-3, warmup=1, label_smoothing=0.1
)
_SMALL_CONV = Recipe(epochs=6, batch_size=64, learning_rate=0.02, weight_decay=5e-4, warmup=1)
_DIGITS = Recipe(epochs=40, batch_size=32, learning_rate=0.05, weight_decay=1e-3, warmup=2)
# What the published networks were trained by: 200 epochs, a cosine, nothing else.
_CIFAR10_PAPER = Recipe(
    epochs=200, learning_rate=0.1, weight_decay=5e-4, warmup=5, augment="crop_mirror"
)
# Few epochs want a long warmup, a linear decay and every image both ways. Smoothing is for networks
# that could learn the labels by heart, which narrow ones cannot.
_CIFAR10 = replace(
    _CIFAR10_PAPER,
    epochs=50,
    batch_size=256,
    learning_rate=0.2,
    warmup=8,
    decay="linear",
    mirror="alternating",
    label_smoothing=0.1,
)
_CIFAR10_NARROW = replace(_CIFAR10, label_smoothing=0.0)
_CIFAR10_SHORT = replace(_CIFAR10_NARROW, epochs=12, batch_size=128, learning_rate=0.1, warmup=2)

RecipeName = Literal["short", "default", "paper"]
"""How much time training may take: a processor's hours, a GPU's minutes, or the papers'."""


def default_recipe(
    model: str,
    dataset: str,
    *,
    phase: Literal["pretrain", "finetune"] = "pretrain",
    name: RecipeName = "default",
) -> Recipe:
    """The recipe for a bundled model on a bundled dataset.

    The accuracies that they reach are in `experiments/results/reference_accuracy/README.md`.

    Args:
        model: One of `models.NAMES`.
        dataset: One of `data.NAMES`.
        phase: Whether the weights are fresh, or were fitted before. Then it is a quarter of the
            epochs (a third of the short recipe's, and half of them on the digits, where an epoch is
            short) at a quarter of the learning rate, without warmup; but dense networks on images
            are fine-tuned at the full rate and on images that move by a pixel, for 45 epochs on the
            MNISTs and 8 on CIFAR-10: a small one has lost most to the pixels and neurons that are
            gone.
        name: How much time there is. It makes a difference for convolutional networks on CIFAR-10:
            12 epochs (short), 50 (default), or the usual 200 (paper).

    Returns:
        The recipe; change single fields with `dataclasses.replace`.

    Raises:
        ValueError: If the phase or the name is unknown.
    """
    if name not in get_args(RecipeName):
        raise ValueError(f"unknown recipe {name!r}; the recipes are: short, default and paper")
    if phase not in ("pretrain", "finetune"):
        raise ValueError(f"unknown phase {phase!r}; it is pretrain or finetune")
    dense = model in ("lenet300", "mlp")
    if dataset == "digits":
        recipe = _DIGITS
    elif dataset == "cifar10":
        recipe = _MLP_CIFAR10 if dense else _of_images(model, name)
    else:
        recipe = _SMALL_DENSE if dense else _SMALL_CONV
    if phase == "pretrain":
        return recipe
    if recipe is _SMALL_DENSE:
        return replace(recipe, epochs=45, warmup=0.0, label_smoothing=0.0, augment="shift")
    if recipe is _MLP_CIFAR10:
        return replace(recipe, epochs=8, warmup=0.0, augment="shift_mirror")
    part = 2 if recipe is _DIGITS else 3 if recipe is _CIFAR10_SHORT else 4
    return replace(
        recipe,
        epochs=-(-recipe.epochs // part),
        learning_rate=recipe.learning_rate / 4,
        warmup=0.0,
    )


def _of_images(model: str, name: RecipeName) -> Recipe:
    """The recipe of a convolutional network on CIFAR-10."""
    if name == "short":
        return _CIFAR10_SHORT
    if name == "paper":
        return _CIFAR10_PAPER
    narrow = ("cnn", "lenet5", "resnet20", "resnet56", "ghost_resnet20")
    return _CIFAR10_NARROW if model in narrow else _CIFAR10
