"""Tree simulations per second: batched games against a PUCT search in plain Python.

Both search the same game with the same policy/value network and the same formula, and find the
same visit counts (tested). The Python search keeps its tree in objects and numpy arrays, and calls
the jitted network for one position at a time, as most published implementations do. Beside them
stands `mctx.search`, whose trees are the package's bit for bit (tested).

    python experiments/benchmarks/tree_search.py

writes `experiments/results/tree_search/`. A simulation is one descent through the tree
with one expansion; a batch of B games makes B simulations at once. Finished networks are judged by
the value head, so that only the search is measured. Compilation is excluded; medians over repeats.
The network of width 64 is the paper's; "one layer" is a dense layer on each filter's features, too
small to matter. What the networks compute is given as a share of the fastest matrix product of this
machine. The time that they take, with the features they read, is measured by itself, in a compiled
loop over as many batches of positions as there are simulations, and given as a part of the
search's.
"""

import argparse
import functools
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import mctx
import measured
import numpy as np

import jaxprune
from jaxprune.search.agents.mcts import tree
from jaxprune.search.agents.mcts.agent import policy_value
from jaxprune.search.agents.mcts.config import Config
from jaxprune.search.agents.mcts.features import NUM_FEATURES, features
from jaxprune.search.agents.mcts.network import PolicyValueNetwork, choose_head, initial_variables
from jaxprune.search.envs import filterwise
from jaxprune.search.envs.filterwise import Rules

RESULTS = Path(__file__).resolve().parents[1] / "results" / "tree_search"

LENET5 = (20, 50)
"""Filters of LeNet-5's two convolutions: N = 70."""

VGG16 = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
"""Filters of VGG-16's thirteen convolutions: N = 4,224."""


def chain_macs(sizes: tuple[int, ...]) -> Callable[[jax.Array], jax.Array]:
    """The relative multiply-adds of a chain of layers: products of neighbouring widths."""
    ends = np.cumsum((0, *sizes))
    dense = sum(a * b for a, b in zip((1, *sizes), sizes, strict=False))

    def cost(mask: jax.Array) -> jax.Array:
        kept = [mask[a:b].sum() for a, b in itertools.pairwise(ends)]
        return sum(a * b for a, b in zip([1.0, *kept], kept, strict=False)) / dense

    return cost


