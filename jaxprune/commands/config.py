"""The settings of a run."""

import dataclasses
import json
import platform
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from jaxprune.errors import UserError
from jaxprune.files import functions
from jaxprune.version import __version__

PROGRAM = "python -m jaxprune.run"

DEFAULT_MODELS: dict[str, str] = {
    "digits": "cnn",
    "mnist": "lenet5",
    "fashion_mnist": "lenet5",
    "cifar10": "resnet20",
}
"""{dataset: the model that is pruned unless another one is named}."""


def _option(metavar: str) -> Any:
    """How --help shows an option: by the kind of its value; its text says what None stands for."""
    return tyro.conf.arg(
        metavar=metavar,
        help_behavior_hint=lambda default: "" if default == "None" else f"(default: {default})",
    )


_Name = Annotated[str, _option("NAME")]
_OptionalName = Annotated[str | None, _option("NAME")]
_OptionalInt = Annotated[int | None, _option("INT")]
_OptionalFloat = Annotated[float | None, _option("FLOAT")]
_Names = Annotated[tuple[str, ...], _option("NAME ...")]
_Patterns = Annotated[tuple[str, ...], _option("PATTERN ...")]
_Amounts = Annotated[tuple[str, ...], _option("AMOUNT ...")]
_OptionalFolder = Annotated[Path | None, _option("DIR")]
_OptionalFile = Annotated[Path | None, _option("FILE")]


