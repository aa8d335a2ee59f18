"""What CIFAR-10's rows say: the tables of their page, and its picture."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import rows
from cifar10_rows import BASELINES, CASES, LABELS, RECIPES, SEEDS, Case, Dense, row
from rows import NOT_RUN, spread, table


class Published(NamedTuple):
    """A line of a paper, in percent; None where it says nothing.

    Attributes:
        method: Its name there.
        dense: Accuracy of the dense network.
        before: Accuracy before fine-tuning.
        pruned: Accuracy after it.
        macs: Multiply-adds that are left.
        params: Parameters that are left.
    """

    method: str
    dense: float | None
    before: float | None
    pruned: float
    macs: float | None = None
    params: float | None = None


PUBLISHED: dict[tuple[str, str, int], tuple[Published, ...]] = {
    ("resnet20", "macs", 73): (Published("FastNAS, ModelOpt's notebook", 90.97, None, 90.28, 73),),
    ("resnet56", "macs", 50): (
        Published("uniform, AMC's paper", 92.8, 87.4, 89.8, 50),
        Published("AMC", 92.8, 90.1, 91.9, 50),
        Published("DECORE", None, None, 93.26, 50.1),
        Published("GNN-RL", None, None, 93.49, 50),
        Published("TPP", None, None, 93.46, 50.2),
        Published("CORING", 93.26, None, 94.22, 52.6),
    ),
    ("resnet56", "macs", 30): (
        Published("TPP", None, None, 92.35, 29.4),
        Published("CORING", 93.26, None, 92.84, 27.7),
    ),
    ("vgg16", "params", 20): (
        Published("magnitude, CRL's thesis", 90.69, None, 88.40),
        Published("CRL, coarse", 90.69, None, 90.96, None, 16.19),
        Published("CRL, fine", 90.69, None, 89.55, None, 21.76),
    ),
    ("vgg16", "params", 10): (
        Published("magnitude, CRL's thesis", 90.69, None, 87.10),
        Published("CRL, coarse", 90.69, None, 89.89, None, 7.10),
        Published("CRL, fine", 90.69, None, 87.89, None, 9.35),
    ),
    ("vgg16", "params", 30): (Published("CACP, as CRL quotes it", 93.02, None, 92.89, None, 30),),
    ("vgg16", "macs", 20): (
        Published("CORING", 93.96, None, 93.83, 21.4, 12.7),
        Published("DECORE", None, None, 92.44, 18.5, 3.4),
    ),
    ("vgg11", "params", 20): (
        Published("magnitude, CRL's thesis", 89.23, None, 85.50),
        Published("CRL, coarse", 89.23, None, 89.11, None, 16.52),
        Published("CRL, fine", 89.23, None, 86.47, None, 16.71),
    ),
    ("vgg11", "params", 10): (
        Published("magnitude, CRL's thesis", 89.23, None, 83.80),
        Published("CRL, coarse", 89.23, None, 88.09, None, 9.25),
        Published("CRL, fine", 89.23, None, 76.61, None, 3.11),
    ),
    ("vgg19", "params", 20): (
        Published("magnitude, CRL's thesis", 90.59, None, 88.40),
        Published("CRL, coarse", 90.59, None, 91.06, None, 16.52),
        Published("CRL, fine", 90.59, None, 90.04, None, 12.41),
    ),
    ("vgg19", "params", 10): (
        Published("magnitude, CRL's thesis", 90.59, None, 86.90),
        Published("CRL, coarse", 90.59, None, 91.31, None, 7.69),
        Published("CRL, fine", 90.59, None, 90.62, None, 22.05),
    ),
    ("resnet18", "params", 30): (
        Published("CACP, as CRL quotes it", 93.02, None, 92.03, None, 30),
        Published("CRL", 91.82, None, 92.09, None, 24.9),
    ),
    ("resnet18", "params", 20): (Published("CRL", 91.82, None, 90.97, None, 21.6),),
    ("resnet50", "params", 55): (
        Published("AMC, as CRL quotes it", 93.53, None, 93.55, None, 60),
        Published("CRL", 92.97, None, 93.60, None, 48.3),
    ),
}

TRAPS = """\
What published numbers hide, and what was done about it here:

