"""Training: images a second, dense and pruned, beside PyTorch in the same run.

    python experiments/benchmarks/training.py [--networks vgg16 resnet20] [--repeats 3]

Whole training steps on batches of 128 random images in float32: forward pass with BatchNorm in
training mode, cross entropy, gradients, SGD with Nesterov momentum and weight decay. Each network
is trained dense, and with 50, 80 and 90 % of its multiply-adds removed, the same part of each
layer's filters; jaxprune takes its steps as `training.finetune` does, and PyTorch those of the same
smaller network, with the channels of its images in either place. Before anything is timed, both
must give the same weights after a step. The ways take turns; medians are printed, without the first
step, which compiles. The share of the matrix product is that of three times the network's
multiply-adds, for the forward pass and two gradients.

Each network is measured in a process of its own and kept when it is done: started again, the
script goes on with those that are missing (`--anew` measures all). Needs the extra `bench`. Writes
`experiments/results/training/<device>.json` and `.md`.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import latency
import measured
import numpy as np
import torch

import jaxprune
from jaxprune import compact, costs, training
from jaxprune.networks import bundled
from jaxprune.training.data import Split
from jaxprune.training.data.pipeline import Preprocess
from jaxprune.training.loop import Loop

BATCH = 128
STEPS = {"vgg16": 1, "resnet18": 1, "resnet56": 1, "resnet20": 2, "lenet5": 8, "cnn": 20}
"""How many steps are timed together, for each network."""
SHAPES = {"lenet5": (28, 28, 1), "cnn": (8, 8, 1)}
"""Of images; by default 32 x 32 in colour. The network for the digits is `cnn`."""
KEPT = (1.0, 0.5, 0.2, 0.1)
"""Parts of the multiply-adds."""
PAUSE = 0.3
"""Seconds before each measurement, in which the threads of the way before come to rest."""
RECIPE = training.Recipe(epochs=1, batch_size=BATCH, learning_rate=0.01)
FORMATS = {"first": torch.contiguous_format, "last": torch.channels_last}


def smaller(name: str, kept: float) -> tuple[Any, dict[str, Any], float]:
    """A network's training function, its variables and its multiply-adds, for a part that is kept.

    Args:
        name: one of `STEPS`.
        kept: at most this part of the multiply-adds.
    """
    shape = SHAPES.get(name, (32, 32, 3))
    network = bundled.build(name, shape)
    variables = network.init(jax.random.key(0))
    x = np.zeros((1, *shape), np.float32)
    structure = jaxprune.trace(network.apply, variables, x)
    if kept == 1:
        return network.apply_train, variables, costs.dense(structure, "macs")
    pruned = jaxprune.prune(network.apply, variables, x, cost="macs", budget=kept, scope="uniform")
    small = compact(network.apply_train, structure, variables, pruned.masks)
    return small, small.params, costs.exact(structure, pruned.masks, "macs")


def jax_way(name: str, function: Any, variables: Any, split: Split) -> Callable[[], Any]:
    """Takes the steps of an epoch, from where the last ones ended."""
    loop = Loop(function, split, preprocess(name), RECIPE, jax.random.key(0))
    state = [loop.start(variables)]

    def steps() -> Any:
        state[0], _ = loop.epoch(0, state[0])
        return jax.block_until_ready(state[0].variables)

    return steps


def preprocess(name: str) -> Preprocess:
    """How the images of a network are normalised."""
    channels = SHAPES.get(name, (32, 32, 3))[-1]
    return Preprocess(mean=(0.5,) * channels, std=(0.25,) * channels, flat=False)


def torch_way(name: str, variables: Any, split: Split, form: str) -> Callable[[], Any]:
    """The same in PyTorch, on images that are normalised beforehand."""
    network = torch_network(name, jax.tree.map(np.asarray, variables))
    network = network.to(memory_format=FORMATS[form]).train()
    images = np.transpose(np.asarray(preprocess(name)(split.images)), (0, 3, 1, 2))
    x = torch.from_numpy(images.copy()).contiguous(memory_format=FORMATS[form])
    y = torch.from_numpy(split.labels.astype(np.int64))
    kernels = [weight for weight in network.parameters() if weight.ndim > 1]
    others = [weight for weight in network.parameters() if weight.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": kernels, "weight_decay": RECIPE.weight_decay}, {"params": others}],
        lr=RECIPE.learning_rate,
        momentum=RECIPE.momentum,
        nesterov=True,
    )

    def steps() -> Any:
        for rows in torch.randperm(len(y)).split(BATCH):
            loss = torch.nn.functional.cross_entropy(network(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return network

    return steps


def torch_network(name: str, variables: Any) -> torch.nn.Module:
    """A PyTorch copy of a bundled network, at the widths of its variables."""
    if name not in ("lenet5", "cnn"):
        return latency.torch_network(variables)
    params = variables["params"]

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(array, order="C"))

    def dense(of: str, kernel: np.ndarray) -> torch.nn.Linear:
        layer = torch.nn.Linear(*kernel.shape)
        layer.weight.data, layer.bias.data = tensor(kernel.T), tensor(params[of]["bias"])
        return layer

    def convolution(of: str, padding: int) -> torch.nn.Conv2d:
        kernel, bias = params[of]["kernel"], params[of].get("bias")
        _, size, inputs, outputs = kernel.shape
        layer = torch.nn.Conv2d(inputs, outputs, size, padding=padding, bias=bias is not None)
        layer.weight.data = tensor(np.transpose(kernel, (3, 2, 0, 1)))
        if bias is not None:
            layer.bias.data = tensor(bias)
        return layer

    layers: list[torch.nn.Module] = []
    if name == "lenet5":
        for conv in ("conv1", "conv2"):
            layers += [convolution(conv, 0), torch.nn.MaxPool2d(2)]
        kernel = params["fc1"]["kernel"]  # of maps whose channels come last
        maps = kernel.reshape(4, 4, -1, kernel.shape[-1])
        kernel = np.transpose(maps, (2, 0, 1, 3)).reshape(kernel.shape)
        layers += [torch.nn.Flatten(), dense("fc1", kernel), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers, dense("fc2", params["fc2"]["kernel"]))
    for number in (1, 2, 3):
        norm = torch.nn.BatchNorm2d(len(params[f"bn{number}"]["scale"]))
        norm.weight.data = tensor(params[f"bn{number}"]["scale"])
        norm.bias.data = tensor(params[f"bn{number}"]["bias"])
        layers += [convolution(f"conv{number}", 1), norm, torch.nn.ReLU()]
        if number == 1:
            layers.append(torch.nn.MaxPool2d(2))
    layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, dense("classifier", params["classifier"]["kernel"]))


def examples(name: str, steps: int) -> Split:
    """Random images for so many steps."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (steps * BATCH, *SHAPES.get(name, (32, 32, 3))), np.uint8)
    return Split(images, rng.integers(0, 10, len(images), np.int32))


