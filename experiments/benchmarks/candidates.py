"""Candidates a second: masks of one network scored on one batch of images.

    python experiments/benchmarks/candidates.py [--repeats 7] [--networks lenet300 vgg16]

Candidates are drawn as the agents draw them: of each layer a part is removed that is normal around
one mean, the least important filters first. For candidates that lack one filter of each layer,
another one each, and for means with which 80 % and 90 % of the parameters go, the same candidates
are scored on the same images in these ways:

- full width: `evaluate` of `jaxprune.scoring.evaluation`, all candidates in one compiled call;
- own widths: `evaluator` of `scoring.own_widths`, all candidates in one call, widths rounded up, by
  as many threads as there are cores;
- PyTorch: the filters removed from a PyTorch network beforehand, one candidate after another;
- PyTorch, masked: the whole PyTorch network with the weights of removed filters zero;
- Torch-Pruning: the filters removed beforehand by the package of this name; and once more with
  the removal counted, which a search pays for every candidate;
- torch.compile: the first candidates' smaller PyTorch networks, compiled beforehand.

Before anything is timed, all must give the same losses. The ways take turns, so that a change of
the machine's speed meets them all; medians are printed. What the candidates' own widths need, in
multiply-adds, is given as a share of the fastest matrix product of this machine. Beside them stands
how long the first 200 candidates took at their own widths, in a process of their own and with all
that was compiled for them, and how long torch.compile takes for a network. PyTorch and
Torch-Pruning (the extra `bench`) must be installed. Writes
`experiments/results/candidates/<device>.json` and `.md`.
"""

import argparse
import contextlib
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measured
import numpy as np
import torch

from jaxprune import compact, costs, importance, masked, trace
from jaxprune.costs import within_groups
from jaxprune.dependency import Structure
from jaxprune.networks import bundled
from jaxprune.networks.bundled import Network
from jaxprune.scoring.evaluation import evaluate
from jaxprune.scoring.own_widths import evaluator
from jaxprune.scoring.own_widths.pieces import run

Case = tuple[tuple[int, int, int], int, int]
"""Shape of an image, how many images, how many candidates are timed together."""

CASES: dict[str, list[Case]] = {
    "lenet300": [((28, 28, 1), 1000, 16), ((28, 28, 1), 10_000, 16)],
    "vgg16": [((32, 32, 3), 256, 8)],
}
REMOVED = (0.0, 0.8, 0.9)
DEVIATION = 0.1
PAUSE = 0.3
"""Seconds before each measurement, in which the threads of the way before come to rest."""
MANY = 200
ROUND = 8
"""Candidates of one call while the first ones are timed, as in a round of an agent."""
COMPILED = 2
"""Candidates of a case that torch.compile is given: it takes seconds for each network."""
PACKAGES = (*measured.PACKAGES, "torch-pruning")


def torch_network(
    params: dict[str, Any], statistics_: dict[str, Any] | None
) -> torch.nn.Sequential:
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


