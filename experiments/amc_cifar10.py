"""AMC's half of the multiply-adds on CIFAR-10: ratios learnt by two agents, beside simple pruning.

    python experiments/amc_cifar10.py --runs /tmp/runs      # all rows, the page
    python experiments/amc_cifar10.py                       # the page alone

AMC (He et al., ECCV 2018) holds ResNet-56 to half of its multiply-adds; its lines here are made of
the rows of `cifar10.py`. ResNet-20 on 10,000 images, trained for 30 epochs, shows the same on two
cores in an hour or two: it is weaker than a published one would be, and its losses are to be
compared with each other alone. Writes `experiments/results/amc_cifar10/README.md`.
"""

from typing import Any, NamedTuple

import cifar10_page
import cifar10_rows
from rows import NOT_RUN, RESULTS, Row, devices, main, parser, read, spread, table

OUT = RESULTS / "amc_cifar10"
SEEDS = (0, 1, 2)


class Case(NamedTuple):
    """A network and a budget.

    Attributes:
        model: as the command knows it.
        left: multiply-adds that may be left, in percent.
        methods: what is run.
        options: more of the command's; with none, the rows are those of `cifar10.py`.
        published: (method, dense accuracy, accuracy before fine-tuning, after it) in percent, None
            where it is not given.
    """

    model: str
    left: int
    methods: tuple[str, ...]
    options: tuple[str, ...]
    published: tuple[tuple[str, float, float | None, float], ...]


CASES = (
    Case(
        "resnet56",
        50,
        ("amc", "acnn"),
        (),
        (
            ("uniform", 92.8, 87.4, 89.8),
            ("deep, by hand", 92.8, 88.4, 91.5),
            ("amc", 92.8, 90.1, 91.9),
        ),
    ),
    Case(
        "resnet20",
        50,
        ("amc", "acnn"),
        (
            *("--recipe", "paper", "--examples", "10000"),
            *("--pretrain-epochs", "30", "--finetune-epochs", "8"),
        ),
        (),
    ),
)
BASELINES = ("uniform_l1", "global_l1", "random")


def row(case: Case, method: str, seed: int) -> Row:
    """The run of a method with one seed."""
    words = (
        *("--method", method, "--model", case.model, "--dataset", "cifar10", "--cost", "macs"),
        *("--budget", f"{case.left / 100:g}", "--seed", str(seed), *case.options),
    )
    return Row(f"{case.model}-{case.left}-{method}-{seed}", words, curves=True)


def pairs(case: Case, method: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The dense and the pruned network of each seed; the first method's runs have the baselines.

    Those of `cifar10.py` are by the longest recipe that was run.
    """
    if not case.options:
        (same,) = [c for c in cifar10_rows.CASES if c[1:4] == (case.model, "macs", case.left)]
        shared = RESULTS / "cifar10"
        of = (cifar10_page.pairs(same, method, recipe, shared) for recipe in cifar10_rows.RECIPES)
        return next(filter(None, of), [])
    run = case.methods[0] if method in BASELINES else method
    results = [found for seed in SEEDS if (found := read(row(case, run, seed), OUT))]
    return [
        (one["dense"], one["baselines"][method] if method in BASELINES else one["pruned"])
        for one in results
    ]


def change(found: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """What the pruned networks' test accuracy is above the dense ones', in points."""
    return spread(100 * (small["test_accuracy"] - dense["test_accuracy"]) for dense, small in found)


def measured(case: Case, method: str) -> list[str]:
    """The line of a method, or of what the first method's runs compare it with."""
    name = f"{case.model}, {case.left} %: {method}"
    found = pairs(case, method)
    if not found:
        return [name, "0", *[NOT_RUN] * (len(HEADER) - 2)]
    return [
        name,
        str(len(found)),
        spread(100 * dense["test_accuracy"] for dense, _ in found),
        spread(100 * small["test_accuracy_before_finetuning"] for _, small in found),
        spread(100 * small["test_accuracy"] for _, small in found),
        change(found),
        spread(100 * small["macs"] / dense["macs"] for dense, small in found),
        spread(100 * small["params"] / dense["params"] for dense, small in found),
    ]


HEADER = (
    "network, multiply-adds allowed: method",
    "seeds",
    "dense",
    "before fine-tuning",
    "pruned",
    "change",
    "multiply-adds left, %",
    "parameters left, %",
)


def published(case: Case) -> list[list[str]]:
    """The lines of the papers."""
    return [
        [
            f"{case.model}, {case.left} %: {method}, published",
            "",
            f"{dense:g}",
            "" if before is None else f"{before:g}",
            f"{after:g}",
            f"{after - dense:+.2f}",
            "",
            "",
        ]
        for method, dense, before, after in case.published
    ]


def lines(case: Case) -> list[list[str]]:
    """A network's published lines, then what was measured here."""
    return published(case) + [measured(case, method) for method in (*case.methods, *BASELINES)]


def known_result() -> str:
    """How far AMC's half of the multiply-adds of a small ResNet is reproduced, in words."""
    paper, here = CASES[0], CASES[-1]
    said = {method: after - dense for method, dense, _, after in paper.published}
    amc, uniform = pairs(here, "amc"), pairs(here, "uniform_l1")
    return (
        f"AMC's paper: half of the multiply-adds of {paper.model} cost {-said['amc']:.1f} points\n"
        f"with amc, {-said['uniform']:.1f} with uniform pruning. Here those of {here.model}\n"
        f"change its accuracy by {change(amc)} with amc, by {change(uniform)} with uniform pruning "
        f"({len(amc)} of {len(SEEDS)} seeds)."
    )


def text(rows: list[Row]) -> str:
    """The page."""
    return "\n".join(
        [
            "# AMC on CIFAR-10",
            "",
            "Test accuracy in percent; mean and sample deviation over the seeds that were run.",
            "AMC's published lines are from its paper's table (before fine-tuning: test accuracy).",
            "ResNet-56's measured ones are rows of [CIFAR-10](../cifar10/README.md), which names",
            "their recipe. ResNet-20 saw 10,000 images alone, for 30 epochs.",
            f"Device: {devices(read(one, OUT) for one in rows)}. Made by",
            "`python experiments/amc_cifar10.py`; `rows.jsonl` has every row's command.",
            "",
            known_result(),
            "",
            table(HEADER, [line for case in CASES for line in lines(case)]),
            "",
        ]
    )


if __name__ == "__main__":
    options = parser(__doc__).parse_args()
    all_rows = [
        row(case, method, seed)
        for seed in SEEDS
        for case in CASES
        if case.options
        for method in case.methods
    ]
    main(all_rows, OUT, options)
    if not options.list:
        page = text(all_rows)
        print(page)
        (OUT / "README.md").write_text(page)