@dataclass(frozen=True)
class RunConfig:
    """Settings of a run that do not belong to its search method."""

    method: _Name = "mcts"
    """How masks are found: mcts, crl, acnn, amc, cacp, magnitude, random, sensitivity, knapsack,
    evolution, l0, autoprune, group_lasso, cges, barrier or admm."""

    dataset: _Name = "digits"
    """The data: digits (embedded, nothing to download), mnist, fashion_mnist, cifar10, any other
    image classification dataset of tensorflow-datasets that is prepared in --data-dir, or
    module:function, your own Python function that returns arrays."""

    model: _OptionalName = None
    """The network: cnn, lenet300, lenet5, mlp, vgg11, vgg16, vgg19, resnet18, resnet20, resnet50,
    resnet56, ghost_vgg16, ghost_resnet20, or module:function, your own Python function that returns
    a Flax module; by default cnn for digits, lenet5 for the MNISTs, resnet20 for cifar10."""

    prune_inputs: bool = False
    """Let input features be removed too, where the first layer reads them one by one."""

    cost: _Names = ("macs",)
    """What the budget limits: macs (multiply-adds), params, neurons, latency (of one call on this
    device), or module:function, your own Python function of the compact network; or several."""

    budget: _Amounts = ("0.25",)
    """What may remain of each cost: a part of the dense network's in (0, 1], such as 0.25 or 25%; a
    time, such as 0.4ms; or an amount in the cost's own unit, such as =200000."""

    round_to: int = 1
    """Widths of pruned layers are multiples of this, or a layer stays whole: GPUs like 8."""

    min_size: int = 1
    """The least number of filters that every layer keeps."""

    keep: _Patterns = ()
    """Layers that stay whole, by names or patterns such as 'stem*'. The channels of a residual sum
    stay whole if one of the layers that produce them does."""

    equal: _Patterns = ()
    """Layers that get equal widths: those that match one pattern, or one of several joined by
    commas, such as 'left*,right*'."""

    importance: _OptionalName = None
    """What orders the filters of a layer, where a method decides how many of them go: l1 (norm of
    their weights), reconstruction (how well the others can replace them), or another criterion of
    `jaxprune.importance`; by default l1, with --prune-inputs reconstruction."""

    latency_margin: float = 0.1
    """The part of a latency budget that the search leaves free, in [0, 1): the networks it finds
    are timed again before one is the result, and times scatter."""

    seed: int = 0
    """Seed of everything random; the same seed gives the same result."""

    out: _OptionalFolder = None
    """Folder of this run; by default runs/<time>-<method>-<model>-<dataset>."""

    resume: bool = False
    """Continue the run in --out where it was interrupted, with the settings it was started with."""

    dry_run: bool = False
    """Print what would be done, and stop."""

    preset: _Name = "default"
    """Where options begin that are not given: quick, a rough run of about a minute on two cores
    with the digits; default; or paper, what was published for the method, where something was."""

    config: _OptionalFile = None
    """A config.json of another run: where options begin that are not given."""

    data_dir: _OptionalFolder = None
    """Folder of the prepared datasets; by default TFDS_DATA_DIR."""

    cache_dir: _OptionalFolder = None
    """Folder of pretrained networks and decoded images; by default ~/.cache/jaxprune."""

    devices: _OptionalInt = None
    """How many devices share the work; by default all that JAX sees."""

    coordinator: _OptionalName = None
    """For a run on several hosts, host:port of the first process; auto where the cluster tells JAX
    (Slurm, Open MPI, Cloud TPU)."""

    processes: _OptionalInt = None
    """How many processes there are on all hosts, beside --coordinator."""

    process: _OptionalInt = None
    """Which of them this is, from 0; the first one writes the results."""

    log: Annotated[tuple[str, ...], _option("NAME ...")] = ()
    """Where metrics go besides metrics.jsonl: tensorboard (files in the run's folder), wandb."""

    examples: _OptionalInt = None
    """At most so many images of each split, for a quick try with rough numbers; by default all."""

    recipe: _Name = "default"
    """How much time training may take: short, default, or paper, the published length; it makes a
    difference for convolutional networks on cifar10 (12, 50 or 200 epochs)."""

    optimizer: _OptionalName = None
    """What trains the networks: sgd (with Nesterov momentum) or adamw; by default sgd."""

    learning_rate: _OptionalFloat = None
    """The highest learning rate of training the dense network; that of fine-tuning changes with it.
    By default the recipe of its model and dataset."""

    distill: float = 0.0
    """While pruned networks are fine-tuned, the weight of the dense network's answers in the loss,
    in [0, 1]; the labels have the rest. For the baselines, too."""

    distill_temperature: float = 4.0
    """What logits are divided by before the dense network's answers are compared; above 0."""

    pretrain_epochs: _OptionalInt = None
    """Epochs of training the dense network; by default the recipe of its model and dataset."""

    finetune_epochs: _OptionalInt = None
    """Epochs of training each pruned network; by default the recipe of its model and dataset."""

    compensate: bool = False
    """Before fine-tuning, let the weights of the filters that are kept make up for those that are
    gone, by least squares (`jaxprune.compensate`); for the baselines, too."""

    semifinalists: int = 16
    """How many candidates, the best of as many equal stretches of the search, are fine-tuned for a
    few steps; the finalists are those of lowest validation loss after it. With no more than
    --finalists there is no such trial, and the best before fine-tuning are the finalists."""

    semifinal_steps: int = 64
    """Training steps of each semifinalist."""

    finalists: int = 4
    """How many candidates are fine-tuned to the end; the one with the highest validation accuracy
    after it is the result."""

    baselines: _Names = ("uniform_l1", "global_l1", "random", "uniform")
    """What the result is compared with, each fine-tuned as it is: uniform_l1, global_l1, random,
    and uniform, in the order of --importance, where that is not l1. With no name: nothing."""

    rounds: int = 1
    """In how many rounds filters are removed: each removes a part, by a search of its own, and the
    best network is fine-tuned before the next. For the baselines, too."""

    schedule: _Name = "geometric"
    """What each of several rounds may leave: geometric, the same fraction of what the round before
    it left; linear, the same amount less each time; cubic, most of it goes in the first ones."""

    statistics: _Name = "batch"
    """What BatchNorm normalises by while candidates are compared: batch, the statistics of the
    scored images, which tells more about the accuracy after fine-tuning (Li et al., EagleEye, ECCV
    2020), or dense, those of the dense network."""

    search_examples: int = 1024
    """Training images that the search scores candidates on, and at most as many for validation."""

    latency_batch: int = 1
    """Images in the batch whose time is measured."""


