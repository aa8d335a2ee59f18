"""CRL on networks that two cores can prune: digits, MNIST, and a small run of VGG-11 on CIFAR-10.

    python experiments/crl_small.py --runs /tmp/runs                     # all rows, then the table
    python experiments/crl_small.py --runs /tmp/runs --rows digits       # some of them
    python experiments/crl_small.py                                      # the table alone

Several budgets, five seeds each, the command's defaults where a row does not say otherwise; beside
CRL stand uniform and global magnitude pruning and random pruning at the same budget, with the same
fine-tuning. VGG-11 is trained, searched and fine-tuned for a few epochs on a part of the images:
its accuracies say how the methods compare on two cores, not what VGG-11 can reach.
"""

from rows import NOT_RUN, RESULTS, Row, devices, main, parser, read, spread, table

OUT = RESULTS / "crl_small"
SEEDS = (0, 1, 2, 3, 4)
NETWORKS = ("dense", "pruned", "uniform_l1", "global_l1", "random")

MNIST = ("--dataset", "mnist", "--model", "lenet300")

CASES = {
    "digits-params-20": ("--cost", "params", "--budget", "20%"),
    "digits-params-10": ("--cost", "params", "--budget", "10%"),
    "digits-macs-25": ("--cost", "macs", "--budget", "25%"),
    "digits-params-20-fine": ("--cost", "params", "--budget", "20%", "--strategy", "fine"),
    "digits-params-20-online": ("--cost", "params", "--budget", "20%", "--online"),
    "mnist-params-20": (*MNIST, "--cost", "params", "--budget", "20%"),
    "mnist-params-5": (*MNIST, "--cost", "params", "--budget", "5%"),
    "mnist-neurons-40": (*MNIST, "--cost", "neurons", "--budget", "40%"),
    "vgg11-params-20": (
        *("--dataset", "cifar10", "--model", "vgg11", "--cost", "params", "--budget", "20%"),
        *("--examples", "4000", "--pretrain-epochs", "12", "--finetune-epochs", "4"),
        *("--search-examples", "256", "--finalists", "2"),
        *("--semifinalists", "6", "--semifinal-steps", "31"),
        *("--search.iterations", "20", "--search.episodes", "16"),
    ),
}
"""{name: the options of its rows, the method and the seed aside}."""


def row(case: str, seed: int) -> Row:
    """The run of a case with one seed."""
    return Row(f"{case}-{seed}", ("--method", "crl", *CASES[case], "--seed", str(seed)))


def line(case: str) -> list[str]:
    """A row of the table: means and sample deviations over the seeds that were run."""
    results = [result for result in (read(row(case, seed), OUT) for seed in SEEDS) if result]
    if not results:
        return [case, *[NOT_RUN] * (len(HEADER) - 1)]
    networks = [{**r["baselines"], "dense": r["dense"], "pruned": r["pruned"]} for r in results]
    shares = [100 * budget["share"] for r in results for budget in r["budgets"]]
    return [
        case,
        str(len(results)),
        f"{sum(r['feasible'] for r in results)} of {len(results)}",
        spread(shares, 1),
        *(spread(100 * of[name]["test_accuracy"] for of in networks) for name in NETWORKS),
        spread((r["search"]["seconds"] for r in results), 0),
    ]


HEADER = (
    "case",
    "seeds",
    "budget met",
    "left, %",
    "dense",
    "CRL",
    "uniform L1",
    "global L1",
    "random",
    "search, s",
)

if __name__ == "__main__":
    options = parser(__doc__).parse_args()
    rows = [row(case, seed) for case in CASES for seed in SEEDS]
    main(rows, OUT, options)
    if not options.list:
        text = "\n".join(
            [
                "# CRL on two cores",
                "",
                "Test accuracy in percent after fine-tuning, mean and sample deviation over the",
                "seeds that were run.",
                f"Device: {devices(read(r, OUT) for r in rows)}. Made by",
                "`python experiments/crl_small.py`; `rows.jsonl` has every row's command.",
                "",
                table(HEADER, [line(case) for case in CASES]),
                "",
            ]
        )
        print(text)
        (OUT / "README.md").write_text(text)
