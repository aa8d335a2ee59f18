"""Pruning in four rounds against one, to the same budget.

    python experiments/rounds.py --runs /tmp/runs     # all rows, then the table
    python experiments/rounds.py                      # the table alone

The network of the digits loses 95 % of its parameters. In four rounds it is fine-tuned for 20
epochs after each; in one round for 20, the default, or for 80, as many in all. The baselines go the
same way as the search.
"""

from rows import NOT_RUN, RESULTS, Row, devices, main, parser, read, spread, table

OUT = RESULTS / "rounds"
SEEDS = (0, 1, 2)
NETWORKS = ("dense", "pruned", "uniform_l1", "global_l1")
BUDGET = "5%"
WAYS = ((1, 20), (1, 80), (4, 20))
"""(rounds, epochs of fine-tuning after each)."""


def row(way: tuple[int, int], seed: int) -> Row:
    """The run of a way with one seed."""
    rounds, epochs = way
    words = (
        *("--method", "magnitude", "--cost", "params", "--budget", BUDGET, "--seed", str(seed)),
        *("--rounds", str(rounds), "--schedule", "geometric", "--finalists", "1"),
        *("--finetune-epochs", str(epochs), "--baselines", "uniform_l1", "global_l1"),
    )
    return Row(f"digits-5-{rounds}x{epochs}-{seed}", words)


def line(way: tuple[int, int]) -> list[str]:
    """A row of the table: means and sample deviations over the seeds that were run."""
    results = [found for found in (read(row(way, s), OUT) for s in SEEDS) if found]
    if not results:
        return [*map(str, way), *[NOT_RUN] * (len(HEADER) - 2)]
    networks = [{**r["baselines"], "dense": r["dense"], "pruned": r["pruned"]} for r in results]
    return [
        *map(str, way),
        str(len(results)),
        f"{sum(r['feasible'] for r in results)} of {len(results)}",
        *(spread(100 * of[name]["test_accuracy"] for of in networks) for name in NETWORKS),
        spread((r["seconds"] for r in results), 0),
    ]


HEADER = (
    *("rounds", "epochs after each", "seeds", "budget met"),
    *("dense", "magnitude", "uniform L1", "global L1", "seconds"),
)

if __name__ == "__main__":
    options = parser(__doc__).parse_args()
    rows = [row(way, seed) for seed in SEEDS for way in WAYS]
    main(rows, OUT, options)
    if not options.list:
        text = "\n".join(
            [
                "# Four rounds against one",
                "",
                f"The convolutional network of the digits with {BUDGET} of its parameters; test",
                "accuracy in percent after fine-tuning, mean and sample deviation over the seeds",
                "that were run. One of the 360 test images is 0.28 points.",
                f"Device: {devices(read(r, OUT) for r in rows)}. Made by",
                "`python experiments/rounds.py`; `rows.jsonl` has every row's command.",
                "",
                table(HEADER, [line(way) for way in WAYS]),
                "",
            ]
        )
        print(text)
        OUT.mkdir(parents=True, exist_ok=True)
        (OUT / "README.md").write_text(text)
