"""What a run works on, put together and checked before anything is computed."""

import dataclasses
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Literal, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from jaxprune import costs, importance, training
from jaxprune.commands.config import RunConfig, device, limits
from jaxprune.costs.budgets import Budget, make_budgets
from jaxprune.dependency import Masks, Structure, masked, trace
from jaxprune.errors import UserError
from jaxprune.files import functions
from jaxprune.importance.compensation import compensate
from jaxprune.networks import bundled, own
from jaxprune.networks.network import Network
from jaxprune.scoring import devices
from jaxprune.search import trainer
from jaxprune.search.problem import Problem, Trainer, assemble, on_host
from jaxprune.training import data

KEYS = {"search": 1, "random": 2, "finetune": 3, "semifinal": 4, "importance": 5}
"""Streams of random numbers that do not depend on each other."""


class Job(NamedTuple):
    """What a run works on, known before anything is computed.

    Attributes:
        config: Settings of the run, with the model filled in.
        search: Settings of the method.
        method: The method's module.
        dataset: The data.
        network: The dense network.
        preprocess: Images to inputs of the network.
        structure: The network's groups of channels.
        budgets: What the untrained network may have of each cost.
        mesh: The devices that share the work; None: one.
    """

    config: RunConfig
    search: Any
    method: ModuleType
    dataset: data.Dataset
    network: Network
    preprocess: data.Preprocess
    structure: Structure
    budgets: tuple[Budget, ...]
    mesh: Mesh | None = None

    @property
    def device(self) -> str:
        """What the work is done on, in words."""
        return device(1 if self.mesh is None else self.mesh.size)

    def recipe(self, phase: Literal["pretrain", "finetune"]) -> training.Recipe:
        """How weights are fitted in "pretrain" or "finetune"; the latter without a teacher."""
        config = self.config
        name: Any = config.recipe
        task = self.network.name, self.dataset.name
        recipe = training.default_recipe(*task, phase=phase, name=name)
        rate = config.learning_rate
        if rate is not None:  # in fine-tuning the same part of it as by default
            usual = training.default_recipe(*task, name=name).learning_rate
            rate *= recipe.learning_rate / usual
        given = {
            "epochs": getattr(config, f"{phase}_epochs"),
            "optimizer": config.optimizer,
            "learning_rate": rate,
        }
        changes: Any = {field: value for field, value in given.items() if value is not None}
        return dataclasses.replace(recipe, **changes)

    def key(self, stream: str) -> jax.Array:
        """The PRNG key of a stream of `KEYS`."""
        return jax.random.fold_in(jax.random.PRNGKey(self.config.seed), KEYS[stream])


def prepare(config: RunConfig, search: Any, method: ModuleType) -> Job:
    """Loads the data and traces the network; refuses what cannot work.

    Args:
        config: Settings that `config.check` has passed, resolved.
        search: Settings of the method.
        method: The method's module.

    Raises:
        UserError: The data are missing or damaged, the model does not fit the images, the limits on
            widths contradict each other, or the budget cannot be reached within them.
    """
    mesh = devices.make_mesh(config.devices)
    dataset = data.load(config.dataset, config.data_dir, cache_dir=config.cache_dir)
    if config.examples is not None:
        dataset = data.subset(dataset, config.examples)
    network = build(str(config.model), dataset)
    preprocess = data.preprocess(dataset, network.flat)
    variables = jax.eval_shape(network.init, jax.random.PRNGKey(0))
    inputs = jax.eval_shape(preprocess, dataset.train.images[:1])
    structure = trace(network.apply, variables, inputs, prune_inputs=config.prune_inputs)
    if any(cost not in costs.NAMES for cost in config.cost):
        variables = network.init(jax.random.PRNGKey(0))  # something to measure
    x = latency_input(config, dataset, preprocess)
    budgets = _budgets(config, network, structure, variables, x, None)
    return Job(config, search, method, dataset, network, preprocess, structure, budgets, mesh)


def build(model: str, dataset: data.Dataset) -> Network:
    """The network of that name for a dataset.

    Args:
        model: A bundled network, or "module:function", as the user typed it: it is imported.
        dataset: The data.

    Raises:
        UserError: The network is unknown, or does not fit the data.
    """
    shape = dataset.train.images.shape[1:]
    if functions.is_own(model):
        return own.build(model, shape, dataset.num_classes)
    if len(shape) != 3:
        raise UserError(
            f"model {model!r} takes images [height, width, channels], those of {dataset.name} are "
            f"{list(shape)}: add axes of size 1 (images[..., None]), or bring a network of your own"
        )
    return bundled.build(model, shape, dataset.num_classes)


