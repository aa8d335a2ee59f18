"""L0 regularisation on LeNet-300-100 and MNIST, beside what its paper publishes.

    python experiments/l0_lenet300.py --runs /tmp/runs                       # all rows, the page
    python experiments/l0_lenet300.py --runs /tmp/runs --rows short          # some of them
    python experiments/l0_lenet300.py                                        # the page alone

Louizos, Welling and Kingma (ICLR 2018) prune LeNet-300-100 with its input pixels to 219-214-100
(one strength for all layers) and to 266-88-33 (one for each). Here the budget is as many parameters
as those networks have, since their penalty counts weights; how many neurons of which layer make
them up is left to the gates. `short` is the tool's default training, `long` has the paper's 200
epochs and its rate of the gates. The paper does not fine-tune, so that its error is to be compared
with the one before fine-tuning. Writes `experiments/results/l0_lenet300.md`.
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

LENGTHS = {
    "short": (),
    "long": ("--search.epochs", "200", "--search.gate-learning-rate", "1e-3"),
}


def parameters(layers: tuple[int, ...]) -> int:
    """Weights and biases of a multilayer perceptron, input pixels first."""
    return sum((before + 1) * after for before, after in pairwise((*layers, OUTPUTS)))


def row(name: str, length: str, seed: int) -> Row:
    """The run at one published size."""
    layers = PUBLISHED[name].layers
    words = (
        *("--method", "l0", "--dataset", "mnist", "--model", "lenet300", "--prune-inputs"),
        *("--cost", "params", "--budget", f"={parameters(layers)}", "--seed", str(seed)),
        *LENGTHS[length],
    )
    return Row("-".join([*map(str, layers), length, str(seed)]), words)


def line(name: str, length: str) -> list[str]:
    """A row of the table."""
    published = PUBLISHED[name]
    quoted = [name, "-".join(map(str, published.layers)), published.error, length]
    results = [found for seed in SEEDS if (found := read(row(name, length, seed), OUT))]
    if not results:
        return [*quoted, "0", *[NOT_RUN] * (len(HEADER) - 5)]
    columns = zip(*(result["pruned"]["widths"].values() for result in results), strict=True)
    return [
        *quoted,
        str(len(results)),
        "-".join(f"{mean(column):.0f}" for column in columns),
        spread(100 * (1 - r["pruned"]["test_accuracy_before_finetuning"]) for r in results),
        spread(100 * (1 - r["pruned"]["test_accuracy"]) for r in results),
        spread((r["search"]["seconds"] for r in results), 0),
    ]


HEADER = (
    "published with",
    "layers",
    "error, %",
    "training here",
    "seeds",
    "layers here",
    "error here, %",
    "fine-tuned, %",
    "seconds",
)

if __name__ == "__main__":
    options = parser(__doc__).parse_args()
    rows = [row(name, length, seed) for length in LENGTHS for name in PUBLISHED for seed in SEEDS]
    main(rows, OUT, options)
    if not options.list:
        text = "\n".join(
            [
                "# L0 on LeNet-300-100",
                "",
                "Errors of the test images; here at most as many parameters as the published",
                "network has, mean and sample deviation over the seeds. The published errors are",
                "recalled and were not read again in the paper.",
                f"Device: {devices(read(one, OUT) for one in rows)}. Made by",
                "`python experiments/l0_lenet300.py`; every row's command is in its file.",
                "",
                table(HEADER, [line(name, length) for length in LENGTHS for name in PUBLISHED]),
                "",
            ]
        )
        print(text)
        (RESULTS / "l0_lenet300.md").write_text(text)
