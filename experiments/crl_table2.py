"""Table 2 of the CRL paper: VGG-16, ResNet-18 and ResNet-50 on CIFAR-10, beside other methods.

    python experiments/crl_table2.py

The budget limits the parameters. The table is made of the rows of `cifar10.py`.
"""

from cifar10_page import pairs
from cifar10_rows import CASES, RECIPES
from rows import NOT_RUN, RESULTS, spread, table

OUT = RESULTS / "crl_table2"
ROWS = RESULTS / "cifar10"

QUOTED = (  # network, method, unpruned %, parameters in millions, pruned %, parameters
    ("vgg16", "CACP", 93.02, 14.73, 92.89, 4.41),
    ("vgg16", "GhostNet", 93.60, 14.73, 92.90, 3.30),
    ("vgg16", "CRL, 20 %", 90.69, 14.73, 90.96, 2.38),
    ("vgg16", "CRL, 10 %", 90.69, 14.73, 89.89, 1.05),
    ("resnet18", "PIY", 91.78, 11.18, 91.23, 6.11),
    ("resnet18", "CACP", 93.02, 11.68, 92.03, 3.50),
    ("resnet18", "P-SLR", 93.33, 11.68, 90.37, 1.34),
    ("resnet18", "PCNN", 96.58, 11.20, 96.38, 3.80),
    ("resnet18", "CRL, 30 %", 91.82, 11.68, 92.09, 2.91),
    ("resnet18", "CRL, 20 %", 91.82, 11.68, 90.97, 2.52),
    ("resnet50", "AMC", 93.53, 25.56, 93.55, 15.34),
    ("resnet50", "CRL, 55 %", 92.97, 25.56, 93.60, 12.34),
)
OURS = (("vgg16", 20), ("vgg16", 10), ("resnet18", 30), ("resnet18", 20), ("resnet50", 55))


def measured(model: str, left: int) -> list[list[str]]:
    """What was measured for a network and budget: CRL and uniform L1, by the longest recipe."""
    (case,) = [c for c in CASES if (c.model, c.cost, c.left) == (model, "params", left)]
    recipe = next((name for name in RECIPES if pairs(case, "crl", name, ROWS)), RECIPES[0])
    made = []
    for label, method in (("CRL", "crl"), ("uniform L1", "uniform_l1")):
        found = pairs(case, method, recipe, ROWS)
        by = f", {recipe} recipe" if found else ""
        made.append(
            [
                f"{model}, {label}, {left} %, here{by}",
                spread(100 * whole["test_accuracy"] for whole, _ in found),
                f"{found[0][0]['params'] / 1e6:.2f}" if found else NOT_RUN,
                spread(100 * small["test_accuracy"] for _, small in found),
                spread(small["params"] / 1e6 for _, small in found),
                spread(100 * (b["test_accuracy"] - a["test_accuracy"]) for a, b in found),
            ]
        )
    return made


def lines() -> list[list[str]]:
    """The table: each network's quoted rows, then what was measured here."""
    made = []
    for model in dict.fromkeys(name for name, *_ in QUOTED):
        for name, method, dense, before, accuracy, after in QUOTED:
            if name == model:
                numbers = (dense, before, accuracy, after)
                change = f"{accuracy - dense:+.2f}"
                made.append([f"{name}, {method}", *(f"{n:.2f}" for n in numbers), change])
        for name, left in OURS:
            if name == model:
                made += measured(name, left)
    return made


HEADER = (
    "network, method, allowed",
    "unpruned",
    "million parameters",
    "pruned",
    "million parameters",
    "change",
)

TEXT = """\
# CRL on CIFAR-10 beside other methods: Table 2 of the paper

Test accuracy in percent. Rows without *here* are quoted as the paper has them: its 11.68 and 25.56
million parameters are those of the ImageNet networks (the CIFAR forms have 11.17 and 23.52), P-SLR
and PCNN remove weights and not filters, and its ResNet-18 with 2.52 of 11.68 million keeps 21.6 %
where 20 were allowed. Rows *here*: mean and sample deviation over the seeds that were run. Made by
`python experiments/crl_table2.py` from the rows of [CIFAR-10](../cifar10/README.md), which has
their devices and commands.

{table}
"""

if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    text = TEXT.format(table=table(HEADER, lines()))
    print(text)
    (OUT / "README.md").write_text(text)
