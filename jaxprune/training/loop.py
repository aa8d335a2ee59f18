"""The training loop: an epoch as one jitted scan.

On a CPU, XLA runs the gradient of a convolution inside a loop many times slower than outside one
(JAX issue 12868). There, networks with convolutions are stepped from Python instead, without
waiting for any step: the same computation, dispatched in pieces.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from jaxprune.scoring import devices, threads
from jaxprune.scoring.lowering import lower
from jaxprune.training.arguments import as_argument
from jaxprune.training.data import Split, augment
from jaxprune.training.recipes import Recipe, optimizer

Variables = dict[str, Any]

_MIRROR = 2**31 - 1
"""Among the keys of epochs, that of the images that are mirrored first."""


class TrainState(NamedTuple):
    """What changes from step to step.

    Attributes:
        variables: `{"params": ..., **state}`.
        optimizer: The state of the optax optimizer, step count included.
        average: The mean of the variables so far, where the recipe asks for one, else None.
    """

    variables: Variables
    optimizer: optax.OptState
    average: Variables | None = None

    @property
    def fitted(self) -> Variables:
        """What training results in if it ends here."""
        return self.variables if self.average is None else self.average


class Metrics(NamedTuple):
    """Means over the batches of an epoch, each measured just before its step.

    Attributes:
        loss: What is minimised: cross-entropy with label smoothing, and the distance from the
            teacher if there is one.
        accuracy: Share of examples classified correctly.
    """

    loss: Array
    accuracy: Array

    def as_floats(self) -> dict[str, float]:
        """The metrics by name, fetched from the device."""
        return {name: float(value) for name, value in self._asdict().items()}


class Begun(NamedTuple):
    """How far an epoch has come.

    Attributes:
        step: How many of its steps are done.
        metrics: Their part of the epoch's metrics.
    """

    step: int
    metrics: Metrics


AfterStep = Callable[[int, TrainState, Metrics], None]
"""Called with the steps of the epoch that are done, the state and the part of the metrics so far;
the state's memory is reused afterwards."""


class _Examples(NamedTuple):
    """A split on the device.

    Attributes:
        images: uint8 `[n, H*W*C]`.
        labels: int32 `[n]`.
        mirrored: bool `[n]`, which are mirrored in this epoch, where that is not left to chance.
    """

    images: Array
    labels: Array
    mirrored: Array | None = None


class _Plan(NamedTuple):
    """Everything static about a loop: what it is compiled for."""

    recipe: Recipe
    steps: int
    batch_size: int
    image_shape: tuple[int, ...]
    mesh: Mesh | None = None

    def optimizer(self) -> optax.GradientTransformation:
        return optimizer(self.recipe, self.steps)


