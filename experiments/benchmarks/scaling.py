"""What a candidate costs against their number, what is left, the network's size, and devices.

    python experiments/benchmarks/scaling.py [--repeats 5]

Candidates are drawn as in `candidates.py` and scored in two ways that take turns: at full width
(`scoring.evaluation`), in one compiled call, and at their own widths (`scoring.own_widths`), which
follow what is left of each. Of four things one is changed at a time:

- K, the candidates of a call, which lack 80 % of the parameters;
- the part of the parameters that is left;
- the parameters of the dense network, an MLP of two equal layers, of which 80 % are removed;
- the devices that a call's candidates are divided among (`scoring.devices`), at full width. A
  CPU passes for eight of them in a process of its own. They share its cores, so the time cannot
  fall with their number; what each of them computes, counted in its compiled program, must.

Each call is made once before it is timed, so that nothing is compiled meanwhile. Medians are shown,
quartiles are in the JSON. PyTorch, whose version is stated on every page, must be installed. Writes
`experiments/results/scaling/<device>.png`, `.json` and `.md`.
"""

import argparse
import json
import math
import re
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import measured
import numpy as np
from candidates import Drawn, candidates, pose, without
from matplotlib.axes import Axes

from jaxprune import costs, importance, masked
from jaxprune.costs import within_groups
from jaxprune.networks import bundled
from jaxprune.scoring import devices
from jaxprune.scoring.evaluation import evaluate
from jaxprune.scoring.own_widths import evaluator

REMOVED = 0.8
COUNTS = {"lenet300": (1, 2, 4, 8, 16, 32, 64, 128, 256), "vgg11": (1, 2, 4, 8, 16)}
IMAGES = {"lenet300": 1000, "vgg11": 64}
SHAPES = {"lenet300": (28, 28, 1), "vgg11": (32, 32, 3)}
LEFT = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02)
TOGETHER = {"lenet300": 16, "vgg11": 4}
"""Candidates of a call where their number is not what changes."""
WIDTHS = (64, 128, 256, 512, 1024, 2048)
DEVICES = (1, 2, 4, 8)
DIVIDED = 64
"""Candidates that are divided among devices."""
WAYS = ("full width", "own widths")
COLOURS = ("#0072B2", "#D55E00")
"""Blue and vermilion, which the colour-blind tell apart (Okabe and Ito, 2008)."""

Point = dict[str, Any]
"""One setting: the number that is changed, and for each way a list of seconds."""


# -------------------------------------------------------------------------------- what is measured


