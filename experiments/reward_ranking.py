"""Which score before fine-tuning ranks candidates as they rank after it, and what does it cost?

    python experiments/reward_ranking.py --run --rows digits
    python experiments/reward_ranking.py          # only the page, from the rows that are there

Random masks of a trained network at a budget are scored in several ways before fine-tuning, and
then fine-tuned to the end. A row has, for each score, Spearman's rank correlation with minus the
loss and with the accuracy after fine-tuning (means of the validation and test split), how much
better the three that it likes best are than the mean of all, and its seconds.

- dense statistics: BatchNorm normalises by the dense network's running statistics.
- batch statistics: by those of the scored images. Without BatchNorm both are the same.
- compensated: the same after `jaxprune.compensate` has let the kept weights make up for the others.
- steps: validation loss after 8 and 32 training steps of all candidates, as in a run's semifinal.
- prepared: the dense network is trained on under random masks about the budget, four a step, one of
  them whole; then batch statistics. Its weights are those that fine-tuning starts from, too, and
  "prepared, then dense" says how well it ranks what starts from the dense weights.

Writes `experiments/results/reward_ranking`.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import mean
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rows
from scipy.stats import spearmanr
from score_correlation import random_masks

import jaxprune
from jaxprune import compact, masked, trace, training
from jaxprune.commands.config import device
from jaxprune.networks import bundled
from jaxprune.scoring.evaluation import Scores, classified
from jaxprune.search.problem import make_problem
from jaxprune.search.trainer import make_trainer
from jaxprune.training import data

RESULTS = rows.RESULTS / "reward_ranking"
SCORED = 1024
"""Images that candidates are scored on, as in a run."""
BURST = 8
"""Steps of the prepared network's training under the same masks."""
STEPS = (8, 32)
BEST = 3
"""How many of the best by a score a run would fine-tune."""


class Setting(NamedTuple):
    """One row.

    Attributes:
        dataset: Its name.
        model: The bundled model.
        budget: What may remain of the multiply-adds.
        seed: Of the network and the masks.
        masks: How many.
        examples: Training images; None: all.
        pretrain, prepare, finetune: Epochs; None: the recipe's own.
    """

    dataset: str
    model: str
    budget: float
    seed: int
    masks: int = 16
    examples: int | None = None
    pretrain: int | None = None
    prepare: int = 20
    finetune: int | None = None

    @property
    def name(self) -> str:
        """What its line in the file of rows is called."""
        return f"{self.model} {self.dataset} {self.budget:.0%} seed {self.seed}"


def settings() -> list[Setting]:
    small = {"examples": 6000, "pretrain": 10, "prepare": 5, "finetune": 5}
    return [
        *(Setting("digits", "cnn", b, s) for s in (0, 1, 2) for b in (0.1, 0.25)),
        *(
            Setting("fashion_mnist", "lenet5", b, s, **small)
            for s in (0, 1, 2)
            for b in (0.1, 0.25)
        ),
    ]


def timed(function: Callable[[], Any]) -> tuple[np.ndarray, float]:
    """What a function returns, and the seconds it takes, compiling included."""
    start = time.perf_counter()
    found = np.asarray(function())
    return found, time.perf_counter() - start


