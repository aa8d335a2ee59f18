"""Candidates a second: masks of one network scored on one batch of images.

    python experiments/benchmarks/candidates.py [--repeats 7] [--networks lenet300 vgg16]

Random masks that keep half of the channels are scored on the same images in four ways:

- masked: `evaluate` of `jaxprune.evaluate`, K = 1, 8 and 64 candidates in one call, compiled once;
- compact: each candidate made smaller by `jaxprune.compact` and run alone, compilation left out
  (it is given in a column of its own, since every new shape pays it);
- PyTorch pruned: the same filters removed from a PyTorch network, one candidate after another;
- PyTorch masked: the whole PyTorch network with masks after each layer, one after another.

Before anything is timed, all four must give the same logits. The ways take turns, so that a change
of the machine's speed meets them all; medians are printed. PyTorch (not a dependency) must be
installed. Writes `experiments/results/candidates_<device>.json` and `.md`.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jaxprune import compact, costs, masked, models, trace
from jaxprune.evaluate import evaluate

RESULTS = Path(__file__).resolve().parents[1] / "results"
CASES = {"lenet300": ((28, 28, 1), 512), "vgg16": ((32, 32, 3), 16)}


def torch_network(params, statistics_, masks=None):
    """A PyTorch copy of a bundled LeNet-300-100 or VGG; `masks` multiplies each layer's output."""

    def tensor(array, *axes):
        # PyTorch copies kernels that are not contiguous on every call.
        moved = np.transpose(array, axes) if axes else np.asarray(array)
        return torch.from_numpy(np.array(moved, order="C"))

    def masking(name):
        return [] if masks is None or name not in masks else [Scale(tensor(masks[name]))]

    class Scale(torch.nn.Module):
        def __init__(self, mask):
            super().__init__()
            self.mask = mask

        def forward(self, x):
            return x * self.mask.reshape(1, -1, *[1] * (x.ndim - 2))

    def dense(name):
        layer = torch.nn.Linear(*params[name]["kernel"].shape)
        layer.weight.data = tensor(params[name]["kernel"], 1, 0)
        layer.bias.data = tensor(params[name]["bias"])
        return layer

    modules = []
    if "fc1" in params:
        for name in ("fc1", "fc2"):
            modules += [dense(name), torch.nn.ReLU(), *masking(name)]
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
            modules += [layer, batch_norm, torch.nn.ReLU(), *masking(conv)]
        modules.append(torch.nn.MaxPool2d(2))
    return torch.nn.Sequential(*modules, torch.nn.Flatten(), dense("classifier")).eval()


