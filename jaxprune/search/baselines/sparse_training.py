"""Training a network to be sparse, and then removing what has become unimportant.

A `Method` says how a training step goes and which channels it makes unimportant. What all methods
share is here: epochs over the training split, the strength of the sparsity, and the removal at the
end.

The papers fix the strength and take whatever sparsity results; a run here has a budget. So by
default the strength is a multiplier, which rises while the channels in use cost more than the
budget and falls while they cost less; a number fixes it, as in the papers. In either case the least
important channels are removed at the end, until the budget is just met.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxprune.costs.limits import Allowed
from jaxprune.dependency import Structure
from jaxprune.errors import UserError
from jaxprune.scoring.lowering import lower
from jaxprune.search import rounds
from jaxprune.search.baselines import candidates
from jaxprune.search.baselines.removal import least_removal
from jaxprune.search.problem import Archive, Material, Problem, SearchResult
from jaxprune.search.ranges import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, require
from jaxprune.training.arguments import as_argument
from jaxprune.training.data import augment
from jaxprune.training.recipes import Recipe, learning_rate, optimizer


@dataclass(frozen=True)
class Training:
    """Settings that all methods of sparse training share."""

    epochs: int = 30
    """Passes over the training split."""

    from_dense: bool = False
    """Begin with the trained dense network's weights; the papers begin with fresh ones."""

    strength: float | None = None
    """Weight of the sparsity in the loss; by default a multiplier that holds the budget."""

    def __post_init__(self) -> None:
        require(self, AT_LEAST_ONE, "epochs")
        require(self, NOT_NEGATIVE, "strength")

    def first_strength(self) -> float:
        """The strength before training."""
        if self.strength is None:
            raise ValueError("strength must be a number, not None")
        return self.strength


@dataclass(frozen=True)
class Config(Training):
    """Settings of the methods whose strength can hold the budget."""

    initial_strength: float = 0.3
    """That multiplier before training."""

    strength_rate: float = 6.0
    """How fast it moves: its logarithm would rise by this over the whole training if twice the
    budget were in use all the time, and fall as fast if nothing were."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, POSITIVE, "initial_strength", "strength_rate")

    def first_strength(self) -> float:
        """The strength before training."""
        return self.initial_strength if self.strength is None else self.strength


class Learner(NamedTuple):
    """What training changes.

    Attributes:
        variables: the network's.
        gates: float32 `[N]`, the parameters of the channels' gates, where a method has some.
        optimizer: state of the weights' optimizer.
        gate_optimizer: state of the gates' optimizer; () without gates.
        strength: float32 `[]`.
    """

    variables: Any
    gates: Array
    optimizer: optax.OptState
    gate_optimizer: optax.OptState
    strength: Array


class Batch(NamedTuple):
    """Examples of one step: inputs of the network `[B, ...]`, and labels `[B]`."""

    x: Array
    y: Array


class Step(NamedTuple):
    """What a training step is given.

    Attributes:
        batch: examples of the training split.
        held_out: random examples of the validation split.
        number: how many steps came before, int32 `[]`.
        key: PRNG key, consumed.
        dense: the trained dense network's variables.
    """

    batch: Batch
    held_out: Batch
    number: Array
    key: Array
    dense: Any


class Plan(NamedTuple):
    """What stays the same during the training; static.

    Attributes:
        config: the method's settings.
        recipe: how the network's weights are fitted: optimizer, learning rate, label smoothing.
        structure: the network's channels.
        cost: `[N]` -> relative cost, also of numbers between 0 and 1.
        limit: what the cost may be.
        steps: steps of an epoch.
        batch_size: examples of a step.
        allowed: the widths that the groups may have.
        first: the plan -> what is done to the gradients before the optimizer; None: nothing.
    """

    config: Any
    recipe: Recipe
    structure: Structure
    cost: Callable[[Array], Array]
    limit: float
    steps: int
    batch_size: int
    allowed: Allowed | None = None
    first: Callable[[Any], optax.GradientTransformation] | None = None

    def optimizer(self) -> optax.GradientTransformationExtraArgs:
        """The recipe's optimizer for the weights, which may be told the loss as `value`."""
        own = optimizer(self.recipe, self.steps)
        whole = own if self.first is None else optax.chain(self.first(self), own)
        return optax.with_extra_args_support(whole)

    def gate_optimizer(self) -> optax.GradientTransformation:
        """The optimizer of the gates, for methods that have some."""
        return optax.adam(self.config.gate_learning_rate)

    def learning_rate(self, step: Array) -> Array:
        """The recipe's learning rate."""
        return learning_rate(self.recipe, self.steps)(step)

    def loss(self, logits: Array, labels: Array) -> Array:
        """The recipe's cross-entropy."""
        targets = jax.nn.one_hot(labels, logits.shape[-1])
        targets = optax.smooth_labels(targets, self.recipe.label_smoothing)
        return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets).mean()