@dataclass
class Node:
    """A position of the plain search, expanded once by the network."""

    mask: np.ndarray
    priors: np.ndarray
    value: float
    finished: bool
    count: int = 1
    visits: np.ndarray = field(init=False)
    rewards: np.ndarray = field(init=False)
    children: dict[int, "Node"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.visits = np.zeros(len(self.mask), np.int64)
        self.rewards = np.zeros(len(self.mask))


Expand = Callable[[np.ndarray], tuple[np.ndarray, float, bool]]
"""A mask -> prior probabilities of its actions, value, whether the game is over."""


def python_puct(root_mask: np.ndarray, expand: Expand, simulations: int, c: float) -> np.ndarray:
    """PUCT with the formula of mctx and the value transform of `jaxprune.search.agents.mcts.tree`.

    Args:
        root_mask: the position to search from, `[N]`.
        expand: the network and the rules.
        simulations: descents through the tree.
        c: weight of the prior.

    Returns:
        Visit counts of the root's actions, `[N]`.
    """
    root = Node(root_mask, *expand(root_mask))
    for _ in range(simulations):
        node, path = root, []
        while not node.finished:
            values = np.full(len(node.mask), node.value)
            for action, child in node.children.items():
                values[action] = node.rewards[action] + (0 if child.finished else child.value)
            weight = c + np.log((node.count + 19653) / 19652)
            exploration = weight * np.sqrt(node.count) * node.priors / (1 + node.visits)
            action = int(np.argmax((values + 1) / 2 + exploration))
            path.append((node, action))
            if action not in node.children:
                mask = node.mask.copy()
                mask[action] = 0
                child = Node(mask, *expand(mask))
                node.children[action] = child
                if child.finished:
                    node.rewards[action] = child.value
                node = child
                break
            node = node.children[action]
        gain = 0.0 if node.finished else node.value
        for parent, action in reversed(path):
            gain += parent.rewards[action]
            parent.value = (parent.value * parent.count + gain) / (parent.count + 1)
            parent.count += 1
            parent.visits[action] += 1
    return root.visits


def assessed(
    config: Config, rules: Rules, importance: jax.Array, variables: dict, masks: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The logits and values of masks: of the package's network, or without variables of one layer.

    The layer's weights are fixed.
    """
    if variables:
        return policy_value(config, rules, importance, variables, masks)
    inputs = jax.vmap(lambda mask: features(rules, importance, mask))(masks)
    logits = inputs @ jnp.linspace(-1, 1, NUM_FEATURES)
    legal = jax.vmap(lambda mask: filterwise.legal(rules, mask))(masks)
    return jnp.where(legal, logits, tree.ILLEGAL_LOGIT), jnp.tanh(inputs.mean((1, 2)))


def game(sizes: tuple[int, ...], width: int, head: str, seed: int) -> tuple:
    """A game with a random network: its rules, importances, settings and parameters.

    With width 0 the network is `assessed`'s one layer.
    """
    rng = np.random.default_rng(seed)
    rules = Rules(chain_macs(sizes), budget=0.5, sizes=sizes)
    importance = jnp.asarray(rng.uniform(0.5, 1.5, sum(sizes)), jnp.float32)
    config = Config(width=max(1, width), head=head, terminal="value", dirichlet_fraction=0.0)
    if not width:
        return rules, importance, config, {}
    network = PolicyValueNetwork(width=width, head=head)
    variables = initial_variables(network, sum(sizes), jax.random.PRNGKey(seed))
    return rules, importance, config, variables


def batched_search(
    rules: Rules, importance: jax.Array, config: Config
) -> Callable[[dict, jax.Array, jax.Array], mctx.Tree]:
    """The package's search: `search(variables, masks [B, N], key)` -> the trees."""

    def search(variables: dict, masks: jax.Array, key: jax.Array) -> mctx.Tree:
        def assess(masks: jax.Array) -> tuple[jax.Array, jax.Array]:
            return assessed(config, rules, importance, variables, masks)

        decision = tree.search(config, rules, assess, tree.guess(rules, assess), masks, key)
        return decision.tree

    return search


def search_by_mctx(
    rules: Rules, importance: jax.Array, config: Config
) -> Callable[[dict, jax.Array, jax.Array], mctx.Tree]:
    """The same by `mctx.search`."""
    puct = functools.partial(
        mctx.muzero_action_selection, pb_c_init=config.exploration, qtransform=tree.scaled_values
    )

    def search(variables: dict, masks: jax.Array, key: jax.Array) -> mctx.Tree:
        def assess(masks: jax.Array) -> tuple[jax.Array, jax.Array]:
            return assessed(config, rules, importance, variables, masks)

        logits, values = assess(masks)
        nodes = tree.Node(masks, jnp.full(len(masks), tree.UNKNOWN))
        return mctx.search(
            params=None,
            rng_key=key,
            root=mctx.RootFnOutput(prior_logits=logits, value=values, embedding=nodes),
            recurrent_fn=tree.model(rules, assess, tree.guess(rules, assess)),
            root_action_selection_fn=functools.partial(puct, depth=0),
            interior_action_selection_fn=puct,
            num_simulations=config.simulations,
            invalid_actions=~jax.vmap(lambda mask: filterwise.legal(rules, mask))(masks),
        )

    return search


def one_position(
    rules: Rules, importance: jax.Array, config: Config
) -> Callable[[dict, np.ndarray], tuple[np.ndarray, float, bool]]:
    """The same network and rules for the plain search: an `Expand` given the parameters."""

    @jax.jit
    def assess(variables: dict, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        logits, values = assessed(config, rules, importance, variables, mask[None])
        value = jnp.where(
            filterwise.finished(rules, mask) & ~filterwise.feasible(rules, mask), -1.0, values[0]
        )
        return jax.nn.softmax(logits[0]), value, filterwise.finished(rules, mask)

    def expand(variables: dict, mask: np.ndarray) -> tuple[np.ndarray, float, bool]:
        priors, value, finished = jax.device_get(assess(variables, mask))
        return priors, float(value), bool(finished)

    return expand


def network_alone(
    rules: Rules, importance: jax.Array, config: Config
) -> Callable[[dict, jax.Array], jax.Array]:
    """What the search computes in its network, without the tree."""

    @jax.jit
    def assess(variables: dict, masks: jax.Array) -> jax.Array:
        def remove_best(_: int, masks: jax.Array) -> jax.Array:
            logits, _values = assessed(config, rules, importance, variables, masks)
            return jnp.where(logits == logits.max(-1, keepdims=True), 0, masks).astype(masks.dtype)

        return jax.lax.fori_loop(0, config.simulations, remove_best, masks)

    return assess


def multiply_adds(config: Config, variables: dict, count: int) -> float:
    """What the policy/value network computes for one position."""
    if not variables:
        return float(count * NUM_FEATURES)
    network = PolicyValueNetwork(width=config.width, head=config.head)
    features = jnp.zeros((1, count, NUM_FEATURES))
    structure = jaxprune.trace(lambda v, x: network.apply(v, x)[0], variables, features)
    return float(sum(layer.macs for layer in structure.layers))


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """The median time of a call after one that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def measure(
    name: str,
    sizes: tuple[int, ...],
    width: int,
    batches: tuple[int, ...],
    simulations: int,
    repeats: int,
    peak: float,
) -> list[dict]:
    """Simulations per second of both searches on one game."""
    rules, importance, config, variables = game(sizes, width, "auto", seed=0)
    config = Config(
        **{**config.__dict__, "simulations": simulations, "head": choose_head("auto", sum(sizes))}
    )
    count = sum(sizes)
    expand = functools.partial(one_position(rules, importance, config), variables)
    start = np.ones(count, np.uint8)
    seconds = median_seconds(
        lambda: python_puct(start, expand, simulations, config.exploration), repeats
    )
    common = {
        "network": name,
        "filters": count,
        "width": width,
        "head": config.head,
        "simulations": simulations,
    }
    needed = multiply_adds(config, variables, count)
    python_rate = simulations / seconds
    rows = [{**common, "search": "plain Python", "games": 1, "per_second": python_rate}]
    grow = batched_search(rules, importance, config)
    ways = {"jaxprune": grow, "mctx.search": search_by_mctx(rules, importance, config)}
    assess = network_alone(rules, importance, config)
    for games in batches:
        masks = jnp.ones((games, count), jnp.uint8)
        key = jax.random.PRNGKey(0)

        def network(masks: jax.Array = masks) -> None:
            jax.block_until_ready(assess(variables, masks))

        seconds_of_network = median_seconds(network, repeats)
        trees = jax.tree.leaves(jax.eval_shape(grow, variables, masks, key))
        for way, found in ways.items():
            if way == "mctx.search" and games < max(batches):
                continue
            search = jax.jit(lambda *given, found=found: found(*given).summary().visit_counts)

            def call(search=search, masks=masks, key=key) -> None:
                jax.block_until_ready(search(variables, masks, key))

            seconds = median_seconds(call, repeats)
            rows.append(
                {
                    **common,
                    "search": way,
                    "games": games,
                    "per_second": games * simulations / seconds,
                    "network_part": min(1.0, seconds_of_network / seconds),
                    "bytes_per_game": sum(leaf.size * leaf.dtype.itemsize for leaf in trees)
                    / games,
                    "predicted_bytes": 25 * (simulations + 1) * count,
                }
            )
    for row in rows:
        row["ratio"] = row["per_second"] / python_rate
        row["share_of_peak"] = row["per_second"] * needed / peak
        print(json.dumps(row), flush=True)
    return rows


def table(rows: list[dict]) -> str:
    """The rows in Markdown."""
    lines = [
        "| network | filters | width, head | search | games | simulations | simulations/s | ratio "
        "| % of matrix product | network, % of time | KiB a game |",
        "|---|---:|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['network']} | {row['filters']:,} | {_network_name(row)} | "
        f"{row['search']} | {row['games']} | {row['simulations']} | {row['per_second']:,.0f} | "
        f"{row['ratio']:.1f} | {100 * row['share_of_peak']:.1f} | {_network(row)} | "
        f"{_memory(row)} |"
        for row in rows
    ]
    return "\n".join(lines)


def _network_name(row: dict) -> str:
    return f"{row['width']}, {row['head']}" if row["width"] else "one layer"


def _network(row: dict) -> str:
    return f"{100 * row['network_part']:.0f}" if "network_part" in row else ""


def _memory(row: dict) -> str:
    return f"{row['bytes_per_game'] / 1024:,.0f}" if "bytes_per_game" in row else ""


TARGETS = {0: 50, 64: 4}
"""{width: how many times the simulations of plain Python are wanted, with 64 games on LeNet-5}."""


def verdicts(rows: list[dict]) -> str:
    """For each target what was reached."""
    lines = []
    for width, target in TARGETS.items():
        row = next(
            row
            for row in rows
            if (row["width"], row["games"], row["search"]) == (width, 64, "jaxprune")
        )
        reached = "reached" if row["ratio"] >= target else f"missed by {target - row['ratio']:.1f}"
        network = "the paper's network" if width else "one layer"
        lines.append(
            f"- 64 games, {network}: {row['ratio']:.1f} times plain Python, of {target} wanted: "
            f"{reached}. The networks take {100 * row['network_part']:.0f} % of the time and "
            f"compute at {100 * row['share_of_peak']:.0f} % of the fastest matrix product."
        )
    return "\n".join(lines)


def main() -> None:
    """Measures, prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=64)
    parser.add_argument("--repeats", type=measured.several, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()

    common = {"simulations": arguments.simulations, "repeats": arguments.repeats}
    more = common | {"simulations": 4 * arguments.simulations}
    peak = measured.peak_rate()
    load_before = os.getloadavg()[0]
    rows = []
    rows += measure("LeNet-5", LENET5, width=0, batches=(1, 8, 64), peak=peak, **common)
    rows += measure("LeNet-5", LENET5, width=0, batches=(64,), peak=peak, **more)
    rows += measure("LeNet-5", LENET5, width=1, batches=(64,), peak=peak, **common)
    rows += measure("LeNet-5", LENET5, width=16, batches=(1, 8, 64), peak=peak, **common)
    rows += measure("LeNet-5", LENET5, width=64, batches=(1, 8, 64), peak=peak, **common)
    rows += measure("VGG-16", VGG16, width=16, batches=(1, 4), peak=peak, **common)

    about = {
        "command": " ".join(["python", "experiments/benchmarks/tree_search.py", *sys.argv[1:]]),
        **common,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "mctx": mctx.__version__,
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "load_average": [round(load_before, 2), round(os.getloadavg()[0], 2)],
    }
    text = f"""# Tree simulations per second

{table(rows)}

{verdicts(rows)}

A search is one compiled call. The trees of `mctx.search` are the same, and it takes longer where
the network does little: its backward step is a loop under `vmap`, which chooses between the old and
the new arrays of the whole tree at every level. The network of width 1 is the paper's with a single
feature map: its thirteen convolutions still take most of the time. Other forms of convolution and
pooling were tried for it: none was faster at all widths.

Ratio: against the plain Python search on the same network. Searches start from the dense network;
medians of {arguments.repeats} searches, compilation excluded, budget 0.5 of the multiply-adds. The
matrix product: 1,024 x 1,024 float32, {peak / 1e9:.0f} billion multiply-adds a second. Memory is
that of mctx's tree, masks included; 25 bytes for each filter and node would be
{rows[1]["predicted_bytes"] / 1024:,.0f} KiB for LeNet-5 with {arguments.simulations} simulations,
{rows[-1]["predicted_bytes"] / 1024:,.0f} KiB for VGG-16.

Command: `{about["command"]}`. Python {about["python"]}, jax {about["jax"]}, mctx {about["mctx"]},
device {about["device"]}, {about["cores"]} cores, load average before and after
{about["load_average"][0]} and {about["load_average"][1]}. GPU: not run.
"""
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "cpu.md").write_text(text)
    (arguments.out / "cpu.json").write_text(
        json.dumps({"about": about, "rows": rows}, indent=2) + "\n"
    )
    print(table(rows))


if __name__ == "__main__":
    main()
