"""Fine-tuning many candidates: steps a second, beside PyTorch on the smaller networks.

    python experiments/benchmarks/finetune_many.py [--candidates 16] [--steps 2] [--repeats 3]

Candidates of VGG-11 keep about 20 to 50 % of the parameters. Each is fine-tuned from the dense
network's (random) weights on random images of CIFAR-10's shape, in batches of 64, by SGD with
Nesterov momentum and weight decay, BatchNorm in training mode:

- masked: `training.finetune_many`, the whole network under each mask. What a step takes does not
  depend on the mask, so that few of the candidates are timed;
- compact: the candidates' smaller networks (`compact`) by `training.finetune_each`, as many at once
  as there are cores;
- PyTorch: the same smaller networks, one after the other, with the channels of its images in
  either place.

Before anything is timed, compact and PyTorch must give the same weights after two steps. The ways
take turns; medians over the repeats are printed, with quartiles. A first pass, which compiles, is
left out; what it took longer than the others is printed apart, and how many steps a second are
left where each candidate is fine-tuned for 32 steps and all that must be compiled for it counts.
PyTorch (the extra `bench`) must be installed. Writes
`experiments/results/finetune_many/<device>.json` and `.md`.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import measured
import numpy as np
import torch
from candidates import draw, torch_network, without

from jaxprune import compact, importance, masked, trace, training
from jaxprune.costs import within_groups
from jaxprune.dependency import Structure
from jaxprune.networks import bundled
from jaxprune.networks.bundled import Network
from jaxprune.training.data import Split
from jaxprune.training.data.pipeline import Preprocess

IMAGE_SHAPE = (32, 32, 3)
BATCH = 64
REMOVED = (0.3, 0.55)
"""Between these is the mean part that a candidate loses of each layer."""
MASKED = 2
"""How many candidates are timed under masks."""
PAUSE = 0.3
"""Seconds before each measurement, in which the threads of the way before come to rest."""
LONG = 32
"""The steps of fine-tuning of a candidate that compilation is set against."""
PREPROCESS = Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3, flat=False)


class Task(NamedTuple):
    """What is fine-tuned, and on what.

    Attributes:
        network: the network.
        variables: its dense weights.
        structure: its groups.
        masks: of the candidates, float32 `[K, N]`.
        split: the images of all steps.
        recipe: how candidates are fine-tuned.
    """

    network: Network
    variables: dict[str, Any]
    structure: Structure
    masks: np.ndarray
    split: Split
    recipe: training.Recipe


def pose(candidates: int, steps: int, *, model: str = "vgg11", epochs: int = 1) -> Task:
    """Candidates of a network and images for so many steps an epoch, all at random."""
    network = bundled.build(model, IMAGE_SHAPE)
    variables = network.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    structure = trace(network.apply, variables, np.zeros((1, *IMAGE_SHAPE), np.float32))
    sizes = tuple(group.size for group in structure.groups)
    rank = np.asarray(within_groups.rank(sizes, importance.l1(structure, variables)))
    masks = draw(structure, rank, rng.uniform(*REMOVED, (candidates, 1)), candidates, rng)
    images = rng.integers(0, 256, (steps * BATCH, *IMAGE_SHAPE), np.uint8)
    split = Split(images, rng.integers(0, 10, len(images), np.int32))
    recipe = training.Recipe(epochs=epochs, batch_size=BATCH, learning_rate=0.01)
    return Task(network, variables, structure, masks, split, recipe)


# --------------------------------------------------------------------------------------- the ways

Way = Callable[[int], Any]
"""Fine-tunes the first candidates, so many of them, to the end."""


def masked_way(task: Task) -> Way:
    """The whole network under each candidate's mask."""
    function = masked(task.network.apply_train, task.structure)
    masks = task.structure.unflatten(task.masks)

    def finetune(count: int) -> Any:
        tuned = training.finetune_many(
            function,
            task.variables,
            {name: mask[:count] for name, mask in masks.items()},
            task.split,
            PREPROCESS,
            task.recipe,
            jax.random.key(0),
        )
        return jax.block_until_ready(tuned)

    return finetune


def compact_way(task: Task) -> Way:
    """The candidates' smaller networks."""
    smaller = [
        compact(task.network.apply_train, task.structure, task.variables, masks)
        for masks in map(task.structure.unflatten, task.masks)
    ]

    def finetune(count: int) -> Any:
        return training.finetune_each(
            smaller[:count], task.split, PREPROCESS, task.recipe, jax.random.key(0)
        )

    return finetune


def torch_way(task: Task, memory_format: torch.memory_format) -> Way:
    """The smaller networks in PyTorch, on images that are normalised beforehand."""
    params = [
        compact(task.network.apply_train, task.structure, task.variables, masks).params
        for masks in map(task.structure.unflatten, task.masks)
    ]
    host = jax.tree.map(np.asarray, params)
    images = np.transpose(np.asarray(PREPROCESS(task.split.images)), (0, 3, 1, 2))
    x = torch.from_numpy(images.copy()).contiguous(memory_format=memory_format)
    y = torch.from_numpy(task.split.labels.astype(np.int64))

    def finetune(count: int) -> Any:
        tuned = []
        for one in host[:count]:
            network = torch_network(one["params"], one["batch_stats"])
            network = network.to(memory_format=memory_format).train()
            fit_torch(network, x, y, task.recipe)
            tuned.append(network)
        return tuned

    return finetune


