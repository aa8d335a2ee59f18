"""Pruning in four rounds against one, to the same budget and with as many epochs of fine-tuning.

    python experiments/rounds.py --runs /tmp/runs     # all rows, then the table
    python experiments/rounds.py                      # the table alone

The network of the digits loses 90 or 95 % of its parameters. In one round it is then fine-tuned for
80 epochs, in four rounds for 20 after each. The baselines go the same way as the search.
"""

from rows import NOT_RUN, RESULTS, Row, devices, main, parser, read, spread, table

OUT = RESULTS / "rounds"
SEEDS = (0, 1, 2)
EPOCHS = 80
NETWORKS = ("dense", "pruned", "uniform_l1", "global_l1")
WAYS = {"one round": (1, "geometric"), "four, geometric": (4, "geometric")}
"""{way: (rounds, schedule)}."""
BUDGETS = ("5%", "10%")


def row(budget: str, way: str, seed: int) -> Row:
    """The run of a budget and a way with one seed."""
    rounds, schedule = WAYS[way]
    words = (
        *("--method", "magnitude", "--cost", "params", "--budget", budget, "--seed", str(seed)),
        *("--rounds", str(rounds), "--schedule", schedule, "--finalists", "1"),
        *("--finetune-epochs", str(EPOCHS // rounds), "--baselines", "uniform_l1", "global_l1"),
    )
    return Row(f"digits-{budget.rstrip('%')}-{rounds}-{schedule}-{seed}", words)


def line(budget: str, way: str) -> list[str]:
    """A row of the table: means and sample deviations over the seeds that were run."""
    results = [found for found in (read(row(budget, way, s), OUT) for s in SEEDS) if found]
    if not results:
        return [budget, way, *[NOT_RUN] * (len(HEADER) - 2)]
    networks = [{**r["baselines"], "dense": r["dense"], "pruned": r["pruned"]} for r in results]
    return [
        budget,
        way,
        str(len(results)),
        f"{sum(r['feasible'] for r in results)} of {len(results)}",
        *(spread(100 * of[name]["test_accuracy"] for of in networks) for name in NETWORKS),
        spread((r["seconds"] for r in results), 0),
    ]


HEADER = (
    *("parameters left", "rounds", "seeds", "budget met"),
    *("dense", "magnitude", "uniform L1", "global L1", "seconds"),
)

if __name__ == "__main__":
    options = parser(__doc__).parse_args()
    rows = [row(budget, way, seed) for budget in BUDGETS for seed in SEEDS for way in WAYS]
    main(rows, OUT, options)
    if not options.list:
        text = "\n".join(
            [
                "# Four rounds against one",
                "",
                "The convolutional network of the digits; test accuracy in percent after",
                f"{EPOCHS} epochs of fine-tuning in all, mean and sample deviation over the seeds",
                "that were run. One of the 360 test images is 0.28 points.",
                f"Device: {devices(read(r, OUT) for r in rows)}. Made by",
                "`python experiments/rounds.py`; `rows.jsonl` has every row's command.",
                "",
                table(HEADER, [line(budget, way) for budget in BUDGETS for way in WAYS]),
                "",
            ]
        )
        print(text)
        OUT.mkdir(parents=True, exist_ok=True)
        (OUT / "README.md").write_text(text)
