"""What the ACNN paper says: its networks, its rows as printed, and what its numbers amount to.

"Automatic Compression of Neural Network with Deep Reinforcement Learning Based on Proximal Gradient
Method" (Mathematics 2023, 11, 338). Everything in capitals is quoted from its Tables 1 to 7.
"""

from itertools import pairwise
from typing import NamedTuple

Spread = tuple[float, float]
"""A mean and its deviation, as printed."""


class Quoted(NamedTuple):
    """A row of Tables 1, 3 and 5.

    Attributes:
        loss: "Error (%)": points of accuracy that are lost.
        layers: neurons that are left, input pixels first.
        ncr: "NCR", neurons of the network over neurons that are left.
        flops: "FLOPS (%)".
    """

    loss: float
    layers: tuple[int, ...]
    ncr: float
    flops: int


class Agent(NamedTuple):
    """A row of Tables 2, 4 and 6.

    Attributes:
        loss: "Error (%)".
        ncr: "NCR".
        seconds: "Time (s)".
        sparsity: "DRL SPA (%)", zeros among the weights of the agent's networks.
    """

    loss: Spread
    ncr: Spread
    seconds: Spread
    sparsity: Spread


class Case(NamedTuple):
    """A network on a dataset.

    Attributes:
        title: for headings.
        tables: where the paper has it.
        options: of `python -m jaxprune.run`.
        layers: neurons of the dense network, input pixels first, outputs not counted.
        strong: the test accuracy in percent that the dense network must have here.
        quoted: {method: its row}.
        agents: {method: its row}.
        ablation: {"acnn" or "acnn without pro": loss (None: illegible) and NCR of Table 7}.
    """

    title: str
    tables: str
    options: tuple[str, ...]
    layers: tuple[int, ...]
    strong: float
    quoted: dict[str, Quoted]
    agents: dict[str, Agent]
    ablation: dict[str, tuple[Spread | None, Spread]]


OUTPUTS = 10
"""Classes of all three datasets; the paper does not count them as neurons."""

CASES = {
    "mnist": Case(
        "LeNet-300-100 on MNIST",
        "Tables 1 and 2",
        ("--dataset", "mnist", "--model", "lenet300"),
        (784, 300, 100),
        98.4,
        {
            "cges": Quoted(0.36, (221, 97, 94), 2.87, 35),
            "l0": Quoted(0.23, (266, 88, 33), 3.06, 33),
            "autoprune": Quoted(0.22, (244, 85, 37), 3.23, 31),
            "amc": Quoted(0.30, (225, 88, 45), 3.30, 30),
            "acnn": Quoted(0.20, (219, 81, 43), 3.46, 28),
        },
        {
            "amc": Agent((0.30, 0.12), (3.30, 0.20), (1835.00, 15.72), (0.00, 0.00)),
            "acnn": Agent((0.20, 0.16), (3.46, 0.14), (455.00, 2.88), (96.00, 0.74)),
        },
        {"acnn without pro": (None, (3.25, 0.07)), "acnn": (None, (3.46, 0.14))},
    ),
    "fashion": Case(
        "LeNet-300-100 on Fashion-MNIST",
        "Tables 3 and 4",
        ("--dataset", "fashion_mnist", "--model", "lenet300"),
        (784, 300, 100),
        90.0,
        {
            "cges": Quoted(13.50, (702, 15, 7), 1.64, 60),
            "l0": Quoted(6.25, (295, 80, 25), 2.96, 34),
            "autoprune": Quoted(4.33, (285, 85, 19), 3.04, 32),
            "amc": Quoted(2.40, (141, 81, 42), 4.48, 23),
            "acnn": Quoted(2.22, (185, 35, 20), 4.92, 20),
        },
        {
            "amc": Agent((2.40, 0.10), (4.48, 0.05), (4210.00, 11.40), (0.00, 0.00)),
            "acnn": Agent((2.22, 0.08), (4.92, 0.04), (544.00, 4.15), (97.00, 0.50)),
        },
        {
            "acnn without pro": ((2.75, 0.62), (3.62, 0.22)),
            "acnn": ((2.22, 0.08), (4.92, 0.04)),
        },
    ),
    "cifar10": Case(
        "MLP 3072-1024-1024-10 on CIFAR-10",
        "Tables 5 and 6",
        ("--dataset", "cifar10", "--model", "mlp"),
        (3072, 1024, 1024),
        56.0,
        {
            "cges": Quoted(28.70, (3035, 142, 3), 1.61, 62),
            "l0": Quoted(26.04, (1036, 260, 290), 3.23, 31),
            "autoprune": Quoted(24.04, (900, 240, 282), 3.60, 28),
            "amc": Quoted(7.63, (890, 317, 235), 3.55, 27),
            "acnn": Quoted(7.10, (857, 256, 245), 3.77, 25),
        },
        {
            "amc": Agent((7.63, 0.65), (3.55, 0.25), (4157.00, 11.30), (0.00, 0.00)),
            "acnn": Agent((7.10, 0.26), (3.77, 0.21), (756.00, 5.94), (97.00, 0.60)),
        },
        {
            "acnn without pro": ((7.71, 0.35), (3.60, 0.06)),
            "acnn": ((7.10, 0.26), (3.77, 0.21)),
        },
    ),
}