def fit_torch(
    network: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, recipe: training.Recipe
) -> None:
    """Fits a PyTorch network as `training.finetune` does."""
    kernels = [weight for weight in network.parameters() if weight.ndim > 1]
    others = [weight for weight in network.parameters() if weight.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": kernels, "weight_decay": recipe.weight_decay}, {"params": others}],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=True,
    )
    steps = recipe.epochs * (len(y) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for rows in batches(len(y), recipe):
        loss = torch.nn.functional.cross_entropy(network(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def batches(count: int, recipe: training.Recipe) -> Iterator[torch.Tensor]:
    """The rows of each step, in a new random order each epoch."""
    for _ in range(recipe.epochs):
        yield from torch.randperm(count).split(recipe.batch_size)


def check(task: Task) -> None:
    """Compact and PyTorch must give the same weights and running means, up to float sums.

    The task must have one batch, which the two may take in another order.
    """
    assert len(task.split.labels) == BATCH
    (ours,) = compact_way(task)(1)
    (network,) = torch_way(task, torch.contiguous_format)(1)
    theirs = torch_network(ours["params"], ours["batch_stats"]).state_dict()
    for name, value in network.state_dict().items():
        # PyTorch divides a batch's variance by one fewer for its running variance.
        if name.endswith(("running_var", "num_batches_tracked")):
            continue
        np.testing.assert_allclose(value, theirs[name], rtol=1e-3, atol=1e-4, err_msg=name)


# -------------------------------------------------------------------------------- what is measured


def measure(task: Task, repeats: int) -> dict[str, Any]:
    """Seconds of a pass over the candidates for each way: the first, and a list of repeats."""
    ways = {
        "masked": masked_way(task),
        "compact": compact_way(task),
        "PyTorch, channels first": torch_way(task, torch.contiguous_format),
        "PyTorch, channels last": torch_way(task, torch.channels_last),
    }
    counts = {way: len(task.masks) for way in ways} | {"masked": min(MASKED, len(task.masks))}

    def seconds(way: str) -> float:
        time.sleep(PAUSE)
        start = time.perf_counter()
        ways[way](counts[way])
        return time.perf_counter() - start

    first = {way: seconds(way) for way in ways}
    passes: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way in ways:
            passes[way].append(seconds(way))
    return {
        "steps": len(task.split.labels) // BATCH,
        "candidates": counts,
        "parameters_left": 1 - without(task.structure, task.masks),
        "first_pass_seconds": first,
        "seconds_per_pass": passes,
    }


def table(result: dict[str, Any]) -> str:
    """The measurements as a Markdown table."""
    passes, counts = result["seconds_per_pass"], result["candidates"]
    medians = {
        way: statistics.median(seconds) / counts[way] / result["steps"]
        for way, seconds in passes.items()
    }
    base = min(median for way, median in medians.items() if way.startswith("PyTorch"))
    lines = [
        "| | candidate-steps/s (quartiles) | x PyTorch | compilation, s | "
        f"candidate-steps/s with it, {LONG} steps each | x PyTorch with it |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    whole = max(counts.values())
    for way, seconds in passes.items():
        low, median, high = (
            result["steps"] * counts[way] / q for q in statistics.quantiles(seconds, n=4)
        )
        compiled = max(0.0, result["first_pass_seconds"][way] - statistics.median(seconds))
        with_it = compiled / (whole * LONG) + medians[way]
        lines.append(
            f"| {way} | {median:.2f} ({high:.2f} - {low:.2f}) | {base / medians[way]:.2f} "
            f"| {compiled:.1f} | {1 / with_it:.2f} | {base / with_it:.2f} |"
        )
    return "\n".join(lines)


def verdict(result: dict[str, Any]) -> str:
    """How the target, as many steps a second as PyTorch, was met by the faster way."""
    each = {
        way: statistics.median(seconds) / result["candidates"][way] / result["steps"]
        for way, seconds in result["seconds_per_pass"].items()
    }
    ours = {way: time for way, time in each.items() if not way.startswith("PyTorch")}
    best = min(ours, key=ours.__getitem__)
    ratio = min(time for way, time in each.items() if way not in ours) / ours[best]
    if ratio >= 1:
        return f"At least as many steps a second as PyTorch were wanted: {best} makes {ratio:.2f}."
    return (
        "At least as many steps a second as PyTorch were wanted. The faster way here, "
        f"{best}, makes\n{ratio:.2f} of them. A step of a convolution's gradient is two "
        "convolutions more, of shapes at which XLA's\nlibrary for CPUs is slower than PyTorch's; "
        "and each network of other widths is a program of its own,\nwhich takes longer to compile "
        "than a few dozen steps take. Max-pooling's gradient, which had\ntaken longest, is made of "
        "comparisons (`scoring.lowering`), and as many networks are trained at once\nas there are "
        "cores. Tried without a gain that holds at all widths: gradients of the weights as\n"
        "products of matrices, channels filled up to a multiple of 4, 8 or 16."
    )


def page(about: dict[str, Any], result: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    return (
        "# Fine-tuning many candidates\n\n"
        f"{measured.in_words(about)}\n"
        f"{max(result['candidates'].values())} candidates of VGG-11 that keep "
        f"{100 * result['parameters_left']:.0f} % of the parameters on average, {result['steps']} "
        f"steps on\nbatches of {BATCH}; masked: {result['candidates']['masked']} of them.\n\n"
        f"{table(result)}\n\n"
        f"{verdict(result)}\n\n"
        "x PyTorch: relative to the faster of its two ways, without its first pass. Compilation:\n"
        "what the first pass over the candidates took longer than the others.\n"
    )


def main() -> None:
    """Measures, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--repeats", type=measured.several, default=3)
    arguments = parser.parse_args()
    check(pose(1, 1, epochs=2))
    result = measure(pose(arguments.candidates, arguments.steps), arguments.repeats)
    about = measured.circumstances()
    text = page(about, result)
    measured.write("finetune_many", text, about | result)


if __name__ == "__main__":
    main()