def draw(
    structure: Structure, rank: np.ndarray, mean: Any, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Masks with a part of each layer removed that is normal around a mean."""
    sizes = np.array([group.size for group in structure.groups])
    parts = np.clip(rng.normal(mean, DEVIATION, (count, len(sizes))), 0, 0.98)
    removed = np.minimum(np.floor(parts * sizes + 0.5), sizes - 1)
    return (rank >= removed[:, structure.group_index]).astype(np.float32)


def candidates(
    structure: Structure, rank: np.ndarray, removed: float, count: int, most: float = 0.98
) -> np.ndarray:
    """Masks that remove a part of the parameters on average.

    Args:
        structure: the network's groups.
        rank: the order in which each group's channels go, `[N]`.
        removed: the part, below 1; 0: one channel of each group, another one in each mask.
        count: how many masks.
        most: the largest mean part of a layer. Above 1 nearly all layers lose as much as they can.
    """
    if removed == 0:
        sizes = np.array([group.size for group in structure.groups])[structure.group_index]
        return (rank != np.arange(count)[:, None] % sizes).astype(np.float32)
    low, high = 0.0, most
    for _ in range(12):
        mean = (low + high) / 2
        masks = draw(structure, rank, mean, count, np.random.default_rng(0))
        low, high = (mean, high) if without(structure, masks) < removed else (low, mean)
    return masks


def without(structure: Structure, masks: np.ndarray) -> float:
    """The part of the parameters that masks remove, on average."""
    dense = costs.dense(structure, "params")
    left = [costs.exact(structure, structure.unflatten(mask), "params") for mask in masks]
    return 1 - float(np.mean(left)) / dense


# ----------------------------------------------------------------------------------- what is scored


class Drawn(NamedTuple):
    """Candidates and what they are scored on.

    Attributes:
        network: the network.
        variables: its dense weights.
        structure: its groups.
        masks: the candidates, `[MANY, N]`.
        few: those of them that are timed together, `[K, N]`.
        x: images, `[B, ...]`.
        y: their classes, int `[B]`.
    """

    network: Network
    variables: dict[str, Any]
    structure: Structure
    masks: np.ndarray
    few: np.ndarray
    x: jax.Array
    y: jax.Array


def pose(network: Network, image_shape: Sequence[int], images: int) -> Drawn:
    """A network with random weights on random images, without candidates yet."""
    variables = network.init(jax.random.key(0))
    shape = (images, int(np.prod(image_shape))) if network.flat else (images, *image_shape)
    x = jax.random.normal(jax.random.key(1), shape)
    y = jax.random.randint(jax.random.key(2), (images,), 0, 10)
    structure = trace(network.apply, variables, x[:1])
    none = np.ones((0, structure.num_channels), np.float32)
    return Drawn(network, variables, structure, none, none, x, y)


def with_candidates(posed: Drawn, removed: float, together: int) -> Drawn:
    """Candidates that lack a part of the parameters on average."""
    structure = posed.structure
    sizes = tuple(group.size for group in structure.groups)
    rank = np.asarray(within_groups.rank(sizes, importance.l1(structure, posed.variables)))
    masks = candidates(structure, rank, removed, MANY)
    return posed._replace(masks=masks, few=masks[:together])


def prepare(name: str, number: int, removed: float) -> Drawn:
    """The candidates of a network's case, by its number, that lack a part of the parameters."""
    image_shape, images, together = CASES[name][number]
    posed = pose(bundled.build(name, image_shape), image_shape, images)
    return with_candidates(posed, removed, together)


# ------------------------------------------------------------------------- what is measured beside


def by_layer(structure: Structure, mask: np.ndarray) -> list[np.ndarray]:
    """Where each layer of a chain keeps its filters, one boolean array a layer."""
    sizes = [group.size for group in structure.groups]
    return np.split(mask > 0, np.cumsum(sizes)[:-1])


def weighted(network: torch.nn.Sequential) -> list[torch.nn.Module]:
    """The convolutions and fully connected layers whose filters may go: all but the last."""
    kinds = torch.nn.Linear | torch.nn.Conv2d
    return [module for module in network if isinstance(module, kinds)][:-1]


def zeroed(dense: torch.nn.Sequential, keep: Sequence[np.ndarray]) -> torch.nn.Sequential:
    """The whole network with the weights, biases, scales and shifts of removed filters zero."""
    network = copy.deepcopy(dense)
    layers, layer = weighted(network), -1
    for module in network:
        if module in layers:
            layer += 1
        elif not isinstance(module, torch.nn.BatchNorm2d):
            continue
        for weight in module.parameters():
            weight.data[torch.from_numpy(~keep[layer])] = 0
    return network


def removed_by_package(
    dense: torch.nn.Sequential, keep: Sequence[np.ndarray], example: torch.Tensor
) -> torch.nn.Sequential:
    """A copy of the network from which Torch-Pruning has removed filters."""
    import torch_pruning  # the rest of this file is used where it is not

    # The package follows the graph of gradients to find what depends on what.
    with torch.inference_mode(False):
        network = copy.deepcopy(dense)
        graph = torch_pruning.DependencyGraph().build_dependency(network, example)
        for layer, kept in zip(weighted(network), keep, strict=True):
            gone = np.flatnonzero(~kept).tolist()
            if not gone:
                continue
            if isinstance(layer, torch.nn.Linear):
                prune = torch_pruning.prune_linear_out_channels
            else:
                prune = torch_pruning.prune_conv_out_channels
            graph.get_pruning_group(layer, prune, idxs=gone).prune()
        return network


def compiled(
    networks: Sequence[torch.nn.Module], x: torch.Tensor
) -> tuple[list[Callable[[torch.Tensor], torch.Tensor]], list[float]]:
    """Networks by torch.compile, and the seconds that the first call of each took."""
    # What was compiled on another day must not be counted as quick.
    torch.compiler.config.force_disable_caches = True
    torch.compiler.reset()
    # The first network of a process waits for the compiler itself to be loaded.
    torch.compile(torch.nn.Linear(2, 2), dynamic=False)(torch.ones(1, 2))
    programs, seconds = [], []
    for network in networks:
        # A network that cannot be compiled whole is an error, not silently left as it is.
        program = torch.compile(network, dynamic=False, fullgraph=True)
        start = time.perf_counter()
        program(x)
        seconds.append(time.perf_counter() - start)
        programs.append(program)
    return programs, seconds


class Beside(NamedTuple):
    """What PyTorch scores the candidates with.

    Attributes:
        dense: the whole network.
        smaller: for each candidate the network without its removed filters.
        x: the images as PyTorch takes them.
        y: their classes.
    """

    dense: torch.nn.Sequential
    smaller: list[torch.nn.Sequential]
    x: torch.Tensor
    y: torch.Tensor


def beside(drawn: Drawn) -> Beside:
    """The same networks and images in PyTorch."""

    def network(variables: Any) -> torch.nn.Sequential:
        host = jax.tree.map(np.asarray, variables)
        return torch_network(host["params"], host.get("batch_stats"))

    apply, structure = drawn.network.apply, drawn.structure
    smaller = [
        network(compact(apply, structure, drawn.variables, structure.unflatten(mask)).params)
        for mask in drawn.few
    ]
    x = np.asarray(drawn.x)
    x = np.array(x if drawn.network.flat else np.transpose(x, (0, 3, 1, 2)), order="C")
    y = torch.from_numpy(np.array(drawn.y, np.int64))
    return Beside(network(drawn.variables), smaller, torch.from_numpy(x), y)


Way = Callable[[], Any]
"""Scores candidates: their losses."""


def torch_ways(drawn: Drawn, other: Beside) -> dict[str, Way]:
    """What needs no compiling in PyTorch."""
    keeps = [by_layer(drawn.structure, mask) for mask in drawn.few]
    whole = [zeroed(other.dense, keep) for keep in keeps]
    pruned = [removed_by_package(other.dense, keep, other.x[:1]) for keep in keeps]
    return {
        "PyTorch": lambda: scored(other.smaller, other),
        "PyTorch, masked": lambda: scored(whole, other),
        "Torch-Pruning": lambda: scored(pruned, other),
        "Torch-Pruning, removal included": lambda: scored(
            (removed_by_package(other.dense, keep, other.x[:1]) for keep in keeps), other
        ),
    }


def scored(networks: Any, other: Beside) -> list[float]:
    """The losses of networks, one after another; their accuracies are computed, too."""
    losses = []
    for network in networks:
        logits = network(other.x)
        losses.append(float(torch.nn.functional.cross_entropy(logits, other.y)))
        float((logits.argmax(-1) == other.y).float().mean())
    return losses


def removal_seconds(drawn: Drawn, other: Beside, repeats: int) -> list[float]:
    """Seconds that Torch-Pruning takes to make a network smaller, a mean over the candidates."""
    keeps = [by_layer(drawn.structure, mask) for mask in drawn.few]
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        for keep in keeps:
            removed_by_package(other.dense, keep, other.x[:1])
        seconds.append((time.perf_counter() - start) / len(keeps))
    return seconds


# -------------------------------------------------------------------------------- what is measured

PHASES = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "writing for XLA",
    "/jax/core/compile/backend_compile_duration": "XLA",
}