def measure(setting: Setting) -> dict[str, Any]:
    """One row."""
    dataset = data.load(setting.dataset)
    if setting.examples is not None:
        dataset = data.subset(dataset, setting.examples)
    network = bundled.build(setting.model, dataset.train.images.shape[1:])
    preprocess = data.preprocess(dataset, network.flat)
    recipes = {
        phase: training.default_recipe(setting.model, setting.dataset, phase=phase)
        for phase in ("pretrain", "finetune")
    }
    for phase, recipe in recipes.items():
        epochs = getattr(setting, phase)
        recipes[phase] = recipe if epochs is None else replace(recipe, epochs=epochs)
    variables = training.pretrained(network, dataset, recipes["pretrain"], setting.seed)
    structure = trace(network.apply, variables, preprocess(dataset.train.images[:1]))

    def batch(split: data.Split) -> tuple[jax.Array, jax.Array]:
        images, labels = split.images[:SCORED], split.labels[:SCORED]
        return preprocess(jnp.asarray(images)), jnp.asarray(labels)

    def by_batch(variables: Any, x: jax.Array) -> jax.Array:
        return network.apply_train(variables, x)[0]

    train, validation = batch(dataset.train), batch(dataset.validation)

    def problem(apply: Callable, variables: Any, budget: float = setting.budget) -> Any:
        return make_problem(
            apply, structure, variables, train, validation, budget=budget, host=False
        )

    def trainer(variables: Any) -> Any:
        return make_trainer(
            network,
            structure,
            variables,
            dataset.train,
            preprocess,
            finetune=recipes["finetune"],
            pretrain=recipes["pretrain"],
            scored=by_batch,
            train=train,
            validation=validation,
        )

    masks = random_masks(problem(by_batch, variables), setting.seed, setting.masks)
    flat = jnp.asarray(masks, jnp.float32)
    one = jax.jit(
        lambda variables, mask: classified(
            masked(by_batch, structure)(variables, mask, validation[0]), validation[1]
        )
    )

    def compensated() -> np.ndarray:
        losses = []
        for mask in masks:
            kept = structure.unflatten(mask.astype(np.float32))
            adjusted = jaxprune.compensate(network.apply, structure, variables, kept, train[0])
            losses.append(float(one(adjusted, kept).loss))
        return np.array(losses)

    def prepare() -> Any:
        rng = np.random.default_rng(setting.seed + 1)
        recipe = recipes["pretrain"]
        count = setting.prepare * len(dataset.train.labels) // recipe.batch_size // BURST
        pool = np.concatenate(
            [
                random_masks(problem(by_batch, variables, budget), setting.seed + 1000, 2 * count)
                for budget in (setting.budget, min(1, 2 * setting.budget))
            ]
        )
        prepared, teach = variables, trainer(variables).train
        for burst in range(count):
            several = np.stack([np.ones_like(pool[0]), *rng.choice(pool, 3, replace=False)])
            key = jax.random.PRNGKey(burst)
            prepared = teach(prepared, jnp.asarray(several, jnp.float32), BURST, key)
        return jax.block_until_ready(prepared)

    def loss(scores: Scores) -> np.ndarray:
        return np.asarray(scores.loss)

    normalised = "batch_stats" in variables
    scores = {
        "dense statistics": timed(lambda: loss(problem(network.apply, variables).validate(flat)))
    }
    if normalised:
        scores["batch statistics"] = timed(
            lambda: loss(problem(by_batch, variables).validate(flat))
        )
    scores["compensated"] = timed(compensated)
    for steps in STEPS:
        key = jax.random.PRNGKey(setting.seed)
        scores[f"{steps} steps"] = timed(
            lambda steps=steps, key=key: loss(trainer(variables).finetune(flat, steps, key)[1])
        )
    start = time.perf_counter()
    prepared = prepare()
    preparing = time.perf_counter() - start
    scores["prepared"] = timed(lambda: loss(problem(by_batch, prepared).validate(flat)))
    after = {}
    for name, weights in (("dense", variables), ("prepared", prepared)):
        kept = [structure.unflatten(mask.astype(np.float32)) for mask in masks]
        fitted = training.finetune_each(
            [compact(network.apply_train, structure, weights, mask) for mask in kept],
            dataset.train,
            preprocess,
            recipes["finetune"],
            jax.random.PRNGKey(setting.seed),
        )
        pairs = [
            [
                training.scores(
                    compact(network.apply, structure, weights, mask), fit, split, preprocess
                )
                for split in (dataset.validation, dataset.test)
            ]
            for mask, fit in zip(kept, fitted, strict=True)
        ]
        after[name] = {
            "loss": [round(mean(pair[0] for pair in both), 5) for both in pairs],
            "accuracy": [round(mean(pair[1] for pair in both), 5) for both in pairs],
        }
    return {
        "setting": setting._asdict(),
        "device": device(),
        "jax": jax.__version__,
        "preparing_seconds": round(preparing, 1),
        "scores": {
            name: {"loss": [round(float(v), 5) for v in found], "seconds": round(seconds, 1)}
            for name, (found, seconds) in scores.items()
        },
        "after": after,
    }