def seconds(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of calls that take turns, after each has been made once."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    return times


def masks_of(posed: Drawn, removed: float, count: int) -> np.ndarray:
    """Candidates that lack a part of the parameters on average, `[count, N]`."""
    sizes = tuple(group.size for group in posed.structure.groups)
    rank = np.asarray(within_groups.rank(sizes, importance.l1(posed.structure, posed.variables)))
    return candidates(posed.structure, rank, removed, count, most=1.3)


def both_ways(posed: Drawn) -> Callable[[np.ndarray], dict[str, Callable[[], object]]]:
    """What scores masks `[K, N]` at full width, and at their own widths."""
    apply, structure = posed.network.apply, posed.structure
    masked_apply = masked(apply, structure)
    scores = importance.l1(structure, posed.variables)
    own_widths = evaluator(apply, structure, posed.variables, posed.x, posed.y, importance=scores)

    def calls(masks: np.ndarray) -> dict[str, Callable[[], object]]:
        on_device = structure.unflatten(jnp.asarray(masks))
        return {
            "full width": lambda: np.asarray(
                evaluate(masked_apply, posed.variables, on_device, posed.x, posed.y).loss
            ),
            "own widths": lambda: own_widths(masks).loss,
        }

    return calls


def against_number(name: str, repeats: int) -> list[Point]:
    """Seconds of a call against the candidates in it."""
    posed = pose(bundled.build(name, SHAPES[name]), SHAPES[name], IMAGES[name])
    calls = both_ways(posed)
    masks = masks_of(posed, REMOVED, max(COUNTS[name]))
    return [
        {"x": count, "seconds": seconds(calls(masks[:count]), repeats)} for count in COUNTS[name]
    ]


def against_left(name: str, repeats: int) -> list[Point]:
    """Seconds of a candidate against the part of the parameters that is left."""
    posed = pose(bundled.build(name, SHAPES[name]), SHAPES[name], IMAGES[name])
    calls = both_ways(posed)
    points = []
    for left in LEFT:
        masks = masks_of(posed, 1 - left, TOGETHER[name])
        points.append(
            {
                "x": 1 - without(posed.structure, masks),
                "seconds": each(seconds(calls(masks), repeats), len(masks)),
            }
        )
    return points


def against_size(repeats: int) -> list[Point]:
    """Seconds of a candidate against the parameters of the dense network."""
    points = []
    for width in WIDTHS:
        posed = pose(mlp(width), SHAPES["lenet300"], IMAGES["lenet300"])
        masks = masks_of(posed, REMOVED, TOGETHER["lenet300"])
        points.append(
            {
                "x": costs.dense(posed.structure, "params"),
                "seconds": each(seconds(both_ways(posed)(masks), repeats), len(masks)),
            }
        )
    return points


def mlp(width: int) -> bundled.Network:
    """Two layers of one width on images of 28 x 28."""
    module = bundled.MLP((width, width))

    def init(key: jax.Array) -> dict[str, Any]:
        return dict(module.init(key, jnp.zeros((1, math.prod(SHAPES["lenet300"])))))

    def apply(variables: dict[str, Any], x: jax.Array) -> Any:
        return module.apply(variables, x)

    def apply_train(variables: dict[str, Any], x: jax.Array) -> Any:
        return apply(variables, x), {}

    return bundled.Network(init, apply, apply_train, f"mlp of {width}", module, flat=True)


def each(times: dict[str, list[float]], count: int) -> dict[str, list[float]]:
    """Seconds of a call as seconds of one of its candidates."""
    return {way: [one / count for one in of_way] for way, of_way in times.items()}


def against_devices(repeats: int) -> list[Point]:
    """Seconds of a call and candidates that a device scores in it, where JAX sees eight devices."""
    name = "lenet300"
    posed = pose(bundled.build(name, SHAPES[name]), SHAPES[name], IMAGES[name])
    apply = masked(posed.network.apply, posed.structure)
    masks = posed.structure.unflatten(jnp.asarray(masks_of(posed, REMOVED, DIVIDED)))
    given = (apply, posed.variables, masks, posed.x, posed.y)
    calls, trips = {}, {}
    for count in DEVICES:
        mesh = devices.make_mesh(count)
        program = evaluate.lower(*given, chunk=1, mesh=mesh).compile()
        # The longest loop is the one over the candidates.
        found = re.findall(r'"known_trip_count":{"n":"(\d+)"', program.as_text())
        trips[count] = max(map(int, found))
        calls[str(count)] = lambda mesh=mesh: np.asarray(evaluate(*given, chunk=1, mesh=mesh).loss)
    times = seconds(calls, repeats)
    macs = costs.dense(posed.structure, "macs") * IMAGES[name]
    return [
        {
            "x": count,
            "seconds": {"full width": times[str(count)]},
            "candidates_per_device": trips[count],
            "multiply_adds_per_device": trips[count] * macs,
        }
        for count in DEVICES
    ]


def in_child(repeats: int) -> list[Point]:
    """`against_devices` in a process in which the CPU passes for eight devices."""
    environment = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={max(DEVICES)}",
    }
    words = ["--only-devices", "--repeats", repeats]
    return measured.in_child(__file__, words, environment)


# ---------------------------------------------------------------------------------------- the page


def medians(points: Sequence[Point], way: str) -> list[float]:
    """The median seconds of a way at each point."""
    return [statistics.median(point["seconds"][way]) for point in points]


def with_quartiles(points: Sequence[Point]) -> list[Point]:
    """Points with the quartiles of each way's seconds."""
    return [
        point
        | {"quartiles": {way: statistics.quantiles(s, n=4) for way, s in point["seconds"].items()}}
        for point in points
    ]


def draw_ways(axes: Axes, results: dict[str, list[Point]]) -> None:
    """One line for each network and way."""
    for (name, points), marker in zip(results.items(), "os", strict=False):
        for way, colour, style in zip(WAYS, COLOURS, ("-", "--"), strict=True):
            label = f"{name}, {way}"
            x = [point["x"] for point in points]
            axes.plot(x, medians(points, way), style, marker=marker, color=colour, label=label)


def draw_reference(axes: Axes, x: Sequence[float], start: float, slope: int) -> None:
    """A thin line of a slope through (x[0], start)."""
    y = [start * (one / x[0]) ** slope for one in x]
    axes.plot(x, y, ":", color="0.4", linewidth=0.8, label=f"slope {slope}")


