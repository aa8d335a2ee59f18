"""Fitting weights: one jitted scan an epoch, for one network or for many masks of it at once.

    recipe = training.default_recipe("cnn", "digits")
    variables, history = training.fit(
        network.apply_train, network.init(key), dataset.train, preprocess, recipe, key
    )
    training.accuracy(network.apply, variables, dataset.test, preprocess)

Everything here takes plain functions of `variables = {"params": ..., **state}`, so a dense network,
a masked and a compact one are trained by the same code.

On a CPU, XLA runs the gradient of a convolution inside a loop 2 to 40 times slower than outside one
(JAX issue 12868), so there networks with convolutions are stepped from Python, still without
waiting for any step: same numbers, no scan.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.tree_util import Partial

from jaxprune import data
from jaxprune.data import Dataset, Split
from jaxprune.data.cache import cache_folder
from jaxprune.models import Network

Variables = dict[str, Any]
ApplyTrain = Callable[[Variables, Array], tuple[Array, Variables]]
Preprocess = Callable[[Array], Array]
Progress = Callable[[int, dict[str, float]], None]

VERSION = 1
"""Raised whenever a change here changes trained weights: pretrained networks are made anew."""


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
    """The peak of the schedule: linear warmup, then cosine decay to 0."""
    momentum: float = 0.9
    """Momentum of SGD; AdamW keeps its own betas (0.9, 0.999)."""
    weight_decay: float = 5e-4
    """Decay of kernels; biases, BatchNorm scales and other vectors are left alone."""
    warmup: float = 0.0
    """Epochs of linear warmup; a fraction is allowed."""
    label_smoothing: float = 0.0
    """Share of the target probability spread evenly over all classes, in [0, 1)."""
    augment: bool = False
    """Random crops and mirror images (`data.augment`)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the computation; parameters stay float32. Auto: bfloat16 except on a CPU."""

    def __post_init__(self) -> None:
        """Refuses values that cannot work."""
        _check(self.epochs >= 0, "epochs", self.epochs, "0 or more")
        _check(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        _check(self.optimizer in ("sgd", "adamw"), "optimizer", self.optimizer, "sgd or adamw")
        _check(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        _check(0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        _check(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        _check(self.warmup >= 0, "warmup", self.warmup, "0 or more")
        _check(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in [0, 1)")
        precisions = ("auto", "float32", "bfloat16")
        _check(self.precision in precisions, "precision", self.precision, ", ".join(precisions))


def _check(valid: bool, name: str, value: object, allowed: str) -> None:
    if not valid:
        raise ValueError(f"{name} is {value!r}, but must be {allowed}")


class History(NamedTuple):
    """How fitting went, measured on the training batches themselves as the weights moved.

    Attributes:
        loss: float32 `[epochs]`, mean cross-entropy of each epoch (with label smoothing).
        accuracy: float32 `[epochs]`, share of examples classified correctly.
    """

    loss: np.ndarray
    accuracy: np.ndarray


class TrainState(NamedTuple):
    """What changes from step to step.

    Attributes:
        variables: `{"params": ..., **state}`.
        optimizer: The state of the optax optimizer, step count included.
    """

    variables: Variables
    optimizer: optax.OptState


# --- fitting -----------------------------------------------------------------------------------


def fit(
    apply_train: ApplyTrain,
    variables: Variables,
    split: Split,
    preprocess: Preprocess,
    recipe: Recipe,
    key: Array,
    *,
    progress: Progress | None = None,
) -> tuple[Variables, History]:
    """Fits the weights of a network to a split.

    Functions that are equal and arrays of equal shapes are compiled once a process. A function that
    closes over arrays, such as a mask, is a new function each time; give it as
    `jax.tree_util.Partial(function, arrays...)` to have its arrays passed instead of compiled in.

    Args:
        apply_train: `apply_train(variables, x) -> (logits [B, classes], state)`, where `state` has
            the updated collections of `variables` other than `"params"`.
        variables: Where to start; left untouched.
        split: The examples; kept on the device as uint8.
        preprocess: Maps uint8 `[B, H, W, C]` to what the network takes.
        recipe: How to fit.
        key: A PRNG key: the order of the examples and their augmentation. The same key gives the
            same weights, bit for bit, on the same device.
        progress: Called after each epoch with the number of epochs done and
            `{"loss": ..., "accuracy": ...}`.

    Returns:
        The fitted variables and the history.

    Raises:
        ValueError: If the split is empty.
    """
    loop = _Loop(apply_train, split, preprocess, recipe, key)
    history = []
    for epoch, state, metrics in loop.epochs(initial_state(variables, recipe, loop.steps)):
        history.append(metrics)
        if progress is not None:
            progress(epoch, metrics.as_floats())
    return (state.variables if history else variables), _stack(history)


def finetune(
    apply_train: ApplyTrain,
    variables: Variables,
    split: Split,
    preprocess: Preprocess,
    recipe: Recipe,
    key: Array,
    *,
    progress: Progress | None = None,
) -> tuple[Variables, History]:
    """Fits the weights of a network that was fitted before: `fit`, with a recipe for that phase.

    The recipe is usually `default_recipe(model, dataset, phase="finetune")`. See `fit` for the
    arguments, the result and the errors.
    """
    return fit(apply_train, variables, split, preprocess, recipe, key, progress=progress)


def finetune_many(
    masked_train: Callable[[Variables, dict[str, Array], Array], tuple[Array, Variables]],
    variables: Variables,
    masks: dict[str, Array],
    split: Split,
    preprocess: Preprocess,
    recipe: Recipe,
    key: Array,
    *,
    at_once: int | None = None,
) -> Variables:
    """Fine-tunes a network under each of K masks, from the same weights and on the same batches.

    Candidate k ends where `finetune` of it alone would, up to float summation order.

    Args:
        masked_train: `masked_train(variables, masks, x) -> (logits, state)` for one mask.
        variables: The weights that all candidates start from; left untouched.
        masks: For each group, the masks `[K, size]`.
        split: The examples.
        preprocess: Maps uint8 `[B, H, W, C]` to what the network takes.
        recipe: How to fit.
        key: A PRNG key, the same for all candidates.
        at_once: How many candidates to train together under `vmap`. None: all of them on a GPU or
            TPU, one on a CPU, where kernels of their own for each candidate become slow grouped
            convolutions.

    Returns:
        Variables whose leaves have a leading axis K.

    Raises:
        ValueError: If there is no mask, the numbers of masks differ, or `at_once` is below 1.
    """
    counts = {len(mask) for mask in masks.values()}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"every group needs the same number of masks, at least 1; got {sorted(counts)}"
        )
    (count,) = counts
    if at_once is None:
        at_once = 1 if jax.default_backend() == "cpu" else count
    _check(at_once >= 1, "at_once", at_once, "1 or more")
    loop = _Loop(masked_train, split, preprocess, recipe, key)
    parts = []
    for first in range(0, count, at_once):
        part = {name: jnp.asarray(mask[first : first + at_once]) for name, mask in masks.items()}
        number = min(at_once, count - first)
        state = initial_state(variables, recipe, loop.steps)
        if number == 1:  # without vmap: its batched kernels would cost time for nothing
            part = jax.tree.map(lambda leaf: leaf[0], part)
        else:
            state = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], number, axis=0), state)
        for _, state, _ in loop.epochs(state, (part,), batched=number > 1):
            pass
        parts.append(
            jax.tree.map(lambda leaf: leaf[None], state.variables)
            if number == 1
            else state.variables
        )
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def initial_state(variables: Variables, recipe: Recipe, steps: int) -> TrainState:
    """The state before the first step: a copy of the variables, and a fresh optimizer.

    Args:
        variables: `{"params": ..., **state}`.
        recipe: How to fit.
        steps: Steps of an epoch, which the learning rate's schedule counts in.

    Returns:
        The state.
    """
    variables = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), variables)
    return TrainState(variables, optimizer(recipe, steps).init(variables["params"]))


def optimizer(recipe: Recipe, steps: int) -> optax.GradientTransformation:
    """The optax optimizer of a recipe.

    SGD adds the weight decay to the gradient, before the momentum, as PyTorch does and published
    CIFAR recipes assume; AdamW decouples it (Loshchilov & Hutter, arXiv 1711.05101).

    Args:
        recipe: How to fit.
        steps: Steps of an epoch.

    Returns:
        The optimizer, its schedule included.
    """
    total = max(1, recipe.epochs * steps)
    warmup = min(round(recipe.warmup * steps), total - 1)
    rate = optax.cosine_decay_schedule(recipe.learning_rate, total - warmup)
    if warmup:
        rise = optax.linear_schedule(0.0, recipe.learning_rate, warmup)
        rate = optax.join_schedules([rise, rate], [warmup])
    if recipe.optimizer == "adamw":
        return optax.adamw(rate, weight_decay=recipe.weight_decay, mask=_kernels)
    return optax.chain(
        optax.add_decayed_weights(recipe.weight_decay, mask=_kernels),
        optax.sgd(rate, momentum=recipe.momentum, nesterov=True),
    )


def _kernels(params: Any) -> Any:
    """Which parameters decay: matrices and convolution kernels."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


