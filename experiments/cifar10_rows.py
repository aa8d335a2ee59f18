"""The rows of CIFAR-10's tables: networks, budgets and methods, in the order of their worth."""

from collections.abc import Sequence
from typing import NamedTuple

from rows import Row

from jaxprune.commands import networks
from jaxprune.search import methods

SEEDS = (0, 1, 2)
BASELINES = ("uniform_l1", "global_l1", "random")
LABELS = {"uniform_l1": "uniform L1", "global_l1": "global L1", "crl": "crl, coarse"}
"""{method: what pages call it}, where that is not its name."""
ALL = ("magnitude", "mcts", "knapsack", "sensitivity", "crl", "amc", "acnn")


class Case(NamedTuple):
    """A network and what may be left of it.

    Attributes:
        part: Which part of the table it belongs to, "a" to "d".
        model: As the command knows it.
        cost: What is limited.
        left: What may be left of it, in percent.
        methods: What is run; `magnitude` comes with all baselines, the others with none.
    """

    part: str
    model: str
    cost: str
    left: int
    methods: tuple[str, ...]


CASES = (
    *(Case("a", "resnet20", "macs", left, ALL) for left in (73, 50, 20)),
    *(Case("b", "resnet56", "macs", left, ALL) for left in (50, 30)),
    *(
        Case("c", "vgg16", "params", left, ("magnitude", "mcts", "knapsack", "crl", "crl-fine"))
        for left in (20, 10)
    ),
    Case("c", "vgg16", "params", 30, ("magnitude", "cacp")),
    Case("c", "vgg16", "macs", 20, ("magnitude", "mcts")),
    *(
        Case("d", model, "params", left, ("magnitude", "crl", "crl-fine"))
        for model in ("vgg11", "vgg19")
        for left in (20, 10)
    ),
    *(Case("d", "resnet18", "params", left, ("magnitude", "crl")) for left in (30, 20)),
    Case("d", "resnet50", "params", 55, ("magnitude", "crl")),
)

RECIPES = ("default", "short")
"""The recipes of rows: for a GPU, and for a processor."""
SETTINGS = {
    "short": ("--finalists", "1", "--semifinalists", "4", "--search-examples", "512"),
    # Without a trial of semifinalists, which would train several networks at once.
    "default": ("--finalists", "2", "--semifinalists", "2"),
}
"""{recipe: options}: on a processor, what keeps a row below an hour or so."""
SEARCHES = {
    "short": {
        "crl": ("--search.iterations", "12"),
        **dict.fromkeys(("amc", "acnn", "cacp"), ("--search.iterations", "48")),
    },
    "default": {},
}
"""{recipe: {method: options}}: 384 candidates for each method that learns from single ones."""
DISTILLED = (("resnet20", "macs", 20, "magnitude"),)
"""Rows that are made a second time with the dense network as teacher, to see what this changes."""


def words(case: Case, method: str, seed: int, recipe: str, distill: float = 0.0) -> tuple[str, ...]:
    """The options of a row's run."""
    name, _, strategy = method.partition("-")
    return (
        *("--method", name, *(("--strategy", strategy) if strategy else ())),
        *("--model", case.model, "--dataset", "cifar10", "--cost", case.cost),
        *("--budget", f"{case.left / 100:g}", "--seed", str(seed), "--recipe", recipe),
        *("--baselines", *(BASELINES if method == "magnitude" else ())),
        *(("--distill", f"{distill:g}") if distill else ()),
        *SETTINGS[recipe],
        *SEARCHES[recipe].get(name, ()),
    )


def row(case: Case, method: str, seed: int, recipe: str, distill: float = 0.0) -> Row:
    """One row."""
    taught = "-taught" if distill else ""
    name = f"{case.model}-{case.cost}{case.left}-{method}{taught}-{recipe}-{seed}"
    return Row(name, words(case, method, seed, recipe, distill))


class Dense(NamedTuple):
    """A dense network that rows begin with."""

    model: str
    seed: int
    recipe: str
    dataset: str = "cifar10"
    epochs: int | None = None
    examples: int | None = None

    @property
    def name(self) -> str:
        """The name of its line."""
        return f"{self.model}-dense-{self.recipe}-{self.seed}"

    @property
    def words(self) -> tuple[str, ...]:
        """The options of `jaxprune networks make`, without places."""
        return networks.words(
            *(self.model, self.dataset, self.recipe),
            epochs=self.epochs,
            examples=self.examples,
            seed=self.seed,
        )


def plan(
    recipe: str, cases: Sequence[Case] = CASES, seeds: Sequence[int] = SEEDS
) -> list[Row | Dense]:
    """All rows in the order of their worth, each after the network that it begins with.

    The first part of the table with all seeds, then one seed of each other part, then the others.
    """
    order = [
        *((case, seed) for seed in seeds for case in cases if case.part == "a"),
        *((case, seed) for seed in seeds for case in cases if case.part != "a"),
    ]
    items: list[Row | Dense] = []
    for case, seed in order:
        dense = Dense(case.model, seed, recipe)
        if dense not in items:
            items.append(dense)
        for method in case.methods:
            if method.partition("-")[0] not in methods.NAMES:
                continue
            items.append(row(case, method, seed, recipe))
            if seed == seeds[0] and (*case[1:4], method) in DISTILLED:
                items.append(row(case, method, seed, recipe, distill=0.5))
    return items


def model_of(item: Row | Dense) -> str:
    """The network of an item."""
    if isinstance(item, Dense):
        return item.model
    return item.words[item.words.index("--model") + 1]