_PLURALS = {"importance": "criteria"}

BASELINES = RunConfig().baselines
"""Choices of `RunConfig.baselines`."""

RECIPES = ("short", "default", "paper")
"""Choices of `RunConfig.recipe`."""

STATISTICS = ("batch", "dense")
"""Choices of `RunConfig.statistics`."""

PLACES = (
    *("out", "resume", "dry_run", "preset", "config", "data_dir", "cache_dir", "log"),
    *("devices", "coordinator", "processes", "process"),
)
"""Fields that say where and how to run or where settings come from, not what to compute: they may
change when resuming."""


_APART = {"search", "versions", "content"}
"""What config.json holds besides the fields of RunConfig."""


def check(config: RunConfig) -> None:
    """Raises UserError unless every value that stands alone is possible.

    Raises:
        UserError: Naming the option, its value and what is possible.
    """
    from jaxprune import costs, importance
    from jaxprune.costs import budgets
    from jaxprune.scoring import lowering
    from jaxprune.search import methods

    lowering.switched_on()
    for option, value, names in (
        ("method", config.method, methods.NAMES),
        ("importance", config.importance, (*importance.NAMES, None)),
        ("statistics", config.statistics, STATISTICS),
        ("recipe", config.recipe, RECIPES),
        ("optimizer", config.optimizer, ("sgd", "adamw", None)),
        ("schedule", config.schedule, tuple(costs.SCHEDULES)),
        *(("baseline", name, BASELINES) for name in config.baselines),
    ):
        if value not in names:
            known = ", ".join(name for name in names if name is not None)
            plural = option if option.endswith("s") else _PLURALS.get(option, f"{option}s")
            raise UserError(f"unknown {option} {value!r}; the {plural} are: {known}")
    _check_task(config)
    if len(config.cost) != len(config.budget) or not config.cost:
        raise UserError(
            f"--cost names {len(config.cost)} costs and --budget {len(config.budget)} amounts; "
            "each cost needs one budget"
        )
    for cost, budget in zip(config.cost, config.budget, strict=True):
        budgets.find(cost)
        try:
            budgets.parse_limit(cost, budget)
        except UserError as error:
            raise UserError(f"--{error}") from error
        if config.method in methods.TRACED_ONLY and cost not in costs.NAMES:
            raise UserError(
                f"--method {config.method} needs a cost that is known before it is measured "
                f"({', '.join(costs.NAMES)}), not {cost}; --method crl takes any"
            )
        if config.coordinator is not None and cost not in costs.NAMES:
            raise UserError(
                f"--cost {cost} is measured, which comes out differently on each host; with "
                f"--coordinator use {', '.join(costs.NAMES)}"
            )
    if not 0 <= config.latency_margin < 1:
        raise UserError(f"--latency-margin {config.latency_margin:g} is outside [0, 1)")
    if config.learning_rate is not None and not 0 < config.learning_rate < float("inf"):
        raise UserError(
            f"--learning-rate {config.learning_rate:g} is not possible; give one above 0"
        )
    if not 0 <= config.distill <= 1:
        raise UserError(f"--distill {config.distill:g} is outside [0, 1]")
    if not config.distill_temperature > 0:
        raise UserError(
            f"--distill-temperature {config.distill_temperature:g} is too small; it must be above 0"
        )
    for option, least in (
        ("seed", 0),
        ("round_to", 1),
        ("min_size", 1),
        ("examples", 1),
        ("pretrain_epochs", 0),
        ("finetune_epochs", 0),
        ("rounds", 1),
        ("semifinalists", 1),
        ("semifinal_steps", 1),
        ("finalists", 1),
        ("search_examples", 1),
        ("latency_batch", 1),
        ("devices", 1),
        ("processes", 1),
        ("process", 0),
    ):
        value = getattr(config, option)
        if value is not None and value < least:
            name = option.replace("_", "-")
            raise UserError(f"--{name} {value} is too small; it must be at least {least}")
    if config.seed >= 2**31:
        raise UserError(f"--seed {config.seed} is too large; it must be below {2**31}")
    if config.rounds > 1:
        _check_rounds(config)
    _check_hosts(config)