- **The network before pruning was trained too little.** A ResNet-56 of 93.26 gains a point from 200
  epochs with a cosine and more weight decay alone, so that pruning and 300 more epochs "improve"
  it. Here the dense network's accuracy stands in every line, and which recipe trained it.
- **The best epoch was picked on the test images**, worth 0.05 to 0.2 points. Here it is the last
  epoch, and the test images are looked at once, after everything was chosen on 5,000 others.
- **Training is on 45,000 images**, since those 5,000 are held out; papers mostly train on 50,000.
- **Budgets are broken**: CRL's fine strategy leaves 21.76 % of VGG-16's parameters where 20 % were
  allowed and 22.05 % of VGG-19's where 10 % were, and its ResNet-18 21.6 %. Here each is met.
- **CACP's parameters** as CRL's paper quotes them are exactly 30 %, which looks like its limit on
  multiply-adds. **CRL's parameters** of ResNet-18 and 50 are those of the ImageNet variants.
- **One seed.** A difference of two such numbers below half a point says little.

Figures of DECORE, GNN-RL, TPP and CORING are those of the tables in the repositories of CORING
(`pvti/CORING`) and GNN-RL (`yusx-swapp/GNN-RL-Model-Compression`), not checked against the papers.
"""

DRAWN = (*BASELINES, "mcts", "knapsack", "sensitivity", "crl", "amc", "acnn")
"""What the picture shows, in the order of its colours."""

HEADER = (
    *("network, what may be left: method", "recipe", "seeds", "dense", "before fine-tuning"),
    *("pruned", "change", "multiply-adds left, %", "parameters left, %"),
)

Pair = tuple[dict[str, Any], dict[str, Any]]
"""A dense network and what became of it, as result.json has them."""


def pairs(case: Case, method: str, recipe: str, out: Path) -> list[Pair]:
    """The networks of a method and recipe, one pair for each seed that was run.

    Args:
        case: The network and its budget.
        method: One of the case's methods, or of `BASELINES`.
        recipe: One of `RECIPES`.
        out: The folder of the lines.
    """
    made_by = "magnitude" if method in BASELINES else method
    results = (rows.read(row(case, made_by, seed, recipe), out) for seed in SEEDS)
    return [
        (one["dense"], one["baselines"][method] if method in BASELINES else one["pruned"])
        for one in results
        if one
    ]


def taught(case: Case, recipe: str, out: Path) -> Iterator[tuple[str, list[Pair]]]:
    """The rows with a teacher: a name, and the networks."""
    results = [rows.read(row(case, "magnitude", seed, recipe, 0.5), out) for seed in SEEDS]
    found = [one for one in results if one]
    if found:
        for name in BASELINES:
            networks = [(one["dense"], one["baselines"][name]) for one in found]
            yield f"{LABELS.get(name, name)}, taught", networks


def line(name: str, recipe: str, found: Sequence[Pair]) -> list[str]:
    """The cells of some networks."""
    if not found:
        return [name, "", "0", *[NOT_RUN] * (len(HEADER) - 3)]
    return [
        name,
        recipe,
        str(len(found)),
        spread(100 * dense["test_accuracy"] for dense, _ in found),
        spread(100 * small["test_accuracy_before_finetuning"] for _, small in found),
        spread(100 * small["test_accuracy"] for _, small in found),
        spread(100 * (small["test_accuracy"] - dense["test_accuracy"]) for dense, small in found),
        spread(100 * small["macs"] / dense["macs"] for dense, small in found),
        spread(100 * small["params"] / dense["params"] for dense, small in found),
    ]


def published(case: Case) -> Iterator[list[str]]:
    """The cells of the papers' lines."""
    for found in PUBLISHED.get((case.model, case.cost, case.left), ()):
        change = "" if found.dense is None else f"{found.pruned - found.dense:+.2f}"
        cells = (found.dense, found.before, found.pruned)
        yield [
            f"{_what(case)}: {found.method}, published",
            *("", ""),
            *("" if cell is None else f"{cell:g}" for cell in cells),
            change,
            *("" if cell is None else f"{cell:g}" for cell in (found.macs, found.params)),
        ]


def _what(case: Case) -> str:
    cost = {"macs": "multiply-adds", "params": "parameters"}[case.cost]
    return f"{case.model}, {case.left} % of {cost}"


