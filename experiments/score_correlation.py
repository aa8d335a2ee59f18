"""Which score of an unfinished candidate tells how good it will be after fine-tuning?

    python experiments/score_correlation.py --seeds 0 1 2

Random masks of the default network at a quarter of its multiply-adds are scored in two ways, with
the dense network's BatchNorm statistics and with those of the scored images (`--statistics` of
`jaxprune.run`), and then fine-tuned with the default recipe. The table gives Spearman's
rank correlation of each score with the mean validation and test accuracy after it, and with the
mean loss. Writes `experiments/results/score_correlation/README.md`.
"""

import argparse
import os
from pathlib import Path
from statistics import mean

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import spearmanr

from jaxprune import compact, trace, training
from jaxprune.networks import bundled
from jaxprune.search.baselines.removal import least_removal
from jaxprune.search.envs import filterwise
from jaxprune.search.problem import make_problem
from jaxprune.training import data

RESULTS = Path(__file__).parent / "results" / "score_correlation" / "README.md"
BUDGET = 0.25


def random_masks(problem, seed: int, count: int) -> np.ndarray:
    """Masks between global magnitude and chance: importances times random factors.

    A factor for each layer makes the widths differ, one for each filter the choice within a layer.
    """
    rules = filterwise.rules(problem)
    group = np.asarray(rules.group_index)
    importance = np.asarray(problem.importance)
    relative = importance / np.array([importance[group == g].mean() for g in group])
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(count):
        layer = np.exp(rng.normal(0, 0.7, len(rules.sizes)))
        noise = np.exp(rng.normal(0, rng.choice([0.1, 0.5, 1.5]), len(group)))
        order = np.argsort(np.argsort(relative * layer[group] * noise))
        masks.append(np.asarray(least_removal(problem, jnp.asarray(order, jnp.float32))))
    return np.array(masks)


def correlations(seed: int, count: int) -> dict[str, dict[str, float]]:
    """{score: {"accuracy", "loss"}} of one pretrained network."""
    digits = data.load("digits")
    network = bundled.build("cnn", (8, 8, 1))
    preprocess = data.preprocess(digits, network.flat)
    recipe = training.default_recipe("cnn", "digits")
    variables = training.pretrained(network, digits, recipe, seed)
    structure = trace(network.apply, variables, preprocess(digits.train.images[:1]))

    def batch(split: data.Split) -> tuple:
        return preprocess(jnp.asarray(split.images)), jnp.asarray(split.labels)

    functions = {
        "dense statistics": network.apply,
        "statistics of the scored images": lambda v, x: network.apply_train(v, x)[0],
    }
    problems = {
        name: make_problem(
            apply,
            structure,
            variables,
            batch(digits.train),
            batch(digits.validation),
            budget=BUDGET,
        )
        for name, apply in functions.items()
    }
    masks = random_masks(next(iter(problems.values())), seed, count)
    losses, accuracies = [], []
    for mask in masks:
        kept = structure.unflatten(jnp.asarray(mask, jnp.float32))
        train = compact(network.apply_train, structure, variables, kept)
        fitted, _ = training.finetune(
            train,
            train.params,
            digits.train,
            preprocess,
            training.default_recipe("cnn", "digits", phase="finetune"),
            jax.random.key(0),
        )
        small = compact(network.apply, structure, variables, kept)
        scores = [
            training.scores(small, fitted, split, preprocess)
            for split in (digits.validation, digits.test)
        ]
        losses.append(mean(loss for loss, _ in scores))
        accuracies.append(mean(accuracy for _, accuracy in scores))
    found = {}
    for name, problem in problems.items():
        before = np.asarray(problem.validate(jnp.asarray(masks)).accuracy)
        found[name] = {
            "accuracy": float(spearmanr(before, accuracies)[0]),
            "loss": float(spearmanr(before, np.negative(losses))[0]),
        }
    print(seed, found, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--masks", type=int, default=24)
    options = parser.parse_args()
    rows = [correlations(seed, options.masks) for seed in options.seeds]
    seeds = " ".join(map(str, options.seeds))
    lines = [
        "# Scores before fine-tuning and accuracy after it",
        "",
        f"`cnn` on digits, {options.masks} random masks at {BUDGET:.0%} of the multiply-adds for",
        f"each of the seeds {seeds}; {jax.devices()[0].device_kind}, {os.cpu_count()} cores, jax",
        f"{jax.__version__}. Spearman's rank correlation of the validation accuracy before",
        "fine-tuning with the mean validation and test accuracy, and with minus the mean loss,",
        "after it; mean over the seeds. Made by",
        f"`python experiments/score_correlation.py --seeds {seeds} --masks {options.masks}`.",
        "",
        "| BatchNorm uses | with accuracy | with loss | of each seed, with loss |",
        "|---|--:|--:|---|",
    ]
    for name in rows[0]:
        each = ", ".join(f"{row[name]['loss']:.2f}" for row in rows)
        lines.append(
            f"| {name} | {mean(row[name]['accuracy'] for row in rows):.2f} "
            f"| {mean(row[name]['loss'] for row in rows):.2f} | {each} |"
        )
    RESULTS.write_text("\n".join(lines) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