class Loop:
    """Trains `function(variables, *extra, x) -> (logits, state)` on one split, epoch by epoch.

    On a mesh of devices the examples of each step are divided among them, if they can be in equal
    parts; states are on all of them (`devices.gather` brings one back).

    What a step does follows from its number, that of its epoch, and the state alone: a loop can be
    left after any step and taken up again.
    """

    def __init__(
        self,
        function: Callable[..., tuple[Array, Variables]],
        split: Split,
        preprocess: Callable[[Array], Array],
        recipe: Recipe,
        key: Array,
        mesh: Mesh | None = None,
        teacher: Callable[[Array], Array] | None = None,
    ) -> None:
        count = len(split.labels)
        if count == 0:
            raise ValueError("the split has no examples to fit")
        batch_size = min(recipe.batch_size, count)
        shape = tuple(split.images.shape[1:])
        self._plan = _Plan(recipe.resolved(), count // batch_size, batch_size, shape, mesh)
        if not recipe.distill:
            teacher = None
        elif teacher is None:
            raise ValueError(f"distill is {recipe.distill:g}, but there is no teacher")
        self._functions = (
            as_argument(function),
            as_argument(preprocess),
            None if teacher is None else as_argument(teacher),
        )
        # As rows: fetching an image is then one copy, also where it has a single channel.
        images, labels = jax.device_put((np.reshape(split.images, (count, -1)), split.labels))
        self._examples = devices.replicate(_Examples(images, labels), mesh)
        self._mirrored: tuple[Array, Array] | None = None
        if recipe.mirror == "alternating" and "mirror" in recipe.augment:
            first = jax.random.bernoulli(jax.random.fold_in(key, _MIRROR), shape=(count,))
            self._mirrored = devices.replicate((first, ~first), mesh)
        self._key = key

    def start(self, variables: Variables) -> TrainState:
        """The state before the first step: a copy of the variables, and a fresh optimizer."""
        variables = jax.device_put(variables, may_alias=False)  # copies, and compiles nothing
        average = self._plan.recipe.average
        mean = jax.device_put(variables, may_alias=False) if average else None
        state = TrainState(variables, _optimizer_state(self._plan, variables["params"]), mean)
        return devices.replicate(state, self._plan.mesh)

    def epoch(
        self,
        number: int,
        state: TrainState,
        extra: tuple = (),
        *,
        batched: bool = False,
        begun: Begun | None = None,
        after_step: AfterStep | None = None,
    ) -> tuple[TrainState, Metrics]:
        """Runs one epoch, or the rest of it.

        Args:
            number: Which epoch, from 0.
            state: The state before it; consumed, its memory is reused.
            extra: Arguments of the function between the variables and x.
            batched: Whether `state` and `extra` have a leading axis of candidates to `vmap` over.
            begun: What is done already; None: nothing.
            after_step: Called after each step where steps are taken one by one, as they are with
                convolutions on a CPU.

        Returns:
            The state after the epoch and its metrics.
        """
        threads.go_on()
        examples = self._examples
        if self._mirrored is not None:
            examples = examples._replace(mirrored=self._mirrored[number % 2])
        key = jax.random.fold_in(self._key, number)
        arguments = (self._functions, state, extra, examples, key)
        convolutions = jax.default_backend() == "cpu" and _has_convolutions(state, batched)
        if not (convolutions or begun):
            return _epoch(*arguments, plan=self._plan, batched=batched)
        return _epoch_by_steps(
            *arguments, plan=self._plan, batched=batched, begun=begun, after_step=after_step
        )


@partial(jax.jit, static_argnums=0)
def _optimizer_state(plan: _Plan, params: Variables) -> optax.OptState:
    """The state of a fresh optimizer, made in one program."""
    return plan.optimizer().init(params)


def _has_convolutions(state: TrainState, batched: bool) -> bool:
    """Whether any parameter has the rank of a convolution kernel."""
    leaves = jax.tree.leaves(state.variables["params"])
    return any(leaf.ndim - batched > 2 for leaf in leaves)


@partial(jax.jit, static_argnames=("plan", "batched"), donate_argnames="state")
def _epoch(functions, state, extra, examples, key, *, plan: _Plan, batched: bool):
    def scan(state, extra):
        def body(carry, batch):
            index, step_key = batch
            return _step(functions, carry, extra, examples, index, step_key, plan), None

        carry = state, Metrics(jnp.zeros(()), jnp.zeros(()))
        carry, _ = jax.lax.scan(body, carry, _batches(key, len(examples.labels), plan))
        return carry

    return (jax.vmap(scan) if batched else scan)(state, extra)


def _epoch_by_steps(
    functions,
    state,
    extra,
    examples,
    key,
    *,
    plan: _Plan,
    batched: bool,
    begun: Begun | None = None,
    after_step: AfterStep | None = None,
):
    indices, keys = _jit_batches(key, len(examples.labels), plan)
    if begun is None:
        shape = jnp.shape(jax.tree.leaves(extra)[0])[:1] if batched else ()
        begun = Begun(0, Metrics(jnp.zeros(shape), jnp.zeros(shape)))
    carry = state, begun.metrics
    for number in range(begun.step, plan.steps):
        threads.go_on()
        carry = _numbered_step(
            functions, carry, extra, examples, indices, keys, number, plan=plan, batched=batched
        )
        if after_step is not None:
            after_step(number + 1, *carry)
    return carry


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
    """One step of the optimizer on the examples at `index`; adds to the metrics."""
    function, preprocess, teacher = functions
    state, metrics = carry
    recipe = plan.recipe
    # On several devices each takes a part of the batch; the sums over all of it are XLA's matter.
    batch = jax.tree.map(lambda leaf: leaf[index], examples)
    rows, labels, mirrored = devices.divide(batch, plan.mesh)
    images = rows.reshape((len(rows), *plan.image_shape))
    images = augment(key, images, recipe.augment, mirrored)
    cast = _to_bfloat16 if recipe.precision == "bfloat16" else lambda tree: tree
    x = cast(preprocess(images))
    quick = lower(function, differentiated=True)
    advice = None if teacher is None else _probabilities(lower(teacher)(x), recipe.temperature)

    def loss_fn(params):
        # The other collections, such as running means, are not cast: they add up small changes.
        logits, new = quick({**state.variables, "params": cast(params)}, *extra, x)
        logits = logits.astype(jnp.float32)
        targets = jax.nn.one_hot(labels, logits.shape[-1])
        targets = optax.smooth_labels(targets, recipe.label_smoothing)
        loss = optax.softmax_cross_entropy(logits, targets).mean()
        if advice is not None:
            guess = jax.nn.log_softmax(logits / recipe.temperature)
            distance = recipe.temperature**2 * optax.kl_divergence(guess, advice).mean()
            loss = (1 - recipe.distill) * loss + recipe.distill * distance
        return loss, (new, jnp.mean(logits.argmax(-1) == labels))

    params = state.variables["params"]
    (loss, (new, accuracy)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    updates, optimizer_state = plan.optimizer().update(grads, state.optimizer, params)
    variables = {**state.variables, **new, "params": optax.apply_updates(params, updates)}
    mean = state.average
    if mean is not None:
        mean = optax.incremental_update(variables, mean, 1 - recipe.average)
    metrics = Metrics(metrics.loss + loss / plan.steps, metrics.accuracy + accuracy / plan.steps)
    return devices.replicated((TrainState(variables, optimizer_state, mean), metrics), plan.mesh)


def _probabilities(logits: Array, temperature: float) -> Array:
    """What a teacher holds of each class, `[B, classes]`, softened (Hinton, arXiv 1503.02531)."""
    return jax.nn.softmax(logits.astype(jnp.float32) / temperature)


def _to_bfloat16(tree: Any) -> Any:
    """Casts the floating-point leaves."""

    def cast(leaf: Array) -> Array:
        return leaf.astype(jnp.bfloat16) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)