def check(name: str, function: Any, variables: Any) -> None:
    """A step must change all weights as PyTorch's does, up to the order of float sums."""
    split = examples(name, 1)
    ours = jax_way(name, function, variables, split)()
    theirs = torch_way(name, variables, split, "first")()
    expected = dict(torch_network(name, jax.tree.map(np.asarray, ours)).named_parameters())
    for weight, value in theirs.named_parameters():
        np.testing.assert_allclose(
            value.detach(), expected[weight].detach(), rtol=1e-3, atol=1e-4, err_msg=weight
        )


def measure(name: str, repeats: int) -> list[dict[str, Any]]:
    """For each part of `KEPT` the seconds of a step in each way."""
    results = []
    split = examples(name, STEPS[name])
    for kept in KEPT:
        function, variables, macs = smaller(name, kept)
        check(name, function, variables)
        ways = {"jaxprune": jax_way(name, function, variables, split)}
        for form in FORMATS:
            ways[f"PyTorch, channels {form}"] = torch_way(name, variables, split, form)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(repeats + 1):
            for way, steps in ways.items():
                time.sleep(PAUSE)
                start = time.perf_counter()
                steps()
                if number:
                    seconds[way].append((time.perf_counter() - start) / STEPS[name])
        results.append({"kept": kept, "macs": float(macs), "seconds": seconds})
    return results


def table(networks: dict[str, Any]) -> str:
    """The measurements as a Markdown table."""
    lines = [
        "| network | multiply-adds kept | jaxprune, images/s | share of the matrix product "
        "| PyTorch, images/s | jaxprune / PyTorch |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name in STEPS:
        if name not in networks:
            lines.append(f"| {name} | not run | | | | |")
            continue
        for result in networks[name]["results"]:
            rates = {
                way: BATCH / statistics.median(taken) for way, taken in result["seconds"].items()
            }
            ours = rates.pop("jaxprune")
            theirs = max(rates, key=rates.__getitem__)
            share = 3 * result["macs"] * ours / networks[name]["peak"]
            lines.append(
                f"| {name} | {100 * result['kept']:.0f} % | {ours:,.1f} | {100 * share:.0f} % "
                f"| {rates[theirs]:,.1f} ({theirs.split()[-1]}) | {ours / rates[theirs]:.2f} |"
            )
    return "\n".join(lines)


def page(content: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    loads = [f"{name} {of['load_before']:.1f}" for name, of in content["networks"].items()]
    return (
        "# Training\n\n"
        f"{measured.in_words(content)}\n"
        f"Batches of {BATCH} images, float32. Load of the machine before each network: "
        f"{', '.join(loads)}.\n\n"
        f"{table(content['networks'])}\n\n"
        "jaxprune / PyTorch: relative to the faster place for its channels, which stands beside\n"
        "its images a second. Where the load was above 0.5 other programs used the cores, and\n"
        "PyTorch's threads waited for each other at each layer: do not use such a row.\n"
    )


def main() -> None:
    """Measures, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--repeats", type=measured.several, default=3)
    parser.add_argument("--anew", action="store_true", help="also those that are there already")
    parser.add_argument("--alone", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        load = os.getloadavg()[0]
        peak = measured.peak_rate()
        results = measure(arguments.alone, arguments.repeats)
        print(json.dumps({"load_before": load, "peak": peak, "results": results}))
        return
    path = measured.place("training", ".json")
    there = path.exists() and not arguments.anew
    networks = json.loads(path.read_text())["networks"] if there else {}
    for name in arguments.networks:
        if name in networks:
            continue
        words = ["--alone", name, "--repeats", arguments.repeats]
        networks[name] = measured.in_child(__file__, words)
        content = {**measured.circumstances(), "networks": networks}
        measured.write("training", page(content), content)


if __name__ == "__main__":
    main()