def agreement(row: dict[str, Any]) -> dict[str, dict[str, float]]:
    """For each score: rank correlations, and what the best by it are above the mean, in points."""
    found = {}
    for name, score in row["scores"].items():
        starts = ["prepared", "dense"] if name == "prepared" else ["dense"]
        for start in starts:
            label = "prepared, then dense" if (name, start) == ("prepared", "dense") else name
            after = row["after"][start]
            first = np.argsort(score["loss"], kind="stable")[:BEST]
            accuracy = np.array(after["accuracy"])
            found[label] = {
                "loss": float(spearmanr(score["loss"], after["loss"])[0]),
                "accuracy": float(spearmanr(np.negative(score["loss"]), accuracy)[0]),
                "gain": float(100 * (accuracy[first].mean() - accuracy.mean())),
                "seconds": score["seconds"],
            }
    return found


NAMES = (
    *("dense statistics", "batch statistics", "compensated"),
    *(f"{steps} steps" for steps in STEPS),
    *("prepared", "prepared, then dense"),
)


def page() -> str:
    """The page of all rows that are there."""
    there = rows.lines(RESULTS)
    parts = [
        "# Scores before fine-tuning and ranks after it",
        "",
        "Made by `python experiments/reward_ranking.py --run`, which says what the scores are. "
        "Random masks at a budget of multiply-adds. The columns: Spearman's rank correlation of "
        "the validation loss before fine-tuning with the mean loss of the validation and the test "
        "split after it; the same with the accuracy after it; what the three best by the score are "
        "above the mean of all after fine-tuning; and the seconds that scoring all masks took, "
        "compiling included. Mean and sample deviation over the seeds that were run.",
    ]
    groups: dict[str, list[dict[str, Any]]] = {}
    for setting in settings():
        found = there.get(setting.name)
        groups.setdefault(setting.name.rpartition(" seed ")[0], []).extend([found] if found else [])
    for title, several in groups.items():
        parts += ["", f"## {title}", ""]
        if not several:
            parts += [f"{rows.NOT_RUN}."]
            continue
        first = several[0]["setting"]
        seeds = ", ".join(str(row["setting"]["seed"]) for row in several)
        examples = f", {first['examples']:,} training images" if first["examples"] else ""
        dense, prepared = (
            rows.spread(100 * mean(row["after"][start]["accuracy"]) for row in several)
            for start in ("dense", "prepared")
        )
        best_dense, best_prepared = (
            rows.spread(100 * max(row["after"][start]["accuracy"]) for row in several)
            for start in ("dense", "prepared")
        )
        preparing = rows.spread((row["preparing_seconds"] for row in several), 0)
        parts += [
            f"{first['masks']} masks, seeds {seeds}{examples}; {several[0]['device']}, jax "
            f"{several[0]['jax']}. Accuracy after fine-tuning, mean and best of the masks: {dense} "
            f"and {best_dense} % from the dense weights, {prepared} and {best_prepared} % from the "
            f"prepared ones, which took {preparing} s.",
            "",
        ]
        of_rows = [agreement(row) for row in several]
        parts.append(
            rows.table(
                ["score", "with loss", "with accuracy", "three best, points", "seconds"],
                [
                    [
                        name,
                        *(
                            rows.spread((row[name][column] for row in of_rows), digits)
                            for column, digits in (
                                ("loss", 2),
                                ("accuracy", 2),
                                ("gain", 2),
                                ("seconds", 0),
                            )
                        ),
                    ]
                    for name in NAMES
                    if name in of_rows[0]
                ],
            )
        )
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", action="store_true", help="measure the rows that are not there")
    parser.add_argument("--rows", nargs="+", help="only rows whose name has one of these in it")
    parser.add_argument("--list", action="store_true", help="the names of the rows")
    options = parser.parse_args()
    for setting in settings():
        if options.list:
            print(setting.name)
        wanted = not options.rows or any(part in setting.name for part in options.rows)
        if options.run and wanted and setting.name not in rows.lines(RESULTS):
            rows.add(setting.name, measure(setting), RESULTS)
            (RESULTS / "README.md").write_text(page())
            jax.clear_caches()
    if not options.list:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "README.md").write_text(page())


if __name__ == "__main__":
    main()