Network = Callable[[Any, Array, Array], tuple[Array, Any]]
"""`network(variables, gates [N], x)` -> logits and the changed collections, in training mode."""


def descend(
    plan: Plan,
    network: Network,
    learner: Learner,
    batch: Batch,
    gated: Callable[[Array], Array],
    penalty: Callable[[Array], Any] = lambda gates: 0.0,
    fit: Callable[[Array], Array] | None = None,
) -> tuple[Learner, Array, Array]:
    """A step of the weights' optimizer.

    Args:
        plan: what stays the same.
        network: the network.
        learner: before the step.
        batch: the examples.
        gated: the gates' parameters `[N]` -> what each channel is multiplied by, `[N]`.
        penalty: the gates' parameters `[N]` -> what is added to the loss, `[]`.
        fit: the logits -> what they are fitted by, `[]`; by default the plan's cross-entropy.

    Returns:
        The learner after the step; the gradient of the gates' parameters, `[N]`; and the loss.
    """
    params = learner.variables["params"]

    def loss(params: Any, gates: Array) -> tuple[Array, Any]:
        variables = {**learner.variables, "params": params}
        logits, new = network(variables, gated(gates), batch.x)
        fitted = plan.loss(logits, batch.y) if fit is None else fit(logits)
        return fitted + penalty(gates), new

    (value, new), (slope, gate_slope) = jax.value_and_grad(loss, (0, 1), has_aux=True)(
        params, learner.gates
    )
    change, state = plan.optimizer().update(slope, learner.optimizer, params, value=value)
    variables = {**learner.variables, **new, "params": optax.apply_updates(params, change)}
    return learner._replace(variables=variables, optimizer=state), gate_slope, value


def move_gates(plan: Plan, learner: Learner, slope: Array) -> Learner:
    """The learner after a step of the gates' optimizer along a gradient `[N]`."""
    change, state = plan.gate_optimizer().update(slope, learner.gate_optimizer, learner.gates)
    return learner._replace(gates=learner.gates + change, gate_optimizer=state)


class Method(NamedTuple):
    """What distinguishes a method.

    Attributes:
        step: `(plan, network, learner, step)` -> the learner after a training step, and the loss.
        in_use: `(plan, learner)` -> how much each channel is in use, `[N]` in [0, 1]; its cost is
            compared with the budget.
        scores: `(plan, learner)` -> `[N]`, the lowest are removed first.
        weights: `(plan, learner)` -> the variables with the gates taken into the weights.
        gates: `(config, structure, key)` -> the gates' parameters before training, `[N]`; None for
            methods without gates.
        acts: `(plan, number)` -> whether the sparsity acts in the step of that number, bool `[]`;
            where it does not, its strength stays as it is.
        first: the plan -> what is done to the weights' gradients before the optimizer.
    """

    step: Callable[[Plan, Network, Learner, Step], tuple[Learner, Array]]
    in_use: Callable[[Plan, Learner], Array]
    scores: Callable[[Plan, Learner], Array]
    weights: Callable[[Plan, Learner], Any]
    gates: Callable[[Any, Structure, Array], Array] | None = None
    acts: Callable[[Plan, Array], Any] = lambda plan, number: True
    first: Callable[[Plan], optax.GradientTransformation] | None = None


