"""Convolutions of small maps: XLA's on this device, and as `scoring.lowering` computes them.

    python experiments/benchmarks/small_maps.py [--repeats 7]

Prints the milliseconds of a 3 x 3 convolution and of its gradient for square maps of several sizes,
and of a 1 x 1 convolution for maps of usual size, medians of calls that take turns, and writes
`experiments/results/small_maps/<device>.md`. The ratios stand for the forward pass and the gradient
together.
"""

import argparse
import platform
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxprune.scoring import lowering
from jaxprune.scoring.lowering import convolutions

RESULTS = Path(__file__).resolve().parents[1] / "results" / "small_maps"
CASES = [
    *((3, size, channels) for size in (1, 2, 3, 4) for channels in (32, 128, 512)),
    *((1, size, channels) for size, channels in ((8, 512), (16, 128), (32, 32))),
]
"""Positions of the kernel's side, positions of the map's, and channels before and after."""
IMAGES = (64, 256)


def convolve(x, kernel):
    """A convolution that keeps the map's size."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def equation(x, kernel):
    """The convolution as JAX writes it down."""
    return jax.make_jaxpr(convolve)(x, kernel).eqns[0]


def as_products(x, kernel):
    """The same as products of matrices, whatever the size of the map."""
    return lowering.by_positions(equation(x, kernel), x, kernel)


def as_one_product(x, kernel):
    """The same as one product with an unrolled kernel."""
    return lowering.by_one_product(equation(x, kernel), x, kernel)


def milliseconds(calls, repeats):
    """The median of each call; they take turns, and the first round is left out."""
    seconds = [[] for _ in calls]
    for number in range(repeats + 1):
        for call, taken in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(call())
            if number:
                taken.append(time.perf_counter() - start)
    return [1e3 * statistics.median(taken) for taken in seconds]


def row(images, window, size, channels, repeats):
    """One line of the table."""
    x = jax.random.normal(jax.random.key(0), (images, size, size, channels))
    kernel = jax.random.normal(jax.random.key(1), (window, window, channels, channels))

    def both(function):
        forward = jax.jit(function)
        gradient = jax.jit(jax.grad(lambda *args: jnp.square(function(*args)).sum(), (0, 1)))
        return lambda: forward(x, kernel), lambda: gradient(x, kernel)

    ways = [convolve, as_products]
    if all(dimension.full for dimension in convolutions.ordinary(equation(x, kernel))):
        ways.append(as_one_product)
    times = milliseconds([call for way in ways for call in both(way)], repeats)
    sums = [forward + gradient for forward, gradient in zip(times[::2], times[1::2], strict=True)]
    sides = [f"{side} x {side}" for side in (window, size)]
    missing = [""] * (6 - len(times))
    ratios = [f"{sums[0] / both:.1f}" for both in sums[1:]] + [""] * (3 - len(sums))
    cells = [*sides, str(channels), *(f"{ms:.2f}" for ms in times), *missing, *ratios]
    return f"| {images} | {' | '.join(cells)} |"


def main():
    """Measures, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    rows = [row(images, *case, options.repeats) for images in IMAGES for case in CASES]
    command = " ".join(["python experiments/benchmarks/small_maps.py", *sys.argv[1:]])
    text = "\n".join(
        [
            "# Convolutions of small maps",
            "",
            f"`{command}`: {jax.devices()[0].device_kind} {platform.machine()},",
            f"jax {jax.__version__}, Python {platform.python_version()}. Milliseconds, medians;",
            "`scoring.lowering` takes products where maps are smaller than the kernel, and where",
            "the kernel has one position. They are one for each position of the kernel; or one in",
            "all with a kernel that is unrolled, where each output reads each input and there are",
            f"at most {convolutions.ENTRIES_FOR_EACH:,} entries of it for each image.",
            "",
            "| images | kernel | map | channels | XLA | gradient | products | gradient "
            "| one product | gradient | XLA / products | XLA / one product |",
            "| --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
            *rows,
            "",
        ]
    )
    print(text)
    device = jax.devices()[0].device_kind.lower().replace(" ", "_")
    (RESULTS / f"{device}.md").write_text(text)


if __name__ == "__main__":
    main()