def measure(name, repeats, candidates=64, apart=8):
    """Seconds a candidate for each way, every one a list of `repeats` measurements."""
    image_shape, batch = CASES[name]
    network = models.build(name, image_shape)
    variables = network.init(jax.random.key(0))
    shape = (batch, int(np.prod(image_shape))) if network.flat else (batch, *image_shape)
    x = jax.random.normal(jax.random.key(1), shape)
    y = jax.random.randint(jax.random.key(2), (batch,), 0, 10)
    structure = trace(network.apply, variables, x[:1])
    masked_apply = masked(network.apply, structure)
    rng = np.random.default_rng(0)
    flat = np.zeros((candidates, structure.num_channels), np.float32)
    for row in flat:
        for index, group in enumerate(structure.groups):
            channels = np.flatnonzero(structure.group_index == index)
            row[rng.choice(channels, group.size // 2, replace=False)] = 1

    numpy_x = np.asarray(x) if network.flat else np.transpose(np.asarray(x), (0, 3, 1, 2)).copy()
    torch_x, torch_y = torch.from_numpy(numpy_x.copy()), torch.from_numpy(np.array(y, np.int64))
    one_by_one, compile_seconds = [], []
    for row in flat[:apart]:
        masks = structure.unflatten(row)
        small = compact(network.apply, structure, variables, masks)
        start = time.perf_counter()
        run = jax.jit(lambda p, x, small=small: small(p, x)).lower(small.params, x).compile()
        compile_seconds.append(time.perf_counter() - start)
        host = jax.tree.map(np.asarray, (small.params, variables))
        pruned, whole = (
            torch_network(v["params"], v.get("batch_stats"), m)
            for v, m in zip(host, (None, masks), strict=True)
        )
        with torch.inference_mode():
            logits = [
                np.asarray(masked_apply(variables, masks, x)),
                np.asarray(run(small.params, x)),
                pruned(torch_x).numpy(),
                whole(torch_x).numpy(),
            ]
        for other in logits[1:]:
            np.testing.assert_allclose(other, logits[0], rtol=1e-3, atol=1e-4)
        one_by_one.append((run, small.params, pruned, whole))

    def torch_score(module):
        logits = module(torch_x)
        loss = torch.nn.functional.cross_entropy(logits, torch_y)
        return float(loss), float((logits.argmax(-1) == torch_y).float().mean())

    def masked_ways(k):
        masks = structure.unflatten(jnp.asarray(flat[:k]))
        return lambda: jax.block_until_ready(evaluate(masked_apply, variables, masks, x, y))

    ways = {f"masked K={k}": (masked_ways(k), k) for k in (1, 8, candidates)}
    ways["compact"] = (
        lambda: [jax.block_until_ready(run(params, x)) for run, params, *_ in one_by_one],
        apart,
    )
    ways["PyTorch pruned"] = (lambda: [torch_score(p) for *_, p, _ in one_by_one], apart)
    ways["PyTorch masked"] = (lambda: [torch_score(w) for *_, w in one_by_one], apart)
    seconds = {way: [] for way in ways}
    with torch.inference_mode():
        for call, _ in ways.values():
            call()
        for _ in range(repeats):
            for way, (call, count) in ways.items():
                start = time.perf_counter()
                call()
                seconds[way].append((time.perf_counter() - start) / count)
    masks = structure.unflatten(flat[0])
    return {
        "network": name,
        "images": batch,
        "channels": structure.num_channels,
        "macs_kept": costs.exact(structure, masks, "macs") / costs.dense(structure, "macs"),
        "seconds_per_candidate": seconds,
        "compact_compile_seconds": compile_seconds,
    }


def table(results):
    """The measurements as a Markdown table, the last column relative to PyTorch pruned."""
    lines = [
        "| network | images | MACs kept | way | candidates/s | min - max | x PyTorch pruned |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        rates = {
            way: sorted(1 / s for s in times)
            for way, times in result["seconds_per_candidate"].items()
        }
        base = statistics.median(rates["PyTorch pruned"])
        for way, rate in rates.items():
            median = statistics.median(rate)
            lines.append(
                f"| {result['network']} | {result['images']} | {result['macs_kept']:.3f} | {way} | "
                f"{median:.1f} | {rate[0]:.1f} - {rate[-1]:.1f} | {median / base:.2f} |"
            )
    for result in results:
        seconds = statistics.median(result["compact_compile_seconds"])
        lines.append("")
        lines.append(
            f"Compiling one compact {result['network']} takes {seconds:.1f} s (median), which the "
            "rows above leave out; the masked program is compiled once for all candidates."
        )
    return "\n".join(lines)


def main():
    """Measures, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    arguments = parser.parse_args()
    results = [measure(name, arguments.repeats) for name in arguments.networks]
    device = jax.devices()[0].device_kind.lower().replace(" ", "_")
    about = {
        "command": " ".join(["python", "experiments/benchmarks/candidates.py", *sys.argv[1:]]),
        "device": f"{jax.devices()[0].device_kind}, {platform.machine()}",
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("jax", "jaxlib", "numpy", "torch")},
    }
    text = (
        "# Candidates a second\n\n"
        f"`{about['command']}`, device {about['device']}, {about['threads']} threads, "
        + ", ".join(f"{name} {number}" for name, number in about["versions"].items())
        + f".\n\n{table(results)}\n"
    )
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"candidates_{device}.md").write_text(text)
    (RESULTS / f"candidates_{device}.json").write_text(
        json.dumps(about | {"results": results}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
