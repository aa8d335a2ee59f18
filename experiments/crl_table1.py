"""Table 1 of the CRL paper, and Tables 5.4 to 5.9 of the thesis: VGG on CIFAR-10.

    python experiments/crl_table1.py --runs /tmp/runs                   # all rows and the table
    python experiments/crl_table1.py --runs /tmp/runs --rows vgg11-a20  # some of them
    python experiments/crl_table1.py                                    # the table alone

VGG-11, 16 and 19 keep at most 20 % and 10 % of their parameters: by CRL with the coarse and the
fine strategy, and by uniform magnitude pruning, which each run makes beside the search with the
same fine-tuning. The protocol is the thesis's (40,000 timesteps, fine-tuning 0/32/128 steps before
the reward, Table 5.3), on networks that are trained properly; seeds 0 to 2. A row takes a GPU.
"""

from rows import NOT_RUN, RESULTS, Row, devices, main, parser, read, spread, table

OUT = RESULTS / "crl_table1"
LAYERS = {"vgg11": 8, "vgg16": 13, "vgg19": 16}
EPISODES = 64
SEEDS = (0, 1, 2)

PAPER = {  # (network, alpha): unpruned, magnitude, coarse sparsity and accuracy, fine the same
    ("vgg11", 20): (89.23, 85.50, 83.48, 89.11, 83.29, 86.47),
    ("vgg11", 10): (89.23, 83.80, 90.75, 88.09, 96.89, 76.61),
    ("vgg16", 20): (90.69, 88.40, 83.81, 90.96, 78.24, 89.55),
    ("vgg16", 10): (90.69, 87.10, 92.90, 89.89, 90.65, 87.89),
    ("vgg19", 20): (90.59, 88.40, 83.48, 91.06, 87.59, 90.04),
    ("vgg19", 10): (90.59, 86.90, 92.31, 91.31, 77.95, 90.62),
}


def row(model: str, alpha: int, strategy: str, seed: int) -> Row:
    """The run of one network, budget, strategy and seed."""
    rounds = round(40_000 / (EPISODES * LAYERS[model]))
    words = (
        *("--method", "crl", "--strategy", strategy, "--model", model, "--dataset", "cifar10"),
        *("--cost", "params", "--budget", f"{alpha / 100:g}", "--seed", str(seed)),
        *("--search.episodes", str(EPISODES), "--search.iterations", str(rounds)),
        *("--search.finetune-schedule", "0", "32", "128"),
        *("--search.initial-ratio", "0.8" if alpha == 20 else "0.9"),
    )
    return Row(f"{model}-a{alpha}-{strategy}-{seed}", words)


def accuracies(results: list[dict], network: str) -> str:
    """Test accuracies in percent of one network of each run."""
    rows = [{**r["baselines"], "dense": r["dense"], "pruned": r["pruned"]} for r in results]
    return spread(100 * r[network]["test_accuracy"] for r in rows)


def lines() -> list[list[str]]:
    """The table: for each network and budget the paper's row, and what was measured."""
    made = []
    for (model, alpha), quoted in PAPER.items():
        dense, magnitude, *found = quoted
        for number, strategy in enumerate(("coarse", "fine")):
            sparsity, accuracy = found[2 * number : 2 * number + 2]
            runs = [read(row(model, alpha, strategy, seed), OUT) for seed in SEEDS]
            results = [result for result in runs if result]
            removed = [100 * (1 - r["pruned"]["params"] / r["dense"]["params"]) for r in results]
            made.append(
                [
                    f"{model}, {alpha} %, {strategy}",
                    *(f"{value:.2f}" for value in (dense, magnitude, sparsity, accuracy)),
                    f"{accuracy - dense:+.2f}",
                    accuracies(results, "dense") if results else NOT_RUN,
                    accuracies(results, "uniform_l1") if results else NOT_RUN,
                    spread(removed),
                    accuracies(results, "pruned") if results else NOT_RUN,
                    str(len(results)),
                ]
            )
    return made


HEADER = (
    "network, allowed, strategy",
    "paper: unpruned",
    "magnitude",
    "sparsity",
    "CRL",
    "change",
    "here: unpruned",
    "uniform L1",
    "sparsity",
    "CRL",
    "seeds",
)


if __name__ == "__main__":
    options = parser(__doc__).parse_args()
    rows = [
        row(model, alpha, strategy, seed)
        for model, alpha in PAPER
        for strategy in ("coarse", "fine")
        for seed in SEEDS
    ]
    main(rows, OUT, options)
    if not options.list:
        text = "\n".join(
            [
                "# CRL on VGG, CIFAR-10: Table 1 of the paper, Tables 5.4 to 5.9 of the thesis",
                "",
                "Test accuracy and sparsity (parameters removed) in percent; the columns of the",
                "paper are quoted. Here: mean and sample deviation over the seeds that were run,",
                "the baseline at the same budget and with the same fine-tuning.",
                f"Device: {devices(read(r, OUT) for r in rows)}. Made by",
                "`python experiments/crl_table1.py`; `rows.jsonl` has every row's command.",
                "",
                table(HEADER, lines()),
                "",
                "Two of the thesis's own rows break their budget: the fine strategy on VGG-16",
                "(78.24 % removed where 80 % were asked for) and on VGG-19 (77.95 % of 90 %).",
                "",
            ]
        )
        print(text)
        (OUT / "README.md").write_text(text)
