"""Table 2 of the CRL paper: VGG-16, ResNet-18 and ResNet-50 on CIFAR-10, beside other methods.

    python experiments/crl_table2.py --runs /tmp/runs [--rows resnet18]

The budget limits the parameters; the protocol is that of `crl_table1.py`. A row takes a GPU.
"""

from rows import NOT_RUN, RESULTS, Row, devices, main, parser, read, spread, table

OUT = RESULTS / "crl_table2"
EPISODES = 64
SEEDS = (0, 1, 2)
GROUPS = {"vgg16": 13, "resnet18": 12, "resnet50": 37}

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


def row(model: str, alpha: int, seed: int) -> Row:
    """The run of one network, budget and seed."""
    rounds = round(40_000 / (EPISODES * GROUPS[model]))
    words = (
        *("--method", "crl", "--model", model, "--dataset", "cifar10", "--cost", "params"),
        *("--budget", f"{alpha / 100:g}", "--seed", str(seed)),
        *("--search.episodes", str(EPISODES), "--search.iterations", str(rounds)),
        *("--search.finetune-schedule", "0", "32", "128"),
        *("--search.initial-ratio", "0.9" if alpha == 10 else "0.8"),
    )
    return Row(f"{model}-a{alpha}-{seed}", words)


def measured(model: str, alpha: int) -> list[list[str]]:
    """What was measured for a network and budget: CRL and uniform L1 at the same budget."""
    results = [r for r in (read(row(model, alpha, seed), OUT) for seed in SEEDS) if r]
    made = []
    for name in ("pruned", "uniform_l1"):
        label = "CRL" if name == "pruned" else "uniform L1"
        pairs = [
            (r["dense"], r["pruned"] if name == "pruned" else r["baselines"][name]) for r in results
        ]
        change = [100 * (b["test_accuracy"] - a["test_accuracy"]) for a, b in pairs]
        made.append(
            [
                f"{model}, {label}, {alpha} %, here",
                spread(100 * a["test_accuracy"] for a, _ in pairs),
                f"{pairs[0][0]['params'] / 1e6:.2f}" if pairs else NOT_RUN,
                spread(100 * b["test_accuracy"] for _, b in pairs),
                spread(b["params"] / 1e6 for _, b in pairs),
                spread(change),
            ]
        )
    return made


def lines() -> list[list[str]]:
    """The table: each network's quoted rows, then what was measured here."""
    made = []
    for model in GROUPS:
        for name, method, dense, before, accuracy, after in QUOTED:
            if name == model:
                numbers = (dense, before, accuracy, after)
                change = f"{accuracy - dense:+.2f}"
                made.append([f"{name}, {method}", *(f"{n:.2f}" for n in numbers), change])
        for name, alpha in OURS:
            if name == model:
                made += measured(name, alpha)
    return made


HEADER = (
    "network, method, allowed",
    "unpruned",
    "million parameters",
    "pruned",
    "million parameters",
    "change",
)

if __name__ == "__main__":
    options = parser(__doc__).parse_args()
    rows = [row(model, alpha, seed) for model, alpha in OURS for seed in SEEDS]
    main(rows, OUT, options)
    if not options.list:
        text = "\n".join(
            [
                "# CRL on CIFAR-10 beside other methods: Table 2 of the paper",
                "",
                "Test accuracy in percent. Rows without *here* are quoted as the paper has them:",
                "its 11.68 and 25.56 million parameters are those of the ImageNet networks (the",
                "CIFAR forms have 11.17 and 23.52), P-SLR and PCNN remove weights and not filters,",
                "and its ResNet-18 with 2.52 of 11.68 million keeps 21.6 % where 20 were allowed.",
                "Rows *here*: mean and sample deviation over the seeds that were run.",
                f"Device: {devices(read(r, OUT) for r in rows)}. Made by",
                "`python experiments/crl_table2.py`; `rows.jsonl` has every row's command.",
                "",
                table(HEADER, lines()),
                "",
            ]
        )
        print(text)
        (OUT / "README.md").write_text(text)
