"""Candidates a second on a GPU: masks of VGG-16 scored together, beside PyTorch one by one.

    python experiments/benchmarks/candidates_on_device.py [--together 1 8 64] [--images 1000]

Half of each layer's channels, drawn at random, are removed. This package scores the masked network
on all images, 1, 8 or 64 candidates in a call of `jaxprune.scoring.evaluation.evaluate`; PyTorch
scores networks without the removed filters, one after another, made beforehand. Both compute in
bfloat16, with the images on the device; PyTorch keeps channels last and may try its convolutions
out. Before anything is timed, the losses are compared. The share of the matrix product counts the
dense network's multiply-adds, which the masked one computes, against a product of bfloat16 matrices
of 8,192 x 8,192 (2,048 on a CPU). Writes
`experiments/results/candidates_on_device/<device>.json` and `.md`.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import measured
import numpy as np
import torch
from candidates import torch_network

from jaxprune import compact, costs, masked, trace
from jaxprune.networks import bundled
from jaxprune.scoring.evaluation import evaluate

REPEATS = 7
ALIKE = 0.05
"""Relative difference of the losses that bfloat16 may make."""


def narrow(tree: Any) -> Any:
    """The weights as bfloat16; BatchNorm's statistics as they are."""
    return {
        name: jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), part)
        if name == "params"
        else part
        for name, part in tree.items()
    }


def seconds(call: Callable[[], Any]) -> list[float]:
    """Measurements of a call that waits for its result, after a first one."""
    call()
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found


def matrix_product() -> float:
    """Multiply-adds a second of a large product of bfloat16 matrices, the best of several."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((size, size), jnp.bfloat16)
    product = jax.jit(jnp.matmul)
    return size**3 / min(seconds(lambda: jax.block_until_ready(product(a, a))))


def measure(together: list[int], images: int) -> dict[str, Any]:
    """Seconds of each way, lists of measurements.

    Args:
        together: How many candidates are scored in a call.
        images: How many images each is scored on.
    """
    network = bundled.build("vgg16", (32, 32, 3))
    variables = network.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (images, 32, 32, 3))
    y = jax.random.randint(jax.random.key(2), (images,), 0, 10)
    structure = trace(network.apply, variables, x[:1])
    random = np.random.default_rng(0)
    halves = [
        {
            name: (random.permutation(len(full)) < len(full) // 2).astype(np.float32)
            for name, full in structure.full_masks().items()
        }
        for _ in range(max(together))
    ]
    stacked = {name: jnp.stack([half[name] for half in halves]) for name in halves[0]}
    masked_apply = masked(network.apply, structure)
    low, inputs = narrow(variables), x.astype(jnp.bfloat16)

    def ours(count: int) -> np.ndarray:
        masks = {name: mask[:count] for name, mask in stacked.items()}
        return np.asarray(evaluate(masked_apply, low, masks, inputs, y).loss)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    place = {"device": device, "dtype": torch.bfloat16, "memory_format": torch.channels_last}
    pixels = torch.tensor(np.moveaxis(np.asarray(x), -1, 1)).to(**place)
    labels = torch.tensor(np.asarray(y), dtype=torch.long, device=device)
    few = []
    for half in halves[:8]:
        small = compact(network.apply, structure, variables, half).params
        few.append(torch_network(small["params"], small["batch_stats"]).to(**place))

    def theirs() -> list[float]:
        return [
            float(torch.nn.functional.cross_entropy(net(pixels).float(), labels)) for net in few
        ]

    with torch.inference_mode():
        np.testing.assert_allclose(ours(len(few)), theirs(), rtol=ALIKE)
        beside = seconds(theirs)
    return {
        "images": images,
        "multiply_adds": costs.dense(structure, "macs") * images,
        "pytorch_on": str(device),
        "pytorch_seconds_per_candidate": [one / len(few) for one in beside],
        "seconds": {str(count): seconds(lambda count=count: ours(count)) for count in together},
    }


def page(about: dict[str, Any], found: dict[str, Any], peak: float) -> str:
    """The measurements as Markdown."""
    base = statistics.median(found["pytorch_seconds_per_candidate"])
    lines = [
        "| way | candidates in a call | candidates/s | x PyTorch | % of matrix product |",
        "|---|--:|--:|--:|--:|",
        f"| PyTorch on {found['pytorch_on']}, filters removed | 1 | {1 / base:.1f} | 1.00 | |",
    ]
    for count, times in found["seconds"].items():
        each = statistics.median(times) / int(count)
        share = found["multiply_adds"] / each / peak
        lines.append(
            f"| masked | {count} | {1 / each:.1f} | {base / each:.2f} | {100 * share:.1f} |"
        )
    table = "\n".join(lines)
    return (
        "# Candidates a second on a device\n\n"
        f"VGG-16 with half of each layer's channels, {found['images']:,} images, bfloat16;\n"
        f"medians of {REPEATS}. {measured.in_words(about)}\n"
        f"The matrix product makes {peak / 1e12:.2f} trillion multiply-adds a second.\n\n{table}\n"
    )


def main() -> None:
    """Measures, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--together", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    peak = matrix_product()
    found = measure(options.together, options.images)
    about = measured.circumstances()
    content = about | {"peak": peak, "results": found}
    measured.write("candidates_on_device", page(about, found, peak), content)


if __name__ == "__main__":
    main()
