"""How long the first result takes: from a fresh process to a smaller network and its first output.

    python experiments/benchmarks/first_result.py [--repeats 5] [--networks resnet50 vgg16]

ResNet-50 for images of 224 x 224 pixels and VGG-16 for 32 x 32, with random weights, lose half of
their multiply-adds by the L1 norms of their filters, compared over all layers. Each measurement is
a process of its own, in which nothing has been compiled, and is made of the steps that
`jaxprune.prune` consists of, after the imports; then the smaller network is called with one image,
which compiles it. The programs that are compiled in each step are counted.

Beside it stands Torch-Pruning on the same network in PyTorch, used as its README says: making the
pruner, which runs the network on one image and finds what depends on what, then one step of it,
which scores and removes. It takes a fraction of channels in place of a budget; the page says what
is left of the multiply-adds on both sides.

The two take turns. Needs the extra `bench`. Writes
`experiments/results/first_result/<device>.json` and `.md`.
"""

# Frameworks are imported where they are timed, and nowhere before.
import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

SIZES = {"resnet50": 224, "vgg16": 32}
"""{network: pixels of a side of its images}."""
CLASSES = {"resnet50": 1000, "vgg16": 10}
BUDGET = 0.5
"""What jaxprune leaves of the multiply-adds."""
FRACTION = 0.3
"""Of the channels, which Torch-Pruning removes: with all layers alike, (1 - 0.3)^2 = 0.49 stays."""
WAYS = ("jaxprune", "torch_pruning")
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "torch-pruning")
BLOCKS, WIDTHS = (3, 4, 6, 3), (64, 128, 256, 512)  # ResNet-50


class Steps:
    """Seconds of each step of this process, on the clock and of its processors, and programs."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.busy: dict[str, float] = {}
        self.programs: dict[str, int] = {}
        self._compiled = 0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Times what is done inside."""
        before, busy, start = self._compiled, time.process_time(), time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        self.busy[name] = time.process_time() - busy
        self.programs[name] = self._compiled - before

    def listen(self, event: str, _: float, **__: Any) -> None:
        """Counts the programs that JAX reports."""
        self._compiled += event == "/jax/core/compile/backend_compile_duration"


def with_jaxprune(name: str) -> dict[str, Any]:
    """The steps of this package, in this process."""
    step = Steps()
    with step("import framework"):
        import jax

        jax.devices()
    jax.monitoring.register_event_duration_secs_listener(step.listen)
    with step("import package"):
        import jaxprune
        from jaxprune import costs, importance

        assert jaxprune.prune
    import numpy as np

    module, size = flax_network(name), SIZES[name]
    x = np.zeros((1, size, size, 3), np.float32)
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    params = jax.device_put(
        jax.tree.map(lambda s: draw.standard_normal(s.shape, np.float32) / 64, shapes)
    )
    jax.block_until_ready(params)

    with step("dependencies"):
        structure = jaxprune.trace(module.apply, params, x)
    with step("importance"):
        scores = importance.score("l1", structure, module.apply, params, x)
    with step("selection"):
        masks = jaxprune.select(structure, scores, "macs", BUDGET)
    with step("compaction"):
        small = jaxprune.compact(module.apply, structure, params, masks)
        jax.block_until_ready(small.params)
    with step("first call"):
        jax.block_until_ready(small(small.params, x))
    return {
        "seconds": step.seconds,
        "busy": step.busy,
        "programs": step.programs,
        "params": costs.dense(structure, "params"),
        "left": costs.exact(structure, masks, "macs") / costs.dense(structure, "macs"),
    }