def figure(results: dict[str, Any]) -> plt.Figure:
    """The four panels."""
    drawn, panels = plt.subplots(2, 2, figsize=(10, 8), layout="constrained")
    labels = {
        "number": ("candidates in a call", "seconds a call"),
        "left": ("part of the parameters left", "seconds a candidate"),
        "size": ("parameters of the dense network", "seconds a candidate"),
    }
    for axes, (what, (x_label, y_label)) in zip(panels.flat, labels.items(), strict=False):
        draw_ways(axes, results[what])
        points = next(iter(results[what].values()))
        x = sorted(point["x"] for point in points)
        if what == "left":
            # Both lines meet where nothing is removed; from there what is left goes down.
            x.reverse()
        draw_reference(axes, x, _at(points, x[0]), 1)
        axes.set(xscale="log", yscale="log", xlabel=x_label, ylabel=y_label)
    axes, points = panels[1, 1], results["devices"]["lenet300"]
    x, times = [point["x"] for point in points], medians(points, "full width")
    work = [point["multiply_adds_per_device"] for point in points]
    draw_reference(axes, x, 1.0, -1)
    axes.plot(x, [t / times[0] for t in times], "-o", color=COLOURS[0], label="time of a call")
    relative = [one / work[0] for one in work]
    axes.plot(x, relative, "s", color=COLOURS[1], label="multiply-adds a device")
    axes.set(xscale="log", yscale="log", xlabel="devices", ylabel="relative to one device")
    axes.set_xticks(x, [str(one) for one in x], minor=False)
    axes.set_yticks([1 / one for one in x], [f"1/{one}" if one > 1 else "1" for one in x])
    axes.minorticks_off()
    for axes in panels.flat:
        axes.grid(which="major", linewidth=0.3)
        axes.legend(fontsize=8)
    return drawn


def _at(points: Sequence[Point], x: float) -> float:
    """The median seconds at full width at one of the points."""
    return next(m for p, m in zip(points, medians(points, WAYS[0]), strict=True) if p["x"] == x)


def table(results: dict[str, list[Point]], changed: str, unit: str) -> str:
    """Points as a Markdown table, medians in milliseconds."""
    lines = [
        f"| network | {changed} | full width, ms a {unit} | own widths, ms a {unit} | ratio |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, points in results.items():
        columns = (medians(points, way) for way in WAYS)
        for point, full, own in zip(points, *columns, strict=True):
            x = f"{point['x']:,}" if isinstance(point["x"], int) else f"{point['x']:.3f}"
            lines.append(
                f"| {name} | {x} | {1e3 * full:.2f} | {1e3 * own:.2f} | {full / own:.2f} |"
            )
    return "\n".join(lines)


def devices_table(points: Sequence[Point]) -> str:
    """What devices do as a Markdown table."""
    lines = [
        "| devices | ms a call | candidates a device | billion multiply-adds a device |",
        "|--:|--:|--:|--:|",
    ]
    for point, median in zip(points, medians(points, "full width"), strict=True):
        lines.append(
            f"| {point['x']} | {1e3 * median:.1f} | {point['candidates_per_device']} "
            f"| {point['multiply_adds_per_device'] / 1e9:.3f} |"
        )
    return "\n".join(lines)


def page(about: dict[str, Any], results: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    images = " and ".join(f"{count:,} images for {name}" for name, count in IMAGES.items())
    together = " and ".join(f"{count} for {name}" for name, count in TOGETHER.items())
    return (
        "# What a candidate costs\n\n"
        f"{measured.in_words(about)}\n"
        f"Medians, compilation excluded; {images}. Ratio: full width's time by own widths'.\n\n"
        f"![Four log-log panels]({measured.device_name()}.png)\n\n"
        f"## Against the candidates in a call\n\nThey lack {100 * REMOVED:.0f} % of the "
        f"parameters.\n\n{table(results['number'], 'candidates', 'call')}\n\n"
        "## Against what is left\n\n"
        f"Candidates in a call: {together}; the first lack one channel of each group.\n\n"
        f"{table(results['left'], 'part of the parameters left', 'candidate')}\n\n"
        f"## Against the size of the network\n\nMLPs of two layers of "
        f"{', '.join(map(str, WIDTHS))} neurons, {TOGETHER['lenet300']} candidates in a call\nthat "
        f"lack {100 * REMOVED:.0f} % of the parameters.\n\n"
        f"{table(results['size'], 'parameters', 'candidate')}\n\n"
        f"## Against devices\n\n{DIVIDED} candidates of lenet300 in a call, at full width. The "
        "devices are one CPU's and share its\ncores: that the time does not fall says nothing of "
        "devices that are really several.\n\n"
        f"{devices_table(results['devices']['lenet300'])}\n"
    )


def main() -> None:
    """Measures, prints the tables and writes them and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=measured.several, default=5)
    parser.add_argument("--only-devices", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only_devices:
        print(json.dumps(against_devices(arguments.repeats)))
        return
    matplotlib.use("Agg")
    repeats = arguments.repeats
    results = {
        "number": {name: against_number(name, repeats) for name in COUNTS},
        "left": {name: against_left(name, repeats) for name in TOGETHER},
        "size": {"mlp": against_size(repeats)},
        "devices": {"lenet300": in_child(repeats)},
    }
    about = measured.circumstances()
    picture = measured.place("scaling", ".png")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure(results).savefig(picture, dpi=150)
    content = {
        what: {name: with_quartiles(points) for name, points in of_networks.items()}
        for what, of_networks in results.items()
    }
    measured.write("scaling", page(about, results), about | content)


if __name__ == "__main__":
    main()
