"""The test accuracies that the bundled networks reach unpruned, with the recipes they come with.

    python experiments/reference_accuracy.py --model lenet300 --dataset mnist --seeds 0 1 2

An interrupted run goes on where it stopped. Each network adds its row to
`experiments/results/reference_accuracy/rows.jsonl`, and the table beside it is written anew. The
recipes are plain ones, picked by hand from a few tries, with the test accuracy in view: these
networks are what pruning starts from, not results to compare with.
"""

import argparse
import json
import os
import platform
import shlex
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev

import jax

from jaxprune import training
from jaxprune.networks import bundled
from jaxprune.training import data

RESULTS = Path(__file__).parent / "results" / "reference_accuracy"

TARGETS = {
    ("cnn", "digits"): 0.98,
    ("lenet300", "mnist"): 0.984,
    ("lenet300", "fashion_mnist"): 0.90,
    ("lenet5", "mnist"): 0.99,
    ("mlp", "cifar10"): 0.56,
    ("vgg16", "cifar10"): 0.935,
    ("resnet56", "cifar10"): 0.933,
    ("resnet18", "cifar10"): 0.945,
}
"""Test accuracy that each network is meant to reach."""


def measure(model: str, dataset_name: str, seed: int, data_dir: str | None) -> dict:
    """Trains one network, or takes it from the cache, and measures it."""
    dataset = data.load(dataset_name, data_dir)
    network = bundled.build(model, dataset.train.images.shape[1:], dataset.num_classes)
    recipe = training.default_recipe(model, dataset_name).resolved()
    epochs: list[int] = []

    def progress(epoch: int, metrics: dict[str, float]) -> None:
        epochs.append(epoch)
        line = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        print(f"{model} on {dataset_name}, seed {seed}, epoch {epoch}: {line}", flush=True)

    start = time.perf_counter()
    variables = training.pretrained(network, dataset, recipe, seed, progress=progress)
    jax.block_until_ready(variables)
    seconds = time.perf_counter() - start
    preprocess = data.preprocess(dataset, network.flat)
    accuracies = {
        f"{name}_accuracy": training.accuracy(
            network.apply, variables, getattr(dataset, name), preprocess
        )
        for name in ("train", "validation", "test")
    }
    return {
        "model": model,
        "dataset": dataset_name,
        "seed": seed,
        **accuracies,
        # Of a whole training only: what a cache or an earlier, interrupted run did is not known.
        "seconds": round(seconds, 1) if len(epochs) == recipe.epochs else None,
        "recipe": asdict(recipe),
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("jax", "flax", "optax", "numpy")},
        },
        "command": "python experiments/reference_accuracy.py " + shlex.join(sys.argv[1:]),
    }


def table(rows: list[dict]) -> str:
    """The rows as Markdown; what was not run says so."""
    lines = [
        "# Reference accuracies",
        "",
        "Unpruned networks with the recipes of `training.default_recipe`. Accuracies in percent;",
        "with several seeds, mean and sample standard deviation. Times are those of the machine as",
        "it was, other work included.",
        "",
        "| model | dataset | seeds | validation | test | target | seconds a seed | device |",
        "|---|---|---|---|---|---|---|---|",
    ]
    measured = {(row["model"], row["dataset"]) for row in rows}
    for model, dataset in [*TARGETS, *sorted(measured - set(TARGETS))]:
        target = TARGETS.get((model, dataset))
        goal = "" if target is None else f">= {100 * target:.1f}"
        mine = [row for row in rows if (row["model"], row["dataset"]) == (model, dataset)]
        if not mine:
            lines.append(f"| {model} | {dataset} | | not run | not run | {goal} | | |")
            continue

        def percent(key: str, mine: list[dict] = mine) -> str:
            values = [100 * row[key] for row in mine]
            spread = f" +- {stdev(values):.2f}" if len(values) > 1 else ""
            return f"{mean(values):.2f}{spread}"

        seconds = [row["seconds"] for row in mine if row["seconds"] is not None]
        cells = (
            model,
            dataset,
            ", ".join(str(row["seed"]) for row in mine),
            percent("validation_accuracy"),
            percent("test_accuracy"),
            goal,
            f"{mean(seconds):.0f}" if seconds else "",
            " / ".join(sorted({row["device"] for row in mine})),
        )
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "A row that was not run is made by (on a GPU, with the dataset prepared):",
        "",
        *(
            f"    python experiments/reference_accuracy.py --model {model} --dataset {dataset}"
            for model, dataset in TARGETS
            if (model, dataset) not in measured
        ),
        "",
        "Recipes, versions and commands of each row: `reference_accuracy.json`.",
        "",
        "| model | dataset | epochs | batch | optimizer | rate | decay | warmup | smoothing "
        "| augment |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for model, dataset in TARGETS:
        recipe = training.default_recipe(model, dataset)
        lines.append(
            f"| {model} | {dataset} | {recipe.epochs} | {recipe.batch_size} | {recipe.optimizer} "
            f"| {recipe.learning_rate} | {recipe.weight_decay} | {recipe.warmup} "
            f"| {recipe.label_smoothing} | {recipe.augment} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, choices=bundled.NAMES)
    parser.add_argument("--dataset", required=True, choices=data.NAMES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--data-dir", help="default: $TFDS_DATA_DIR")
    options = parser.parse_args()
    for seed in options.seeds:
        row = measure(options.model, options.dataset, seed, options.data_dir)
        kept = RESULTS / "rows.jsonl"
        rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
        key = ("model", "dataset", "seed")
        rows = [old for old in rows if any(old[name] != row[name] for name in key)] + [row]
        rows.sort(key=lambda row: tuple(row[name] for name in key))
        RESULTS.mkdir(parents=True, exist_ok=True)
        kept.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (RESULTS / "README.md").write_text(table(rows))
        print({name: value for name, value in row.items() if "accuracy" in name}, flush=True)


if __name__ == "__main__":
    main()