@contextlib.contextmanager
def compile_phases() -> Iterator[dict[str, float]]:
    """The seconds that all threads together spend in each phase of compiling, meanwhile."""
    seconds = dict.fromkeys(PHASES.values(), 0.0)

    def add(event: str, duration: float, **_: Any) -> None:
        if event in PHASES:
            seconds[PHASES[event]] += duration

    jax.monitoring.register_event_duration_secs_listener(add)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(add)


def our_ways(drawn: Drawn) -> dict[str, Way]:
    """The ways of this package."""
    masked_apply = masked(drawn.network.apply, drawn.structure)
    device_masks = drawn.structure.unflatten(jnp.asarray(drawn.few))
    scores = own_widths(drawn)

    return {
        "full width": lambda: np.asarray(
            evaluate(masked_apply, drawn.variables, device_masks, drawn.x, drawn.y).loss
        ),
        "own widths": lambda: scores(drawn.few).loss,
    }


def own_widths(drawn: Drawn) -> Callable[[Any], Any]:
    """What scores candidates at their own widths."""
    return evaluator(
        drawn.network.apply,
        drawn.structure,
        drawn.variables,
        drawn.x,
        drawn.y,
        importance=importance.l1(drawn.structure, drawn.variables),
    )


def score_all(drawn: Drawn, scores: Callable[[Any], Any]) -> float:
    """Scores all candidates in rounds; the seconds that it takes."""
    start = time.perf_counter()
    for first in range(0, MANY, ROUND):
        scores(drawn.masks[first : first + ROUND])
    return time.perf_counter() - start


