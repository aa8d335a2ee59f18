"""Masked equals compact on this device: outputs, training steps and gradients of bundled networks.

    python experiments/masked_equals_compact.py [--networks resnet20 vgg16]

Of each network half of the channels, drawn at random, are masked and are removed; the norms of the
differences are given relative to those of the values. In float32 at the highest precision they come
from the order of sums. Writes `experiments/results/masked_equals_compact/<device>.md`.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rows import RESULTS, table

import jaxprune
from jaxprune.commands import config
from jaxprune.networks import bundled

NETWORKS = ("resnet20", "resnet56", "resnet18", "vgg16")
ALLOWED = 1e-3
"""What `python -m jaxprune.run` allows of a network's outputs, too."""


def difference(left: Any, right: Any) -> float:
    """The norm of the difference of two pytrees, relative to the norm of the first."""
    apart = jax.tree.map(jnp.subtract, left, right)
    return float(optax.tree.norm(apart) / optax.tree.norm(left))


def differences(name: str, images: int = 64) -> dict[str, float]:
    """The differences of a network: of logits, of a training step's state, and of gradients."""
    network = bundled.build(name, (32, 32, 3))
    variables = network.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (images, 32, 32, 3))
    y = jax.random.randint(jax.random.key(2), (images,), 0, 10)
    structure = jaxprune.trace(network.apply, variables, x)
    random = np.random.default_rng(0)
    masks = {}
    for group, full in structure.full_masks().items():
        mask = np.zeros(len(full), np.float32)
        mask[random.permutation(len(full))[: max(1, len(full) // 2)]] = 1
        masks[group] = mask

    def loss(train: Callable[..., Any]) -> Callable[..., Any]:
        def of(params: Any, variables: Any, *rest: Any) -> Any:
            logits, state = train({**variables, "params": params}, *rest)
            chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1)
            return -chosen.mean(), state

        return jax.jit(jax.value_and_grad(of, has_aux=True))

    small = jaxprune.compact(network.apply, structure, variables, masks)
    train = jaxprune.compact(network.apply_train, structure, variables, masks)
    with jax.default_matmul_precision("highest"):
        masked = jax.jit(jaxprune.masked(network.apply, structure))
        logits = difference(masked(variables, masks, x), jax.jit(small)(small.params, x))
        whole = jaxprune.masked(network.apply_train, structure)
        (_, state), slope = loss(whole)(variables["params"], variables, masks, x)
        (_, small_state), small_slope = loss(train)(train.params["params"], train.params, x)
    # What is kept of the large ones is cut out as the weights are.
    cut = jaxprune.compact(network.apply, structure, {**state, "params": slope}, masks).params
    return {
        "logits": logits,
        "statistics": difference({k: cut[k] for k in small_state}, small_state),
        "gradients": difference(cut["params"], small_slope),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=bundled.NAMES)
    parser.add_argument("--out", type=Path, default=RESULTS / "masked_equals_compact")
    options = parser.parse_args()
    found = {name: differences(name) for name in options.networks}
    header = ("network", *next(iter(found.values())))
    lines = [[name, *(f"{value:.1e}" for value in of.values())] for name, of in found.items()]
    text = (
        "# Masked equals compact\n\n"
        "Difference between a network with half of its channels masked and the one without\n"
        "them, norm relative to norm: logits, BatchNorm's statistics after a training step,\n"
        "gradients. float32 at the highest precision.\n"
        f"{config.device()}, jax {jax.__version__}. Made by\n"
        f"`{' '.join(['python experiments/masked_equals_compact.py', *sys.argv[1:]])}`.\n\n"
        f"{table(header, lines)}\n"
    )
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    name = jax.devices()[0].device_kind.lower().replace(" ", "_")
    (options.out / f"{name}.md").write_text(text)
    worst = max(value for of in found.values() for value in of.values())
    if not worst <= ALLOWED:
        sys.exit(f"a difference of {worst:.1e} is more than {ALLOWED:g}: a bug of jaxprune")


if __name__ == "__main__":
    main()