def flax_network(name: str) -> Any:
    """VGG-16 as it is bundled, or ResNet-50 with the stem for large images."""
    from flax import linen as nn

    from jaxprune.networks.bundled.resnet import Block
    from jaxprune.networks.bundled.vgg import STAGES, VGG

    if name == "vgg16":
        return VGG(STAGES[16], CLASSES[name])

    class ResNet50(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = nn.Conv(64, (7, 7), 2, padding=3, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
            x = nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
            for stage, (blocks, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True)):
                for block in range(blocks):
                    stride = 2 if stage and not block else 1
                    x = Block(width, stride, not block, bottleneck=True)(x, False)
            return nn.Dense(CLASSES[name])(x.mean((1, 2)))

    return ResNet50()


def with_torch_pruning(name: str) -> dict[str, Any]:
    """The steps of Torch-Pruning, in this process."""
    step = Steps()
    with step("import framework"):
        import torch
    with step("import package"):
        import torch_pruning
    torch.manual_seed(0)
    network = torch_network(name).eval()
    x = torch.zeros(1, 3, SIZES[name], SIZES[name])
    whole, params = torch_pruning.utils.count_ops_and_params(network, x)

    with step("dependencies"):
        pruner = torch_pruning.pruner.MagnitudePruner(
            network,
            x,
            importance=torch_pruning.importance.MagnitudeImportance(p=1),
            pruning_ratio=FRACTION,
            ignored_layers=[network[-1]],
            global_pruning=True,
        )
    with step("importance, selection and compaction"):
        pruner.step()
    with step("first call"), torch.inference_mode():
        network(x)
    left, _ = torch_pruning.utils.count_ops_and_params(network, x)
    return {
        "seconds": step.seconds,
        "busy": step.busy,
        "params": params,
        "left": left / whole,
    }


def torch_network(name: str) -> Any:
    """The same network in PyTorch; its last layer is the classifier."""
    from torch import nn

    from jaxprune.networks.bundled.vgg import STAGES

    def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> list[Any]:
        layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
        return [layer, nn.BatchNorm2d(outputs)]

    class Bottleneck(nn.Module):
        def __init__(self, inputs: int, width: int, stride: int, projects: bool):
            super().__init__()
            self.layers = nn.Sequential(
                *convolution(inputs, width, 1),
                nn.ReLU(),
                *convolution(width, width, 3, stride),
                nn.ReLU(),
                *convolution(width, 4 * width, 1),
            )
            shortcut = convolution(inputs, 4 * width, 1, stride) if projects else []
            self.shortcut = nn.Sequential(*shortcut)

        def forward(self, x: Any) -> Any:
            return (self.layers(x) + self.shortcut(x)).relu()

    layers: list[Any] = []
    if name == "vgg16":
        channels = 3
        for widths in STAGES[16]:
            for width in widths:
                layers += [*convolution(channels, width, 3), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
    else:
        layers = [*convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        channels = 64
        for stage, (blocks, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True)):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers.append(Bottleneck(channels, width, stride, projects=not block))
                channels = 4 * width
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *pooled, nn.Linear(channels, CLASSES[name]))


PRUNING = ("dependencies", "importance", "selection", "compaction")
ONE_STEP = "importance, selection and compaction"


def page(about: Mapping[str, Any], found: Mapping[str, Mapping[str, Sequence[Any]]]) -> str:
    """The measurements as Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    parts = [
        "# The first result\n",
        f"`{about['command']}`, {about['device']}, {versions}.\n",
        "Seconds in a fresh process, medians (least - most), and in the last columns those that\n"
        "its processors were busy, which other programs on the machine change less. Load of the\n"
        f"machine before and after: {about['load'][0]:.1f} and {about['load'][1]:.1f}.\n",
    ]
    for name, ways in found.items():
        parts += [*_of_network(name, ways), ""]
    return "\n".join(parts)


def _of_network(name: str, ways: Mapping[str, Sequence[Any]]) -> list[str]:
    ours, theirs = (ways[way] for way in WAYS)

    def taken(measured: Sequence[Any], steps: Sequence[str], kind: str = "seconds") -> str:
        values = [sum(v for step, v in one[kind].items() if step in steps) for one in measured]
        if not any(values):
            return ""
        spread = f" ({min(values):.2f} - {max(values):.2f})" if kind == "seconds" else ""
        return f"{statistics.median(values):.2f}{spread}"

    def row(what: str, steps: Sequence[str], counted: str) -> str:
        cells = [taken(ours, steps), counted, taken(theirs, steps)]
        cells += [taken(way, steps, "busy") for way in (ours, theirs)]
        return f"| {what} | {' | '.join(cells)} |"

    def programs(steps: Sequence[str]) -> int:
        return max(sum(one["programs"][step] for step in steps) for one in ours)

    lines = [
        f"## {name}, {SIZES[name]} x {SIZES[name]}, {ours[0]['params']:,} parameters\n",
        "| | jaxprune | programs compiled | Torch-Pruning | jaxprune, busy | Torch-Pruning, busy |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    every = tuple(ours[0]["seconds"])
    for step in every:
        lines.append(row(step, [step], str(programs([step]))))
        if step == PRUNING[-1]:
            lines.append(row("the last three, in one step", [ONE_STEP], ""))
    for what, steps in (
        ("**pruned, without imports**", (*PRUNING, ONE_STEP)),
        ("**pruned and called, without imports**", (*PRUNING, ONE_STEP, "first call")),
        ("**all**", (*every, ONE_STEP)),
    ):
        known = [step for step in steps if step in every]
        lines.append(row(what, steps, str(programs(known))))
    left = [statistics.median(one["left"] for one in ways[way]) for way in WAYS]
    lines.append(
        f"\nOf the multiply-adds {100 * left[0]:.0f} % are left by jaxprune and "
        f"{100 * left[1]:.0f} % by Torch-Pruning."
    )
    return lines


def main() -> None:
    """Measures, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--networks", nargs="+", choices=tuple(SIZES), default=list(SIZES))
    parser.add_argument("--alone", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        alone = with_jaxprune if options.alone == WAYS[0] else with_torch_pruning
        print(json.dumps(alone(options.networks[0])))
        return
    import measured

    load = [os.getloadavg()[0]]
    found: dict[str, dict[str, list[Any]]] = {}
    for name in options.networks:
        found[name] = {way: [] for way in WAYS}
        for _ in range(options.repeats):
            for way in WAYS:
                words = ["--alone", way, "--networks", name]
                found[name][way].append(measured.in_child(__file__, words))
        params = {one["params"] for way in WAYS for one in found[name][way]}
        if len(params) > 1:
            raise SystemExit(f"{name} is not the same network twice: {params} parameters")
    load.append(os.getloadavg()[0])
    about = {**measured.circumstances(PACKAGES), "load": load}
    measured.write("first_result", page(about, found), {**about, "found": found})


if __name__ == "__main__":
    main()