def score_first(drawn: Drawn, scores: Callable[[Any], Any]) -> dict[str, Any]:
    """The same while everything is compiled for them, and what was."""
    run.clear_cache()
    with compile_phases() as phases:
        seconds = score_all(drawn, scores)
    return {"seconds": seconds, "programs": run._cache_size(), "phases": phases}


def first_candidates(name: str, number: int, removed: float) -> dict[str, Any]:
    """`score_first` in a process of its own, as a search is."""
    return measured.in_child(__file__, ["--first", name, number, removed])


def measure(name: str, number: int, removed: float, repeats: int, compile: bool) -> dict:
    """Seconds a candidate for each way, every one a list of `repeats` measurements.

    Args:
        name: of the network.
        number: of the case among the network's.
        removed: the part of the parameters that candidates lack.
        repeats: how often each way is measured.
        compile: whether torch.compile is.
    """
    # At one width nothing more is compiled.
    first = first_candidates(name, number, removed) if removed else None
    drawn = prepare(name, number, removed)
    structure, few, together = drawn.structure, drawn.few, len(drawn.few)
    other = beside(drawn)
    ways = our_ways(drawn) | torch_ways(drawn, other)
    counts = dict.fromkeys(ways, together)
    compile_seconds: list[float] = []
    with torch.inference_mode():
        if compile:
            these = other.smaller[:COMPILED]
            quick, compile_seconds = compiled(these, other.x)
            # The same candidates uncompiled: others may be larger.
            ways["PyTorch, the same few"] = lambda: scored(these, other)
            ways["torch.compile"] = lambda: scored(quick, other)
            counts |= {"PyTorch, the same few": len(these), "torch.compile": len(these)}
        expected = ways["PyTorch"]()
        for way, call in ways.items():
            np.testing.assert_allclose(call(), expected[: counts[way]], rtol=1e-4, err_msg=way)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(repeats):
            for way, call in ways.items():
                time.sleep(PAUSE)
                start = time.perf_counter()
                call()
                seconds[way].append((time.perf_counter() - start) / counts[way])
    macs = [costs.exact(structure, structure.unflatten(mask), "macs") for mask in few]
    return {
        "network": drawn.network.name,
        "images": len(drawn.y),
        "removed": float(without(structure, few)),
        "candidates": counts,
        "multiply_adds_per_candidate": {
            way: statistics.fmean(macs[:count]) * len(drawn.y) for way, count in counts.items()
        },
        "seconds_per_candidate": seconds,
        "first_seconds_per_candidate": first and first["seconds"] / MANY,
        "programs": first and first["programs"],
        "compile_phases": first and first["phases"],
        "torch_pruning_seconds_per_removal": removal_seconds(drawn, other, repeats),
        "torch_compile_seconds_per_network": compile_seconds,
    }


# ---------------------------------------------------------------------------------------- the page


def table(results: Sequence[dict[str, Any]], peak: float) -> str:
    """The measurements as a Markdown table.

    Args:
        results: what `measure` returned.
        peak: multiply-adds a second of the matrix product that they are a share of.
    """
    lines = [
        "| network | images | parameters removed | way | candidates/s (quartiles) | x PyTorch "
        f"| % of matrix product | x PyTorch, first {MANY} with compilation |",
        "|---|--:|--:|---|--:|--:|--:|--:|",
    ]
    for result in results:
        medians = {way: statistics.median(s) for way, s in result["seconds_per_candidate"].items()}
        for way, seconds in result["seconds_per_candidate"].items():
            base = medians["PyTorch, the same few" if way == "torch.compile" else "PyTorch"]
            low, median, high = statistics.quantiles(seconds, n=4)
            share = result["multiply_adds_per_candidate"][way] / median / peak
            first = ""
            if way == "own widths" and result["first_seconds_per_candidate"]:
                first = f"{base / result['first_seconds_per_candidate']:.2f}"
            ratio = "" if way == "PyTorch, the same few" else f"{base / median:.2f}"
            lines.append(
                f"| {result['network']} | {result['images']:,} | {result['removed']:.3f} | {way} "
                f"| {1 / median:.1f} ({1 / high:.1f} - {1 / low:.1f}) | {ratio} "
                f"| {100 * share:.1f} | {first} |"
            )
    return "\n".join(lines)