def _check_rounds(config: RunConfig) -> None:
    """Raises UserError unless the run can be made in several rounds."""
    from jaxprune import costs
    from jaxprune.search import methods

    measured = [cost for cost in config.cost if cost not in costs.NAMES]
    what = None
    if measured:
        what = f"costs known before they are measured ({', '.join(costs.NAMES)}), not {measured[0]}"
    elif config.method in methods.FROM_SCRATCH:
        what = f"a method that prunes trained weights; {config.method} trains its own"
    elif config.prune_inputs:
        what = "inputs that stay: leave --prune-inputs out"
    if what is not None:
        raise UserError(f"--rounds {config.rounds} needs {what}")


def _check_task(config: RunConfig) -> None:
    """Raises UserError unless there can be such a network and such data."""
    from jaxprune.networks import bundled
    from jaxprune.training import data

    data.check_known(config.dataset, config.data_dir)
    if config.model is None:
        if config.dataset not in DEFAULT_MODELS:
            raise UserError(
                f"--dataset {config.dataset} has no usual network: add --model with one of "
                f"{', '.join(bundled.NAMES)}, or module:function"
            )
    elif config.model not in bundled.NAMES and not functions.is_own(config.model):
        raise UserError(
            f"unknown model {config.model!r}; the models are: {', '.join(bundled.NAMES)}, or "
            "module:function"
        )


def limits(config: RunConfig) -> Any:
    """Which widths the groups may have, `costs.Limits`."""
    from jaxprune.costs import Kept, Limits

    return Limits(
        min_size=config.min_size,
        round_to=config.round_to,
        groups=dict.fromkeys(config.keep, Kept(least=1.0)),
        equal=tuple(tuple(patterns.split(",")) for patterns in config.equal),
    )


def _check_hosts(config: RunConfig) -> None:
    """Raises UserError unless the options of a run on several hosts fit together."""
    given = {name: getattr(config, name) for name in ("processes", "process")}
    named = [f"--{name} {value}" for name, value in given.items() if value is not None]
    if config.coordinator in (None, "auto"):
        if named:
            with_it = "auto finds out by itself" if config.coordinator else "it needs --coordinator"
            raise UserError(f"{named[0]}: {with_it}")
    elif len(named) < 2:
        raise UserError(
            f"--coordinator {config.coordinator} needs --processes and --process (or is auto)"
        )
    elif not 0 <= config.process < config.processes:  # type: ignore[operator]
        raise UserError(f"{named[1]} must be below {named[0]}")


def resolve(config: RunConfig, now: datetime) -> RunConfig:
    """Fills in what depends on other settings or on the time: model, importance and folder."""
    model = config.model or DEFAULT_MODELS[config.dataset]
    task = f"{functions.slug(model)}-{functions.slug(config.dataset)}"
    name = f"{now:%Y%m%d-%H%M%S}-{config.method}-{task}"
    importance = config.importance or ("reconstruction" if config.prune_inputs else "l1")
    out = config.out or Path("runs") / name
    return dataclasses.replace(config, model=model, importance=importance, out=out)


def to_json(config: RunConfig, search: Any) -> dict[str, Any]:
    """The settings as config.json holds them: what to compute, and the method's own under search.

    Places are left out: a run's folder can be moved, and its data can lie elsewhere.
    """
    fields = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in PLACES
    }
    return json.loads(json.dumps({**fields, "search": dataclasses.asdict(search)}))


def own_names(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The functions of the user's own among settings: (option, module:function)."""
    costs = [("cost", cost) for cost in settings.get("cost", ())]
    named = [("model", settings.get("model")), ("dataset", settings.get("dataset")), *costs]
    return [(option, name) for option, name in named if functions.is_own(str(name))]


def versions() -> dict[str, str]:
    """What made the numbers, as config.json holds it under "versions"."""
    import jax

    return {
        "jaxprune": __version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("flax", "optax", "numpy")},
    }