CONFLICTS = (
    "The loss of ACNN on MNIST is 0.22 in the text and 0.20 in Tables 1 and 2, and its deviation "
    "there, 0.16, is larger than its distance from any other method but CGES.",
    'On MNIST ACNN is said to remove "16 neurons more than AMC"; the layers differ by 15.',
    "On Fashion-MNIST the text gives ACNN an NCR of 3.75, Tables 3, 4 and 7 give 4.92, and "
    '"75 neurons more than AutoPrune" is 149.',
    'On Fashion-MNIST ACNN is said to take "only one-tenth of the time of AMC"; by Table 4 it '
    "takes an eighth.",
    'On CIFAR-10 "57 more neurons compressed than AutoPrune" is 64.',
    'The sparsity of the agent\'s networks "reaches 50%" in the text and 96 % in Table 2.',
    "L0's layers on MNIST, 266-88-33, are those that Louizos et al. (ICLR 2018) published with an "
    "error of their own: the row is likely quoted, though the text says that it was implemented.",
    "The accuracies of the dense networks are not given, so that no loss can be checked.",
    "The minus signs printed inside eq. 3 would reward errors; beta, both expectations, the weight "
    "of the L1 norm, the networks' sizes, the noise and the episodes are not given.",
)
"""What does not fit together, besides what the arithmetic on the page shows."""


def neuron_compression(dense: tuple[int, ...], left: tuple[float, ...]) -> float:
    """NCR (section 4.2): neurons of the network over neurons that are left, inputs counted."""
    return sum(dense) / sum(left)


def multiply_adds(layers: tuple[int, ...]) -> int:
    """Multiply-adds of one image in a multilayer perceptron with `OUTPUTS` outputs."""
    return sum(before * after for before, after in pairwise((*layers, OUTPUTS)))


def multiply_adds_left(case: Case, layers: tuple[int, ...]) -> float:
    """Multiply-adds that are left, in percent of the dense network's."""
    return 100 * multiply_adds(layers) / multiply_adds(case.layers)


def neurons_allowed(case: Case, ncr: float) -> int:
    """The most neurons that an NCR of at least `ncr` leaves."""
    return int(sum(case.layers) / ncr + 1e-9)


def arithmetic(case: Case) -> list[list[str]]:
    """For each printed row: NCR and FLOPS as printed, and what its layers amount to."""
    return [
        [
            method,
            "-".join(map(str, row.layers)),
            f"{row.ncr:.2f}",
            f"{neuron_compression(case.layers, row.layers):.2f}",
            str(row.flops),
            f"{100 / row.ncr:.0f}",
            f"{multiply_adds_left(case, row.layers):.1f}",
        ]
        for method, row in case.quoted.items()
    ]


ARITHMETIC = (
    "paper's row",
    "layers",
    "NCR printed",
    "NCR of the layers",
    "FLOPS (%) printed",
    "100 / NCR",
    "multiply-adds of the layers, %",
)