def content(job: Job) -> dict[str, str]:
    """{setting: hash} of the network and the data, where functions of the user's own make them."""
    found = {}
    if functions.is_own(str(job.config.model)):
        found["model"] = job.network.content
    if functions.is_own(job.config.dataset):
        found["dataset"] = data.digest(job.dataset)
    return found


def check_content(job: Job, stored: Mapping[str, str]) -> None:
    """Raises UserError if a function of the user's own has changed since the run began.

    Args:
        job: What the run would go on with.
        stored: What `content` was when it began.
    """
    now = content(job)
    for setting, value in stored.items():
        if now.get(setting) != value:
            raise UserError(
                f"cannot resume: {getattr(job.config, setting)} no longer gives the {setting} that "
                "the run began with (its code, its files or the version of JAX has changed); start "
                "another run"
            )


def latency_input(
    config: RunConfig, dataset: data.Dataset, preprocess: data.Preprocess
) -> jax.Array:
    """The batch whose time is measured."""
    return preprocess(dataset.validation.images[: config.latency_batch])


def _budgets(
    config: RunConfig,
    network: Network,
    structure: Structure,
    variables: Any,
    x: jax.Array,
    known: dict[str, dict[str, float]] | None,
) -> tuple[Budget, ...]:
    return make_budgets(
        network.apply,
        structure,
        variables,
        x,
        list(zip(config.cost, config.budget, strict=True)),
        limits=limits(config),
        margin=config.latency_margin,
        known=known,
    )


def make_job_budgets(job: Job, variables: Any) -> tuple[Budget, ...]:
    """What a network with these weights may have of each cost that is known without measuring."""
    x = latency_input(job.config, job.dataset, job.preprocess)
    return _budgets(job.config, job.network, job.structure, variables, x, None)


def pose(job: Job, variables: Any, known: dict[str, dict[str, float]]) -> Problem:
    """The problem that the search works on.

    Args:
        job: What the run works on.
        variables: The trained dense network.
        known: {cost: {key: value}}, what was measured before the run was interrupted.
    """
    x = latency_input(job.config, job.dataset, job.preprocess)
    scored = _scored(job)
    train, validation = _batch(job, job.dataset.train), _batch(job, job.dataset.validation)
    scores = _importance(job, variables)
    return assemble(
        job.structure,
        masked(scored, job.structure),
        variables,
        train,
        validation,
        budgets=_budgets(job.config, job.network, job.structure, variables, x, known),
        trainer=make_trainer(job, variables),
        scores=scores,
        host=on_host(scored, job.structure, variables, train, validation, scores, mesh=job.mesh),
        mesh=job.mesh,
        limits=limits(job.config),
    )


def compensated(job: Job, variables: Any, masks: Masks) -> Any:
    """The variables with which the kept filters make up for the removed ones."""
    x, _ = _batch(job, job.dataset.train)
    return compensate(job.network.apply, job.structure, variables, masks, x)


def _importance(job: Job, variables: Any) -> jax.Array:
    """The importance of each channel by the run's criterion."""
    x, y = _batch(job, job.dataset.train)

    def loss(logits: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    return importance.score(
        str(job.config.importance),
        job.structure,
        job.network.apply,
        variables,
        x,
        loss=loss,
        key=job.key("importance"),
    )


def make_trainer(job: Job, variables: Any) -> Trainer:
    """What candidates are trained with, from these weights."""
    return trainer.make_trainer(
        job.network,
        job.structure,
        variables,
        job.dataset.train,
        job.preprocess,
        finetune=job.recipe("finetune"),
        pretrain=job.recipe("pretrain"),
        scored=_scored(job),
        train=_batch(job, job.dataset.train),
        validation=_batch(job, job.dataset.validation),
        held_out=job.dataset.validation,
        mesh=job.mesh,
    )


def _batch(job: Job, split: data.Split) -> tuple[jax.Array, jax.Array]:
    """The images of a split that candidates are scored on, as inputs, and their labels."""
    count = min(job.config.search_examples, len(split.labels))
    _, part = split.divide(count, job.config.seed)
    return job.preprocess(part.images), jax.device_put(part.labels)


def _scored(job: Job) -> Callable[[Any, jax.Array], jax.Array]:
    """The network as candidates are scored by it."""

    def apply(variables: Any, x: jax.Array) -> jax.Array:
        if job.config.statistics == "dense":
            return job.network.apply(variables, x)
        logits, _ = job.network.apply_train(variables, x)
        return logits

    return apply
