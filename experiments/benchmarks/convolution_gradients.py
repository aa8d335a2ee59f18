"""Convolutions and their gradients on one core: XLA's own, and as `scoring.lowering` has them.

    python experiments/benchmarks/convolution_gradients.py [--repeats 5]

Milliseconds of processor time for a convolution and its gradients with respect to its kernel and to
its images, alone and inside a loop: the best of calls that take turns. Processor time on a single
core is lengthened little by other programs on the machine. Both must give the same numbers. Writes
`experiments/results/convolution_gradients/<device>.md` and `.json`.
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measured
import numpy as np
from jax import lax

from jaxprune.scoring.lowering import lower


class Case(NamedTuple):
    """A convolution that keeps the size of square maps.

    Attributes:
        images: how many images.
        size: positions of the map's side.
        channels: before it.
        filters: channels after it.
        kernel: positions of the kernel's side.
        groups: of channels.
        looped: whether it is also measured inside a loop, where XLA may take seconds.
    """

    images: int
    size: int
    channels: int
    filters: int
    kernel: int = 3
    groups: int = 1
    looped: bool = False


MEASURED = {"result": "result", "kernel": "kernel's gradient", "images": "images' gradient"}
CASES = (
    Case(128, 32, 3, 16),
    Case(128, 32, 7, 7),
    Case(128, 32, 16, 16),
    Case(128, 16, 32, 32),
    Case(128, 8, 64, 64),
    Case(64, 32, 64, 64),
    Case(64, 16, 128, 128),
    Case(64, 8, 256, 256),
    Case(64, 4, 512, 512),
    Case(128, 28, 6, 16, kernel=5),
    Case(16, 16, 16, 16, looped=True),
    Case(16, 8, 64, 64, looped=True),
    Case(16, 4, 128, 128, looped=True),
    Case(32, 8, 64, 64, groups=4),
    Case(32, 16, 64, 64, groups=64),
)


def convolution(case: Case) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The convolution as JAX has it."""
    return lambda x, kernel: lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=case.groups,
    )


def parts(function: Callable, looped: bool) -> tuple[Callable, ...]:
    """Jitted: the result and the gradients, each from `(x, kernel, of_result)`."""

    def result(x, kernel, of_result):
        return function(x, kernel)

    def of_kernel(x, kernel, of_result):
        return jax.vjp(lambda kernel: function(x, kernel), kernel)[1](of_result)[0]

    def of_images(x, kernel, of_result):
        return jax.vjp(lambda x: function(x, kernel), x)[1](of_result)[0]

    def once(gradient):
        return lambda x, *others: lax.map(lambda x: gradient(x, *others), x[None])[0]

    return tuple(jax.jit(once(p) if looped else p) for p in (result, of_kernel, of_images))


def measure(case: Case, looped: bool, repeats: int) -> dict[str, Any]:
    """The best milliseconds of each part, XLA's and ours."""
    draw = np.random.default_rng(0).standard_normal
    square = (case.images, case.size, case.size)
    shapes = (
        (*square, case.channels),
        (case.kernel, case.kernel, case.channels // case.groups, case.filters),
        (*square, case.filters),
    )
    operands = [jnp.asarray(draw(shape), jnp.float32) for shape in shapes]
    own = convolution(case)
    ways = [parts(fn, looped) for fn in (own, lower(own, differentiated=True))]
    for xla, ours in zip(*ways, strict=True):
        expected = np.asarray(xla(*operands))
        scale = float(np.abs(expected).max())
        np.testing.assert_allclose(np.asarray(ours(*operands)), expected, atol=1e-4 * scale)
    names = [f"{way}, {of}" for way in ("XLA", "ours") for of in MEASURED]
    calls = dict(zip(names, [call for way in ways for call in way], strict=True))
    taken: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.process_time()
            jax.block_until_ready(call(*operands))
            taken[name].append(1e3 * (time.process_time() - start))
    return {**case._asdict(), "looped": looped, "ms": {n: min(t) for n, t in taken.items()}}


def page(about: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The measurements as Markdown."""
    lines = [
        "# Gradients of convolutions",
        "",
        measured.in_words(about),
        "On one core; milliseconds of processor time, the best of several calls.",
        "",
        "| | images | map | channels | groups "
        + "".join(f"| {what}: XLA | ours | XLA / ours " for what in MEASURED.values())
        + "|",
        "|---|--:|--:|--:|--:" + "|--:|--:|--:" * len(MEASURED) + "|",
    ]
    for row in rows:
        ms, size, kernel = row["ms"], row["size"], row["kernel"]
        cells = [
            "in a loop" if row["looped"] else "alone",
            str(row["images"]),
            f"{size} x {size}",
            f"{kernel} x {kernel}, {row['channels']} -> {row['filters']}",
            str(row["groups"]),
        ]
        for of in MEASURED:
            xla, ours = ms[f"XLA, {of}"], ms[f"ours, {of}"]
            cells += [f"{xla:.1f}", f"{ours:.1f}", f"{xla / ours:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measures, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=measured.several, default=5)
    arguments = parser.parse_args()
    # Before XLA counts the cores.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows = []
    for case in CASES:
        for looped in (False, True) if case.looped else (False,):
            rows.append(measure(case, looped, arguments.repeats))
    about = measured.circumstances()
    measured.write("convolution_gradients", page(about, rows), {**about, "rows": rows})


if __name__ == "__main__":
    main()