# --- the training loop ---------------------------------------------------------------------------


class _Metrics(NamedTuple):
    """Sums over the steps of an epoch while it runs, their means after it."""

    loss: Array
    accuracy: Array

    def as_floats(self) -> dict[str, float]:
        return {"loss": float(self.loss), "accuracy": float(self.accuracy)}


class _Plan(NamedTuple):
    """Everything static about a training loop: what it is compiled for."""

    recipe: Recipe
    batch_size: int
    steps: int


class _Loop:
    """Runs epochs of `function(variables, *extra, x) -> (logits, state)` over one split."""

    def __init__(
        self, function: Callable, split: Split, preprocess: Preprocess, recipe: Recipe, key: Array
    ) -> None:
        count = len(split.labels)
        if count == 0:
            raise ValueError("the split has no examples to fit")
        if recipe.precision == "auto":
            recipe = replace(recipe, precision=_default_precision())
        batch_size = min(recipe.batch_size, count)
        self.plan = _Plan(recipe, batch_size, count // batch_size)
        self.functions = _argument(function), _argument(preprocess)
        self.examples = jnp.asarray(split.images), jnp.asarray(split.labels)
        self.key = key

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.plan.steps

    def epochs(
        self, state: TrainState, extra: tuple = (), *, batched: bool = False, done: int = 0
    ) -> Iterator[tuple[int, TrainState, _Metrics]]:
        """Yields the number of epochs done, the state and the metrics after each epoch.

        The state is consumed (its memory is reused): read a yielded one before going on.

        Args:
            state: Where to start.
            extra: Arguments of the function between the variables and x.
            batched: Whether `state` and `extra` have a leading axis of candidates.
            done: Epochs that `state` has behind it.
        """
        in_python = jax.default_backend() == "cpu" and _has_convolutions(state, batched)
        run = _epoch_in_python if in_python else _epoch
        for epoch in range(done, self.plan.recipe.epochs):
            key = jax.random.fold_in(self.key, epoch)
            state, metrics = run(
                self.functions, state, extra, self.examples, key, plan=self.plan, batched=batched
            )
            yield epoch + 1, state, metrics


def _has_convolutions(state: TrainState, batched: bool) -> bool:
    """Whether any parameter has the rank of a convolution kernel."""
    ranks = (leaf.ndim - batched for leaf in jax.tree.leaves(state.variables["params"]))
    return any(rank > 2 for rank in ranks)


@partial(jax.jit, static_argnames=("plan", "batched"), donate_argnames="state")
def _epoch(functions, state, extra, examples, key, *, plan: _Plan, batched: bool):
    """One epoch as one scan. Returns the state and the mean metrics."""

    def scan(state, extra):
        def body(carry, batch):
            return _step(functions, carry, extra, examples, *batch, plan), None

        carry = state, _Metrics(jnp.zeros(()), jnp.zeros(()))
        (state, sums), _ = jax.lax.scan(body, carry, _batches(key, len(examples[1]), plan))
        return state, jax.tree.map(lambda leaf: leaf / plan.steps, sums)

    return (jax.vmap(scan) if batched else scan)(state, extra)


def _epoch_in_python(functions, state, extra, examples, key, *, plan: _Plan, batched: bool):
    """The same epoch, dispatched step by step; the host waits for none of them."""
    indices, keys = _jit_batches(key, len(examples[1]), plan)
    zeros = jnp.zeros(len(jax.tree.leaves(extra)[0]) if batched else ())
    carry = state, _Metrics(zeros, zeros.copy())
    for number in range(plan.steps):
        carry = _numbered_step(
            functions, carry, extra, examples, indices, keys, number, plan=plan, batched=batched
        )
    state, sums = carry
    return state, jax.tree.map(lambda leaf: leaf / plan.steps, sums)


@partial(jax.jit, static_argnames=("plan", "batched"), donate_argnames="carry")
def _numbered_step(
    functions, carry, extra, examples, indices, keys, number, *, plan: _Plan, batched: bool
):
    def step(carry, extra):
        return _step(functions, carry, extra, examples, indices[number], keys[number], plan)

    return (jax.vmap(step) if batched else step)(carry, extra)


def _batches(key: Array, count: int, plan: _Plan) -> tuple[Array, Array]:
    """A random order of the examples, `[steps, batch]` indices, and one key for each step."""
    order_key, step_key = jax.random.split(key)
    order = jax.random.permutation(order_key, count)[: plan.steps * plan.batch_size]
    return order.reshape(plan.steps, plan.batch_size), jax.random.split(step_key, plan.steps)


_jit_batches = jax.jit(_batches, static_argnums=(1, 2))


def _step(functions, carry, extra, examples, index, key, plan: _Plan):
    """One step of the optimizer, on the examples at `index`."""
    function, preprocess = functions
    state, sums = carry
    recipe = plan.recipe
    images, labels = examples[0][index], examples[1][index]
    if recipe.augment:
        images = data.augment(key, images)
    x = preprocess(images)
    if recipe.precision == "bfloat16":
        x = _to_bfloat16(x)

    def loss_fn(params):
        if recipe.precision == "bfloat16":
            params = _to_bfloat16(params)
        logits, new = function({**state.variables, "params": params}, *extra, x)
        logits = logits.astype(jnp.float32)
        targets = jax.nn.one_hot(labels, logits.shape[-1])
        if recipe.label_smoothing:
            targets = optax.smooth_labels(targets, recipe.label_smoothing)
        loss = optax.softmax_cross_entropy(logits, targets).mean()
        return loss, (new, jnp.mean(logits.argmax(-1) == labels))

    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    params = state.variables["params"]
    (loss, (new, accuracy)), grads = gradient(params)
    updates, optimizer_state = optimizer(recipe, plan.steps).update(grads, state.optimizer, params)
    variables = {**state.variables, **new, "params": optax.apply_updates(params, updates)}
    sums = _Metrics(sums.loss + loss, sums.accuracy + accuracy)
    return TrainState(variables, optimizer_state), sums


def _to_bfloat16(tree: Any) -> Any:
    """Casts the floating-point leaves; running statistics are not given to it and stay float32."""
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.bfloat16) if jnp.issubdtype(leaf, jnp.floating) else leaf, tree
    )


