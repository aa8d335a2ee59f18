"""L0 regularisation on LeNet-300-100 and MNIST, beside what its paper publishes.

    python experiments/l0_lenet300.py --runs /tmp/runs                       # all rows, the page
    python experiments/l0_lenet300.py --runs /tmp/runs --rows short          # some of them
    python experiments/l0_lenet300.py                                        # the page alone

Louizos, Welling and Kingma (ICLR 2018) prune LeNet-300-100 with its input pixels to 219-214-100
(one strength for all layers) and to 266-88-33 (one for each). Here the budget is as many neurons as
those networks have, or as many parameters; which ones they are is left to the gates. Neither is the
paper's penalty: for each gate it takes the weights that leave it in the dense network, which is
linear in the gates as neurons are, and weighs layers as parameters do. `short` is the tool's
default training, `long` has the paper's 200 epochs and its rate of the gates. The paper does not
fine-tune, so that its error is to be compared with the one before fine-tuning. Writes
`experiments/results/l0_lenet300/README.md`.
"""

from itertools import pairwise
from statistics import mean
from typing import NamedTuple

from rows import NOT_RUN, RESULTS, Row, devices, main, parser, read, spread, table

OUT = RESULTS / "l0_lenet300"
SEEDS = (0, 1, 2)
OUTPUTS = 10


class Published(NamedTuple):
    """A row of the paper.

    Attributes:
        layers: neurons that are left, input pixels first.
        error: of the test images, in percent.
    """

    layers: tuple[int, ...]
    error: str


PUBLISHED = {
    "one strength": Published((219, 214, 100), "1.4"),
    "three strengths": Published((266, 88, 33), "1.8 (1.6 as RigL's Table 2 quotes it)"),
}
"""Recalled, not read again in the paper; RigL (Evci et al., ICML 2020) confirms 266-88-33."""

TRAININGS = {
    "short, neurons": ("neurons", ()),
    "short, params": ("params", ()),
    "long, neurons": ("neurons", ("--search.epochs", "200", "--search.gate-learning-rate", "1e-3")),
}
"""{name: what the budget limits, and further options}."""


def parameters(layers: tuple[int, ...]) -> int:
    """Weights and biases of a multilayer perceptron, input pixels first."""
    return sum((before + 1) * after for before, after in pairwise((*layers, OUTPUTS)))


def row(name: str, training: str, seed: int) -> Row:
    """The run at one published size."""
    layers = PUBLISHED[name].layers
    cost, options = TRAININGS[training]
    allowed = sum(layers) if cost == "neurons" else parameters(layers)
    words = (
        *("--method", "l0", "--dataset", "mnist", "--model", "lenet300", "--prune-inputs"),
        *("--importance", "l1"),
        *("--cost", cost, "--budget", f"={allowed}", "--seed", str(seed), *options),
    )
    length = training.split(",")[0]
    return Row("-".join([*map(str, layers), length, cost, str(seed)]), words)


def line(name: str, training: str) -> list[str]:
    """A row of the table."""
    published = PUBLISHED[name]
    quoted = [name, "-".join(map(str, published.layers)), published.error, training]
    results = [found for seed in SEEDS if (found := read(row(name, training, seed), OUT))]
    if not results:
        return [*quoted, "0", *[NOT_RUN] * (len(HEADER) - 5)]
    columns = zip(*(result["pruned"]["widths"].values() for result in results), strict=True)
    return [
        *quoted,
        str(len(results)),
        "-".join(f"{mean(column):.0f}" for column in columns),
        spread(result["pruned"]["params"] / 1e3 for result in results),
        spread(100 * (1 - r["pruned"]["test_accuracy_before_finetuning"]) for r in results),
        spread(100 * (1 - r["pruned"]["test_accuracy"]) for r in results),
        spread((r["search"]["seconds"] for r in results), 0),
    ]


def distance(name: str) -> str:
    """How far the default training is from a published error, at as many neurons."""
    found = (read(row(name, "short, neurons", seed), OUT) for seed in SEEDS)
    errors = [100 * (1 - r["pruned"]["test_accuracy_before_finetuning"]) for r in found if r]
    if not errors:
        return f"{name}: {NOT_RUN}."
    published = float(PUBLISHED[name].error.split()[0])
    return (
        f"{name}: {mean(errors):.2f} % where {published:.1f} % are published, "
        f"{mean(errors) - published:+.2f} points."
    )


HEADER = (
    "published with",
    "layers",
    "error, %",
    "training here, budget",
    "seeds",
    "layers here",
    "thousand parameters",
    "error here, %",
    "fine-tuned, %",
    "seconds",
)

if __name__ == "__main__":
    options = parser(__doc__).parse_args()
    rows = [row(name, training, s) for s in SEEDS for training in TRAININGS for name in PUBLISHED]
    main(rows, OUT, options)
    if not options.list:
        counts = [f"{parameters(published.layers):,}" for published in PUBLISHED.values()]
        text = "\n".join(
            [
                "# L0 on LeNet-300-100",
                "",
                "Errors of the test images; here at most as many neurons or parameters as the",
                f"published networks have ({' and '.join(counts)} parameters), mean and sample",
                "deviation over the seeds. The published errors are recalled and were not read",
                "again in the paper.",
                f"Device: {devices(read(one, OUT) for one in rows)}. Made by",
                "`python experiments/l0_lenet300.py`; `rows.jsonl` has every row's command.",
                "",
                table(
                    HEADER, [line(name, training) for training in TRAININGS for name in PUBLISHED]
                ),
                "",
                "The default training with as many neurons, before fine-tuning:",
                "",
                *(f"- {distance(name)}" for name in PUBLISHED),
                "",
            ]
        )
        print(text)
        (OUT / "README.md").write_text(text)