def preparation(results: Sequence[dict[str, Any]]) -> str:
    """What Torch-Pruning and torch.compile take for a network before it is scored, as a table."""
    lines = [
        "| network | images | parameters removed | Torch-Pruning, ms a removal "
        "| torch.compile, s a network |",
        "|---|--:|--:|--:|--:|",
    ]
    for result in results:
        removal = 1e3 * statistics.median(result["torch_pruning_seconds_per_removal"])
        compiling = result["torch_compile_seconds_per_network"]
        said = f"{statistics.fmean(compiling):.1f}" if compiling else "not run"
        lines.append(
            f"| {result['network']} | {result['images']:,} | {result['removed']:.3f} "
            f"| {removal:.1f} | {said} |"
        )
    return "\n".join(lines)


def compilation(results: Sequence[dict[str, Any]]) -> str:
    """What is compiled for the first candidates at their own widths, as a table."""
    lines = [
        f"| network | images | parameters removed | programs | s longer, first {MANY} "
        f"| {' | '.join(f'{phase}, s' for phase in PHASES.values())} | pays from |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for result in results:
        first = result["first_seconds_per_candidate"]
        if not first:
            continue
        medians = {way: statistics.median(s) for way, s in result["seconds_per_candidate"].items()}
        own, base = medians["own widths"], medians["PyTorch"]
        longer = MANY * (first - own)
        even = f"{longer / (base - own):,.0f} candidates" if own < base else "never"
        phases = " | ".join(f"{seconds:.1f}" for seconds in result["compile_phases"].values())
        lines.append(
            f"| {result['network']} | {result['images']:,} | {result['removed']:.3f} "
            f"| {result['programs']} | {longer:.1f} | {phases} | {even} |"
        )
    return "\n".join(lines)


def page(about: dict[str, Any], results: Sequence[dict[str, Any]], peak: float) -> str:
    """The measurements as Markdown."""
    return (
        "# Candidates a second\n\n"
        f"{measured.in_words(about)}\n\n{table(results, peak)}\n\n"
        "x PyTorch: relative to the smaller networks one after another; torch.compile to the\n"
        f"same {COMPILED} candidates uncompiled, in the row above it. % of matrix product: the\n"
        "multiply-adds that the candidates need at their own widths, relative to a product of\n"
        f"matrices of 1,024 x 1,024 in float32, {peak / 1e9:.0f} billion multiply-adds a second;\n"
        "above 100 where what candidates have in common is computed but once.\n"
        f"The first {MANY}: as many candidates by {ROUND} in a call, from the first one on,\n"
        "against PyTorch's median, which compiles nothing.\n\n"
        "What is compiled for candidates at their own widths, in a process of their own and with\n"
        "nothing kept from before:\n\n"
        f"{compilation(results)}\n\n"
        f"s longer: what the first {MANY} took longer than as many take later. The phases are\n"
        "those of JAX's own record, sums over all threads, which compile at the same time. Pays\n"
        "from: with so many candidates, compilation counted, PyTorch is overtaken. A convolution\n"
        "is compiled for each pair of widths that occurs, and is a call of a library, so that\n"
        "most of its time is what any program takes, however small. `compile_time/cpu.md` has\n"
        "what was tried to spend less.\n\n"
        "What is not counted above, but where it says so:\n\n"
        f"{preparation(results)}\n\n"
        "XLA's library for CPUs comes the less close to the matrix product, the fewer channels\n"
        "there are, and hardly divides a convolution of a large map among cores: with a candidate\n"
        "for each core both matter less. On maps smaller than the kernel, products of matrices\n"
        "(`small_maps/cpu.md`) take its place. A batch with arrays that caches do not hold is\n"
        "divided (`jaxprune.scoring.own_widths.evaluator`).\n\n"
        "PyTorch's rates of VGG-16 have differed from run to run of this script by more than the\n"
        "quartiles say: a ratio near 1 is no more than that.\n\n"
        f"torch.compile was given the first {COMPILED} candidates of each case, with nothing kept\n"
        "from before. A removal copies the network, finds what depends on what, and removes.\n"
    )


def main() -> None:
    """Measures, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=measured.several, default=7)
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--first", nargs=3, help=argparse.SUPPRESS)  # `first_candidates`' process
    arguments = parser.parse_args()
    if arguments.first:
        name, number, removed = arguments.first
        drawn = prepare(name, int(number), float(removed))
        print(json.dumps(score_first(drawn, own_widths(drawn))))
        return
    peak = measured.peak_rate()
    results = [
        measure(name, number, removed, arguments.repeats, arguments.compile)
        for name in arguments.networks
        for number in range(len(CASES[name]))
        for removed in REMOVED
    ]
    # Once more: the machine may have been slower at the beginning.
    peak = max(peak, measured.peak_rate())
    about = measured.circumstances(PACKAGES)
    text = page(about, results, peak)
    measured.write("candidates", text, about | {"peak": peak, "results": results})


if __name__ == "__main__":
    main()