def _default_precision() -> Literal["float32", "bfloat16"]:
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def _argument(function: Callable) -> Partial:
    """Makes a function an argument of jit: equal functions then share what is compiled."""
    if isinstance(function, Partial):
        return function
    try:
        hash(function)
    except TypeError:  # such as a NamedTuple of arrays with __call__: compiled anew each time
        return Partial(lambda *args: function(*args))
    return Partial(function)


def _stack(history: list[_Metrics]) -> History:
    columns = zip(*jax.device_get(history), strict=True) if history else ((), ())
    return History(*(np.asarray(column, np.float32) for column in columns))


# --- measuring -----------------------------------------------------------------------------------


def scores(
    apply: Callable[[Variables, Array], Array],
    variables: Variables,
    split: Split,
    preprocess: Preprocess,
    batch_size: int = 500,
) -> tuple[float, float]:
    """Measures a network on a split, in float32.

    Args:
        apply: `apply(variables, x) -> logits [B, classes]`, for inference.
        variables: The network's variables.
        split: The examples; every one counts once, whatever the batch size.
        preprocess: Maps uint8 `[B, H, W, C]` to what the network takes.
        batch_size: Examples evaluated together.

    Returns:
        The mean cross-entropy and the accuracy, a share in [0, 1].

    Raises:
        ValueError: If the split is empty.
    """
    count = len(split.labels)
    if count == 0:
        raise ValueError("the split has no examples to measure on")
    batch_size = min(batch_size, count)
    functions = _argument(apply), _argument(preprocess)
    examples = jnp.asarray(split.images), jnp.asarray(split.labels)
    sums = [
        _sums(functions, variables, examples, first, batch_size=batch_size)
        for first in range(0, count, batch_size)
    ]
    loss, correct = np.sum(jax.device_get(sums), axis=0, dtype=np.float64)
    return float(loss) / count, float(correct) / count


def accuracy(
    apply: Callable[[Variables, Array], Array],
    variables: Variables,
    split: Split,
    preprocess: Preprocess,
    batch_size: int = 500,
) -> float:
    """The share of a split that a network classifies correctly; see `scores`."""
    return scores(apply, variables, split, preprocess, batch_size)[1]


@partial(jax.jit, static_argnames="batch_size")
def _sums(functions, variables, examples, first, *, batch_size: int):
    """Sums of loss and of correct answers over the batch that starts at `first`."""
    apply, preprocess = functions
    index = first + jnp.arange(batch_size)
    inside = index < len(examples[1])  # the last batch repeats its last example, with weight 0
    index = jnp.minimum(index, len(examples[1]) - 1)
    labels = examples[1][index]
    logits = apply(variables, preprocess(examples[0][index])).astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.sum(losses * inside), jnp.sum((logits.argmax(-1) == labels) & inside)