def lines(case: Case, out: Path) -> list[list[str]]:
    """The papers' lines of a case, then what was measured here, a line for each recipe."""
    made = list(published(case))
    for method in (*BASELINES, *(name for name in case.methods if name != "magnitude")):
        name = f"{_what(case)}: {LABELS.get(method, method)}"
        measured = [
            line(name, recipe, found)
            for recipe in RECIPES
            if (found := pairs(case, method, recipe, out))
        ]
        made += measured or [line(name, "", [])]
    for recipe in RECIPES:
        for name, found in taught(case, recipe, out):
            made.append(line(f"{_what(case)}: {name}", recipe, found))
    return made


def dense(out: Path) -> list[list[str]]:
    """The dense networks: what they were trained by, and how good they are."""
    known = rows.lines(out)
    made = []
    for model in dict.fromkeys(case.model for case in CASES):
        found = {
            recipe: [
                facts["accuracy"]
                for seed in SEEDS
                if (facts := known.get(Dense(model, seed, recipe).name))
            ]
            for recipe in RECIPES
        }
        made += [
            [
                model,
                recipe,
                str(len(of)),
                spread(100 * one["validation"] for one in of),
                spread(100 * one["test"] for one in of),
            ]
            for recipe, of in found.items()
            if of
        ] or [[model, "", "0", NOT_RUN, NOT_RUN]]
    return made


def page(out: Path) -> str:
    """The whole page."""
    known = rows.lines(out).values()
    machines = sorted(
        {found["search"]["device"] if "search" in found else found["device"] for found in known}
    )
    return "\n".join(
        [
            "# CIFAR-10",
            "",
            "Test accuracy in percent; mean and sample deviation over the seeds that were run. The",
            "recipe says how dense and pruned networks were trained: `short` for 12 epochs and 4,",
            "`default` for 50 and 13. All networks of one recipe are fine-tuned alike; *taught*",
            "ones had the dense network as teacher, with half of the weight.",
            f"Device: {'; '.join(machines) or NOT_RUN}. Made by",
            "`python experiments/cifar10.py --runs DIR`; `rows.jsonl` has every row's command.",
            "",
            "## Dense networks",
            "",
            table(("network", "recipe", "seeds", "validation", "test"), dense(out)),
            "",
            "## Pruned networks",
            "",
            "![Accuracy against multiply-adds](accuracy.png)",
            "",
            table(HEADER, [cells for case in CASES for cells in lines(case, out)]),
            "",
            TRAPS,
        ]
    )


def picture(out: Path) -> None:
    """Draws accuracy against multiply-adds: points of the papers, and what was measured here."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    models = ("resnet20", "resnet56", "vgg16")
    figure, panels = pyplot.subplots(1, len(models), figsize=(11, 3.4), layout="constrained")
    for model, axes in zip(models, panels, strict=True):
        axes.set(
            title=model, xlabel="multiply-adds left, %", ylabel="test accuracy, %", xlim=(0, 100)
        )
        for (name, _, _), papers in PUBLISHED.items():
            for found in papers:
                if name == model and found.macs is not None:
                    axes.plot(found.macs, found.pruned, "x", color="gray")
                    axes.annotate(
                        found.method.partition(",")[0],
                        (found.macs, found.pruned),
                        xytext=(3, 3),
                        textcoords="offset points",
                        fontsize=7,
                        color="gray",
                    )
        for number, method in enumerate(DRAWN):
            points = [
                (100 * small["macs"] / whole["macs"], 100 * small["test_accuracy"])
                for case in CASES
                if case.model == model
                for recipe in RECIPES
                for whole, small in pairs(case, method, recipe, out)
            ]
            if points:
                label = LABELS.get(method, method)
                axes.plot(*zip(*points, strict=True), "o", ms=4, color=f"C{number}", label=label)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    figure.savefig(out / "accuracy.png", dpi=90, metadata={"Software": None})
    pyplot.close(figure)


def write(out: Path) -> str:
    """Writes page and picture; returns the page."""
    out.mkdir(parents=True, exist_ok=True)
    text = page(out)
    (out / "README.md").write_text(text)
    picture(out)
    return text
