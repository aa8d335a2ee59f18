"""Table 1 of the CRL paper, and Tables 5.4 to 5.9 of the thesis: VGG on CIFAR-10.

    python experiments/crl_table1.py

VGG-11, 16 and 19 keep at most 20 % and 10 % of their parameters: by CRL with the coarse and the
fine strategy, and by uniform magnitude pruning with the same fine-tuning. The table is made of the
rows of `cifar10.py`, by the search's default settings; the thesis's own (40,000 timesteps, and
fine-tuning before the reward) are `--preset paper`.
"""

from cifar10_page import Pair, pairs
from cifar10_rows import CASES, RECIPES, Case
from rows import NOT_RUN, RESULTS, spread, table

OUT = RESULTS / "crl_table1"
ROWS = RESULTS / "cifar10"

PAPER = {  # (network, alpha): unpruned, magnitude, coarse sparsity and accuracy, fine the same
    ("vgg11", 20): (89.23, 85.50, 83.48, 89.11, 83.29, 86.47),
    ("vgg11", 10): (89.23, 83.80, 90.75, 88.09, 96.89, 76.61),
    ("vgg16", 20): (90.69, 88.40, 83.81, 90.96, 78.24, 89.55),
    ("vgg16", 10): (90.69, 87.10, 92.90, 89.89, 90.65, 87.89),
    ("vgg19", 20): (90.59, 88.40, 83.48, 91.06, 87.59, 90.04),
    ("vgg19", 10): (90.59, 86.90, 92.31, 91.31, 77.95, 90.62),
}


STRATEGIES = {"coarse": "crl", "fine": "crl-fine"}
"""{strategy: the method's name in `cifar10_rows`}."""


def accuracies(found: list[Pair], which: int) -> str:
    """Test accuracies in percent: of the dense networks (0), or of the pruned ones (1)."""
    return spread(100 * pair[which]["test_accuracy"] for pair in found)


def measured(case: Case, strategy: str) -> list[str]:
    """What was measured of a case, by the longest recipe that was run."""
    for recipe in RECIPES:
        found = pairs(case, STRATEGIES[strategy], recipe, ROWS)
        if found:
            removed = spread(
                100 * (1 - small["params"] / whole["params"]) for whole, small in found
            )
            uniform = accuracies(pairs(case, "uniform_l1", recipe, ROWS), 1)
            dense = accuracies(found, 0)
            return [recipe, dense, uniform, removed, accuracies(found, 1), str(len(found))]
    return ["", *[NOT_RUN] * 4, "0"]


def lines() -> list[list[str]]:
    """The table: for each network and budget the paper's row, and what was measured."""
    made = []
    for (model, left), (dense, magnitude, *found) in PAPER.items():
        (case,) = [c for c in CASES if (c.model, c.cost, c.left) == (model, "params", left)]
        for number, strategy in enumerate(STRATEGIES):
            sparsity, accuracy = found[2 * number : 2 * number + 2]
            made.append(
                [
                    f"{model}, {left} %, {strategy}",
                    *(f"{value:.2f}" for value in (dense, magnitude, sparsity, accuracy)),
                    f"{accuracy - dense:+.2f}",
                    *measured(case, strategy),
                ]
            )
    return made


HEADER = (
    *("network, allowed, strategy", "paper: unpruned", "magnitude", "sparsity", "CRL", "change"),
    *("here: recipe", "unpruned", "uniform L1", "sparsity", "CRL", "seeds"),
)
TEXT = """\
# CRL on VGG, CIFAR-10: Table 1 of the paper, Tables 5.4 to 5.9 of the thesis

Test accuracy and sparsity (parameters removed) in percent; the columns of the paper are quoted.
Here: mean and sample deviation over the seeds that were run, the baseline at the same budget and
with the same fine-tuning. Made by `python experiments/crl_table1.py` from the rows of
[CIFAR-10](../cifar10/README.md), which has their devices and commands.

{table}

Two of the thesis's own rows break their budget: the fine strategy on VGG-16 (78.24 % removed where
80 % were asked for) and on VGG-19 (77.95 % of 90 %).
"""


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    text = TEXT.format(table=table(HEADER, lines()))
    print(text)
    (OUT / "README.md").write_text(text)
