"""Measured latency of dense and compact networks, beside PyTorch with the same filters removed.

    python experiments/benchmarks/latency.py [--repeats 30] [--networks vgg16 resnet18]

VGG-16 and ResNet-18 in their CIFAR form lose half and four fifths of their multiply-adds: the same
fraction of each layer's filters, those with the smallest L1 norm. One call on a batch of 1 and of
32 images is timed, compilation left out; a compact network compiles once and then runs for good.
PyTorch runs eagerly, in inference mode, with its own layout of images. Where it is not installed
its columns say "not run"; where it is, its logits must be those of the JAX network before anything
is timed. The ways take turns, so that a change of the machine's speed meets them all; before each
timed call comes one that is not, so that no way pays for the threads that another left spinning.
Medians and quartiles are printed and written to `experiments/results/latency/<device>.md` and
`.json`, with the machine's load before and after: run it on an idle machine. Where other programs
use the cores, PyTorch's threads wait for each other at each layer, and its times say nothing.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np

import jaxprune
from jaxprune import costs
from jaxprune.networks import bundled

try:
    import torch
except ImportError:
    torch = None

RESULTS = Path(__file__).resolve().parents[1] / "results" / "latency"
IMAGE = (32, 32, 3)
REMOVED = (0.0, 0.5, 0.8)
BATCHES = (1, 32)
IDLE = 0.5
"""Above this load other programs are taken to use the cores."""


def torch_network(variables):
    """A PyTorch copy, at the widths of the parameters, of a bundled VGG or ResNet of basic blocks.

    Args:
        variables: `{"params", "batch_stats"}` with numpy arrays.
    """
    params, stats = variables["params"], variables["batch_stats"]

    def tensor(array):
        # In C order: `np.array` would keep the strides of a transposed kernel, which PyTorch then
        # copies at every call.
        return torch.from_numpy(np.array(array, order="C"))

    def convolution(params, stats, conv, norm, stride=1):
        kernel = params[conv]["kernel"]
        size, _, inputs, outputs = kernel.shape
        layer = torch.nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
        layer.weight.data = tensor(np.transpose(kernel, (3, 2, 0, 1)))
        batch_norm = torch.nn.BatchNorm2d(outputs, eps=1e-5)
        batch_norm.weight.data = tensor(params[norm]["scale"])
        batch_norm.bias.data = tensor(params[norm]["bias"])
        batch_norm.running_mean = tensor(stats[norm]["mean"])
        batch_norm.running_var = tensor(stats[norm]["var"])
        return torch.nn.Sequential(layer, batch_norm)

    class Block(torch.nn.Module):
        def __init__(self, name, stride):
            super().__init__()
            of = params[name], stats[name]
            self.first = convolution(*of, "conv1", "bn1", stride)
            self.second = convolution(*of, "conv2", "bn2")
            projects = "conv_shortcut" in params[name]
            self.shortcut = (
                convolution(*of, "conv_shortcut", "bn_shortcut", stride)
                if projects
                else torch.nn.Identity()
            )

        def forward(self, x):
            y = self.second(torch.relu(self.first(x)))
            return torch.relu(y + self.shortcut(x))

    layers = []
    if "conv1" in params:
        layers += [convolution(params, stats, "conv1", "bn1"), torch.nn.ReLU()]
        for name in sorted(name for name in params if name.startswith("stage")):
            halves = name.endswith("block0") and not name.startswith("stage1")
            layers.append(Block(name, 2 if halves else 1))
    else:
        convolutions = sorted(name for name in params if name.startswith("conv"))
        for name, following in zip(convolutions, [*convolutions[1:], ""], strict=True):
            layers.append(convolution(params, stats, name, name.replace("conv", "bn")))
            layers.append(torch.nn.ReLU())
            if name.split("_")[0] != following.split("_")[0]:  # the last one of its stage
                layers.append(torch.nn.MaxPool2d(2))
    kernel, bias = params["classifier"]["kernel"], params["classifier"]["bias"]
    classifier = torch.nn.Linear(*kernel.shape)
    classifier.weight.data, classifier.bias.data = tensor(kernel.T), tensor(bias)
    pool = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, *pool, classifier).eval()


def networks(name):
    """For each fraction of `REMOVED`: what is left of the multiply-adds, a function, its params."""
    network = bundled.build(name, IMAGE)
    variables = network.init(jax.random.key(0))
    x = jax.numpy.zeros((1, *IMAGE))
    structure = jaxprune.trace(network.apply, variables, x)
    dense = costs.dense(structure, "macs")
    for removed in REMOVED:
        if not removed:
            yield 1.0, network.apply, variables
            continue
        small = jaxprune.prune(
            network.apply, variables, x, cost="macs", budget=1 - removed, scope="uniform"
        )
        yield costs.exact(structure, small.masks, "macs") / dense, small, small.params


def measure(name, repeats):
    """One result for each batch size and fraction, with the seconds of every timed call."""
    results, calls = [], []
    for kept, function, params in networks(name):
        copy = torch and torch_network(jax.tree.map(np.asarray, params))
        for batch in BATCHES:
            x = jax.random.normal(jax.random.key(batch), (batch, *IMAGE))
            start = time.perf_counter()
            run = jax.jit(function).lower(params, x).compile()
            compiling = time.perf_counter() - start
            ways = {"jax": lambda run=run, p=params, x=x: jax.block_until_ready(run(p, x))}
            if copy is not None:
                image = torch.from_numpy(np.transpose(np.asarray(x), (0, 3, 1, 2)).copy())
                ways["torch"] = lambda copy=copy, image=image: copy(image)
                with torch.inference_mode():
                    np.testing.assert_allclose(
                        copy(image).numpy(), np.asarray(run(params, x)), rtol=1e-3, atol=1e-3
                    )
            result = {
                "network": name,
                "batch": batch,
                "macs_kept": kept,
                "params": sum(map(np.size, jax.tree.leaves(params["params"]))),
                "compile_seconds": compiling,
                "seconds": {way: [] for way in ways},
            }
            results.append(result)
            calls += [(result["seconds"][way], call) for way, call in ways.items()]
    with torch.inference_mode() if torch else jax.transfer_guard("allow"):
        for _, call in calls:
            call()
        for _ in range(repeats):
            for seconds, call in calls:
                call()
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
    return sorted(results, key=lambda result: result["batch"])  # stable: by fraction within a batch


def table(results):
    """The measurements as a Markdown table; ratios are to the dense network in the same library."""
    lines = [
        "| network | batch | MACs kept | parameters | JAX, ms (quartiles) | x dense "
        "| PyTorch, ms (quartiles) | x dense | JAX / PyTorch |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    dense = {}
    for result in results:
        times = {way: np.multiply(1e3, s) for way, s in result["seconds"].items()}
        medians = {way: statistics.median(s) for way, s in times.items()}
        if result["macs_kept"] == 1:
            dense = medians
        cells = [result["network"], str(result["batch"]), f"{result['macs_kept']:.3f}"]
        cells.append(f"{result['params']:,}")
        for way in ("jax", "torch"):
            if way not in times:
                cells += ["not run", ""]
                continue
            low, high = np.percentile(times[way], (25, 75))
            cells.append(f"{medians[way]:.2f} ({low:.2f} - {high:.2f})")
            cells.append(f"{medians[way] / dense[way]:.2f}")
        cells.append(f"{medians['jax'] / medians['torch']:.2f}" if "torch" in medians else "")
        lines.append(f"| {' | '.join(cells)} |")
    compiling = [result["compile_seconds"] for result in results]
    lines.append("")
    lines.append(
        f"Compiling one of the JAX programs took {min(compiling):.1f} to {max(compiling):.1f} s, "
        "which the table leaves out. A ratio below 1 is a gain over the dense network of the same "
        "library, and in the last column one of JAX over PyTorch."
    )
    return "\n".join(lines)


def main():
    """Measures, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument(
        "--networks", nargs="+", choices=("vgg16", "resnet18"), default=["vgg16", "resnet18"]
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    load = [os.getloadavg()[0]]
    results = [row for name in arguments.networks for row in measure(name, arguments.repeats)]
    load.append(os.getloadavg()[0])
    device = jax.devices()[0].device_kind.lower().replace(" ", "_")
    packages = ("jax", "jaxlib", "numpy", *(["torch"] if torch else []))
    about = {
        "command": " ".join(["python", "experiments/benchmarks/latency.py", *sys.argv[1:]]),
        "device": f"{jax.devices()[0].device_kind}, {platform.machine()}",
        "torch_device": "cpu" if torch else "not run",
        "torch_threads": torch.get_num_threads() if torch else "not run",
        "cores": os.cpu_count(),
        "load_before_and_after": load,
        "repeats": arguments.repeats,
        "versions": {name: version(name) for name in packages},
    }
    text = (
        "# Latency of dense and compact networks\n\n"
        f"`{about['command']}`, device {about['device']}, PyTorch {about['torch_device']} "
        f"({about['torch_threads']} threads), {about['repeats']} repeats, load of "
        f"the machine's {about['cores']} cores {load[0]:.1f} before and {load[1]:.1f} after, "
        + ", ".join(f"{name} {number}" for name, number in about["versions"].items())
        + f".\n\n{table(results)}\n"
    )
    if load[0] > IDLE:
        text += (
            f"\n**The machine was not idle** (load {load[0]:.1f} before the first measurement): "
            "do not use these times, those of PyTorch least of all.\n"
        )
    print(text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{device}.md").write_text(text)
    (arguments.out / f"{device}.json").write_text(
        json.dumps(about | {"results": results}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