def device(count: int = 1) -> str:
    """What the numbers are made on, such as "cpu, 2 cores" or "NVIDIA H100 80GB HBM3, 8 devices".

    Args:
        count: How many devices shared the work.
    """
    import jax

    from jaxprune.scoring.devices import cores

    first = jax.devices()[0]
    kind = str(first.device_kind) + (f", {count} devices" if count > 1 else "")
    if first.platform != "cpu":
        return kind
    return f"{kind}, {cores()} core{'s' * (cores() != 1)}"


def from_json(settings: dict[str, Any], search_type: type) -> tuple[RunConfig, Any]:
    """The settings that `to_json` wrote.

    Args:
        settings: The content of config.json.
        search_type: The `Config` of the method.

    Returns:
        The run's and the method's settings; places are at their defaults.

    Raises:
        UserError: A setting is unknown, or has a value that it cannot have: another version or
            another program wrote it.
    """
    fields = {name: value for name, value in settings.items() if name not in _APART}
    try:
        return _build(RunConfig, fields), _build(search_type, settings["search"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"config.json belongs to another version of jaxprune: {error}") from error


def command(settings: dict[str, Any], search_type: type) -> str:
    """What to type to compute the same again: all settings that differ from their defaults.

    Args:
        settings: The content of config.json.
        search_type: The `Config` of the method.

    Returns:
        One line for a shell, without places such as --out.

    Raises:
        UserError: A setting is unknown: another version wrote it.
    """
    run, search = from_json(settings, search_type)
    words = [
        *("--method", run.method),
        *_options("--", run, RunConfig(method=run.method)),
        *_options("--search.", search, search_type()),
    ]
    return f"{PROGRAM} {shlex.join(words)}"


def _options(prefix: str, given: Any, default: Any) -> list[str]:
    words: list[str] = []
    for field in dataclasses.fields(given):
        value = getattr(given, field.name)
        if value == getattr(default, field.name):
            continue
        words.append(prefix + field.name.replace("_", "-"))
        if isinstance(value, tuple):
            words.extend(map(str, value))
        elif not isinstance(value, bool):  # a switch, off by default, takes no value
            words.append(str(value))
    return words


def difference(stored: dict[str, Any], given: dict[str, Any]) -> str | None:
    """The first setting in which two results of `to_json` differ, in words, or None."""
    for name in sorted({*stored, *given} - _APART):
        if stored.get(name) != given.get(name):
            return (
                f"--{name.replace('_', '-')} is {_typed(given.get(name))}, the run has "
                f"{_typed(stored.get(name))}"
            )
    for name in sorted({*stored["search"], *given["search"]}):
        old, new = stored["search"].get(name), given["search"].get(name)
        if old != new:
            return f"--search.{name.replace('_', '-')} is {new}, the run has {old}"
    return None


def _typed(value: Any) -> str:
    """A setting as it is typed."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _build(kind: type, values: dict[str, Any]) -> Any:
    """A dataclass from what JSON keeps of it: lists where it has tuples."""
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    made = kind(**given)
    for name, hint in get_type_hints(kind).items():
        if not _fits(getattr(made, name), hint):
            raise TypeError(f"{name} is {values[name]!r}")
    return made


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type of a setting."""
    kinds = get_args(hint)
    if get_origin(hint) is Literal:
        return value in kinds
    if get_origin(hint) is tuple:
        of = kinds[:1] * len(value) if isinstance(value, tuple) and ... in kinds else kinds
        return isinstance(value, tuple) and len(value) == len(of) and all(map(_fits, value, of))
    if kinds:
        return any(_fits(value, kind) for kind in kinds)
    if hint in (int, float):
        wanted = (int,) if hint is int else (int, float)
        return isinstance(value, wanted) and not isinstance(value, bool)
    return isinstance(value, hint)
