"""Candidates a second: masks of one network scored on one batch of images.

    python experiments/benchmarks/candidates.py [--repeats 7] [--networks lenet300 vgg16]

Candidates are drawn as the agents draw them: of each layer a part is removed that is normal around
one mean, the least important filters first. For no removal, and for means with which 80 % and 90 %
of the parameters go, the same candidates are scored on the same images in three ways:

- full width: `evaluate` of `jaxprune.evaluate`, all candidates in one compiled call;
- own widths: `evaluator` of `jaxprune.bucketed`, all candidates in one call, widths rounded up;
- PyTorch: the filters removed from a PyTorch network beforehand, one candidate after another.

Before anything is timed, all three must give the same losses. The ways take turns, so that a change
of the machine's speed meets them all; medians are printed. A program that PyTorch does not have to
compile, the other two do: how long the first 200 candidates took at their own widths, with all
that was compiled for them, is printed beside. PyTorch (not a dependency) must be installed. Writes
`experiments/results/candidates_<device>.json` and `.md`.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import measured
import numpy as np
import torch

from jaxprune import compact, costs, importance, masked, models, trace
from jaxprune.bucketed import evaluator
from jaxprune.bucketed.stages import run
from jaxprune.envs import groups
from jaxprune.evaluate import evaluate

CASES = {
    "lenet300": [((28, 28, 1), 1000, 16), ((28, 28, 1), 10_000, 16)],
    "vgg16": [((32, 32, 3), 256, 4)],
}
"""{network: [(image, images, how many candidates are timed together)]}."""
REMOVED = (0.0, 0.8, 0.9)
DEVIATION = 0.1
MANY = 200
ROUND = 8
"""Candidates of one call while the first ones are timed, as in a round of an agent."""


def torch_network(params, statistics_):
    """A PyTorch copy of a bundled LeNet-300-100 or VGG, of whatever widths."""

    def tensor(array, *axes):
        # PyTorch copies kernels that are not contiguous on every call.
        moved = np.transpose(array, axes) if axes else np.asarray(array)
        return torch.from_numpy(np.array(moved, order="C"))

    def dense(name):
        layer = torch.nn.Linear(*params[name]["kernel"].shape)
        layer.weight.data = tensor(params[name]["kernel"], 1, 0)
        layer.bias.data = tensor(params[name]["bias"])
        return layer

    modules = []
    if "fc1" in params:
        for name in ("fc1", "fc2"):
            modules += [dense(name), torch.nn.ReLU()]
        return torch.nn.Sequential(*modules, dense("fc3")).eval()
    stages = sorted({int(name[4]) for name in params if name.startswith("conv")})
    for stage in stages:
        for conv in sorted(name for name in params if name.startswith(f"conv{stage}")):
            norm = conv.replace("conv", "bn")
            kernel = params[conv]["kernel"]
            layer = torch.nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, padding=1, bias=False)
            layer.weight.data = tensor(kernel, 3, 2, 0, 1)
            batch_norm = torch.nn.BatchNorm2d(kernel.shape[3], eps=1e-5)
            batch_norm.weight.data = tensor(params[norm]["scale"])
            batch_norm.bias.data = tensor(params[norm]["bias"])
            batch_norm.running_mean = tensor(statistics_[norm]["mean"])
            batch_norm.running_var = tensor(statistics_[norm]["var"])
            modules += [layer, batch_norm, torch.nn.ReLU()]
        modules.append(torch.nn.MaxPool2d(2))
    return torch.nn.Sequential(*modules, torch.nn.Flatten(), dense("classifier")).eval()


def draw(structure, rank, mean, count, rng):
    """Masks with a part of each layer removed that is normal around a mean."""
    sizes = np.array([group.size for group in structure.groups])
    parts = np.clip(rng.normal(mean, DEVIATION, (count, len(sizes))), 0, 0.98)
    removed = np.minimum(np.floor(parts * sizes + 0.5), sizes - 1)
    return (rank >= removed[:, structure.group_index]).astype(np.float32)


def candidates(structure, rank, removed, count):
    """Masks that remove a part of the parameters on average."""
    if removed == 0:
        return np.ones((count, structure.num_channels), np.float32)
    low, high = 0.0, 0.98
    for _ in range(12):
        mean = (low + high) / 2
        masks = draw(structure, rank, mean, count, np.random.default_rng(0))
        low, high = (mean, high) if without(structure, masks) < removed else (low, mean)
    return masks


def without(structure, masks):
    """The part of the parameters that masks remove, on average."""
    dense = costs.dense(structure, "params")
    left = [costs.exact(structure, structure.unflatten(mask), "params") for mask in masks]
    return 1 - np.mean(left) / dense


def measure(name, case, removed, repeats):
    """Seconds a candidate for each way, every one a list of `repeats` measurements."""
    image_shape, images, together = case
    network = models.build(name, image_shape)
    variables = network.init(jax.random.key(0))
    shape = (images, int(np.prod(image_shape))) if network.flat else (images, *image_shape)
    x = jax.random.normal(jax.random.key(1), shape)
    y = jax.random.randint(jax.random.key(2), (images,), 0, 10)
    structure = trace(network.apply, variables, x[:1])
    sizes = tuple(group.size for group in structure.groups)
    rank = np.asarray(groups.rank(sizes, importance.l1(structure, variables)))
    masks = candidates(structure, rank, removed, MANY)
    few = masks[:together]
    masked_apply = masked(network.apply, structure)
    own_widths = evaluator(network.apply, structure, variables, x, y)

    run.clear_cache()
    start = time.perf_counter()
    for first in range(0, MANY if removed else 1, ROUND):
        own_widths(masks[first : first + ROUND] if removed else masks[:1])
    first_seconds = (time.perf_counter() - start) / (MANY if removed else 1)
    programs = run._cache_size()

    torch_x = np.asarray(x) if network.flat else np.transpose(np.asarray(x), (0, 3, 1, 2)).copy()
    torch_x, torch_y = torch.from_numpy(torch_x.copy()), torch.from_numpy(np.array(y, np.int64))
    smaller = []
    for mask in few:
        small = compact(network.apply, structure, variables, structure.unflatten(mask))
        params = jax.tree.map(np.asarray, small.params)
        smaller.append(torch_network(params["params"], params.get("batch_stats")))

    def by_torch():
        losses = []
        for module in smaller:
            logits = module(torch_x)
            losses.append(float(torch.nn.functional.cross_entropy(logits, torch_y)))
            float((logits.argmax(-1) == torch_y).float().mean())
        return losses

    def by_own_widths():
        if removed:
            return own_widths(few).loss
        # Candidates that are the same would be computed once.
        return np.concatenate([own_widths(mask[None]).loss for mask in few])

    device_masks = structure.unflatten(jnp.asarray(few))
    ways = {
        "full width": lambda: np.asarray(
            evaluate(masked_apply, variables, device_masks, x, y).loss
        ),
        "own widths": by_own_widths,
        "PyTorch": by_torch,
    }
    seconds = {way: [] for way in ways}
    with torch.inference_mode():
        losses = [call() for call in ways.values()]
        for other in losses[1:]:
            np.testing.assert_allclose(other, losses[0], rtol=1e-4)
        for _ in range(repeats):
            for way, call in ways.items():
                start = time.perf_counter()
                call()
                seconds[way].append((time.perf_counter() - start) / together)
    return {
        "network": name,
        "images": images,
        "removed": float(without(structure, few)),
        "seconds_per_candidate": seconds,
        "first_seconds_per_candidate": first_seconds if removed else None,
        "programs": programs,
    }


def table(results):
    """The measurements as a Markdown table, the last columns relative to PyTorch."""
    lines = [
        "| network | images | parameters removed | way | candidates/s (quartiles) | x PyTorch "
        f"| x PyTorch, first {MANY} with compilation | programs compiled |",
        "|---|--:|--:|---|--:|--:|--:|--:|",
    ]
    for result in results:
        base = statistics.median(result["seconds_per_candidate"]["PyTorch"])
        for way, seconds in result["seconds_per_candidate"].items():
            low, median, high = statistics.quantiles(seconds, n=4)
            first, programs = "", ""
            if way == "own widths":
                programs = str(result["programs"])
                if result["first_seconds_per_candidate"]:
                    first = f"{base / result['first_seconds_per_candidate']:.2f}"
            lines.append(
                f"| {result['network']} | {result['images']:,} | {result['removed']:.3f} | {way} "
                f"| {1 / median:.1f} ({1 / high:.1f} - {1 / low:.1f}) | {base / median:.2f} "
                f"| {first} | {programs} |"
            )
    return "\n".join(lines)


def main():
    """Measures, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    arguments = parser.parse_args()
    results = [
        measure(name, case, removed, arguments.repeats)
        for name in arguments.networks
        for case in CASES[name]
        for removed in REMOVED
    ]
    about = measured.circumstances()
    text = (
        "# Candidates a second\n\n"
        f"{measured.in_words(about)}\n\n{table(results)}\n\n"
        f"The first {MANY}: as many candidates by {ROUND} in a call, from the first one on,\n"
        "against PyTorch's median, which compiles nothing. Candidates from which nothing is\n"
        "removed are scored one in a call.\n"
    )
    measured.write("candidates", text, about | {"results": results})


if __name__ == "__main__":
    main()