class State(NamedTuple):
    """Everything a search needs to go on, as arrays.

    Attributes:
        key: PRNG key, uint32 `[2]`.
        learner: weights, gates, strength.
        iteration: epochs done, int32 `[]`.
        archive: the final network, once there is one.
    """

    key: Array
    learner: Learner
    iteration: np.int32
    archive: Archive


def init(method: Method, config: Training, problem: Problem, key: Array) -> State:
    """The state before the first epoch.

    Raises:
        UserError: the problem has no data to train with, or its cost must be measured.
    """
    material, plan = _material(problem), _plan(method, config, problem)
    key, weights_key, gates_key = jax.random.split(jnp.asarray(key), 3)
    assert problem.trainer is not None
    variables = material.dense if config.from_dense else problem.trainer.initial(weights_key)
    gates = jnp.zeros(problem.structure.num_channels)
    if method.gates:
        gates = method.gates(config, problem.structure, gates_key)
    learner = Learner(
        variables=variables,
        gates=gates,
        optimizer=plan.optimizer().init(variables["params"]),
        gate_optimizer=plan.gate_optimizer().init(gates) if method.gates else (),
        strength=jnp.float32(config.first_strength()),
    )
    return State(key, learner, np.int32(0), candidates.empty(problem.structure.num_channels))


def finished(config: Training, state: State) -> bool:
    """Whether all epochs were trained."""
    return int(state.iteration) >= config.epochs


def update(
    method: Method, config: Training, problem: Problem, state: State
) -> tuple[State, dict[str, Any]]:
    """One epoch.

    Returns:
        The next state, which is a function of the arguments alone, and metrics: `iteration`,
        `episodes`, `candidates`, `best_accuracy` (validation, with the least important channels
        removed until the budget is met), `loss` (mean of the epoch), `in_use` (relative cost of
        the channels in use), `limit`, `strength`.
    """
    material, plan = _material(problem), _plan(method, config, problem)
    key, epoch_key = jax.random.split(state.key)
    learner, loss = _epoch(method, plan, material, state.learner, state.iteration, epoch_key)
    iteration = np.int32(state.iteration + 1)
    mask = least_removal(problem, method.scores(plan, learner))
    variables = method.weights(plan, learner)
    found = _scored(problem, variables, mask)
    state = State(key, learner, iteration, found if iteration == config.epochs else state.archive)
    return state, {
        "iteration": int(iteration),
        "episodes": int(iteration),
        "candidates": len(state.archive.cost),
        "best_accuracy": float(found.validation[0]),
        "loss": float(loss),
        "in_use": float(plan.cost(method.in_use(plan, learner))),
        "limit": plan.limit,
        "strength": float(learner.strength),
    }


def search(
    method: Method,
    config: Training,
    problem: Problem,
    key: Array,
    *,
    state: State | None = None,
    progress: Callable[[State, dict[str, Any]], None] | None = None,
) -> SearchResult:
    """Trains, and removes what the training has made unimportant.

    Args:
        method: what distinguishes the method.
        config: its settings.
        problem: what to prune and to which budget.
        key: PRNG key, uint32 `[2]`; unused when a state is given, which carries its own.
        state: where to go on; by default the beginning. A resumed search ends bit for bit like an
            uninterrupted one.
        progress: called with the state and the metrics after each epoch.

    Returns:
        The mask, and the trained weights that belong to it.

    Raises:
        UserError: the problem has no data to train with, or its cost must be measured.
        ValueError: the budget cannot be met even at the least allowed widths.
    """
    state = rounds.play(
        functools.partial(update, method, config, problem),
        functools.partial(finished, config),
        init(method, config, problem, key) if state is None else state,
        progress=progress,
    )
    variables = method.weights(_plan(method, config, problem), state.learner)
    archive = state.archive
    return SearchResult(archive.masks[0], archive, int(state.iteration), state, variables)


def _material(problem: Problem) -> Material:
    if problem.trainer is None or problem.trainer.material is None:
        raise UserError(
            "this method trains the network, which this problem has no data for: give "
            "Problem.trainer with its material, or use another method"
        )
    if not problem.traceable:
        raise UserError(
            "this method needs a cost that is known for channels partly in use: choose params, "
            "macs or neurons, or another method"
        )
    return problem.trainer.material


def _plan(method: Method, config: Training, problem: Problem) -> Plan:
    material = _material(problem)
    recipe = replace(material.recipe.resolved(), epochs=config.epochs)
    count = len(material.train[1])
    batch_size = min(recipe.batch_size, count)
    return Plan(
        config=config,
        recipe=recipe,
        structure=problem.structure,
        cost=problem.cost,
        limit=problem.budget,
        steps=count // batch_size,
        batch_size=batch_size,
        allowed=problem.allowed,
        first=method.first,
    )


def _scored(problem: Problem, variables: Any, mask: Array) -> Archive:
    """The archive of one candidate with weights of its own."""
    assert problem.trainer is not None
    masks = jnp.asarray(mask)[None]
    return candidates.append(
        candidates.empty(problem.structure.num_channels),
        problem,
        masks,
        candidates.costs(problem, masks),
        problem.trainer.evaluate(variables, masks),
        problem.trainer.validate(variables, masks).accuracy,
    )


# -- an epoch -------------------------------------------------------------------------------------


def _epoch(
    method: Method, plan: Plan, material: Material, learner: Learner, number: Any, key: Array
) -> tuple[Learner, Array]:
    """The learner after a pass over the training split, and the mean loss."""
    functions = as_argument(material.function), as_argument(material.preprocess)
    examples, held_out = (
        tuple(map(jnp.asarray, split)) for split in (material.train, material.validation)
    )
    order_key, key = jax.random.split(key)
    shape = plan.steps, plan.batch_size
    order = jax.random.permutation(order_key, len(examples[1]))[: shape[0] * shape[1]]
    carry = learner, jnp.zeros(()), jnp.int32(number * plan.steps)
    whole = functions, examples, held_out, order.reshape(shape), key, material.dense
    # On a CPU, the gradient of a convolution is slow inside a loop (JAX issue 12868).
    kernels = jax.tree.leaves(learner.variables["params"])
    if jax.default_backend() == "cpu" and any(leaf.ndim > 2 for leaf in kernels):
        for step in range(plan.steps):
            carry = _one_step(method, plan, whole, carry, step)
    else:
        carry = _all_steps(method, plan, whole, carry)
    return carry[0], carry[1] / plan.steps


@functools.partial(jax.jit, static_argnums=(0, 1))
def _all_steps(method: Method, plan: Plan, whole: tuple, carry: tuple) -> tuple:
    def body(carry: tuple, step: Array) -> tuple[tuple, None]:
        return _step(method, plan, whole, carry, step), None

    return jax.lax.scan(body, carry, jnp.arange(plan.steps))[0]


def _step(method: Method, plan: Plan, whole: tuple, carry: tuple, step: Array) -> tuple:
    (function, preprocess), examples, held_out, order, key, dense = whole
    learner, loss, number = carry
    look_key, augment_key, step_key = jax.random.split(jax.random.fold_in(key, step), 3)

    def batch(split: tuple[Array, Array], index: Array) -> Batch:
        images = augment(augment_key, split[0][index], plan.recipe.augment)
        return Batch(preprocess(images), split[1][index])

    count = len(held_out[1])
    index = jax.random.randint(look_key, (min(plan.batch_size, count),), 0, count)
    given = Step(batch(examples, order[step]), batch(held_out, index), number, step_key, dense)
    quick = lower(function, differentiated=True)
    learner, now = method.step(plan, quick, learner, given)
    if plan.config.strength is None:
        violation = plan.cost(method.in_use(plan, learner)) / plan.limit - 1
        rate = plan.config.strength_rate / (plan.config.epochs * plan.steps)
        # Multiplied, not added to: strengths differ by orders of magnitude between networks.
        factor = jnp.exp(rate * jnp.clip(violation, -1.0, 1.0))
        factor = jnp.where(method.acts(plan, number), factor, 1.0)
        learner = learner._replace(strength=learner.strength * factor)
    return learner, loss + now, number + 1


_one_step = jax.jit(_step, static_argnums=(0, 1))
