"""The states of layerwise agents: what they see before deciding on a group of channels.

There are three published states. Attributes of a layer are those of the first layer that produces
the group; no layer produces input features, which have those of an identity matrix product.

**acnn** (ACNN, section 3.1.1), `[t, n, p, l_p]`, in the paper's words:

- `t`, "the index of the current layer", over the number of groups;
- `n`, "the number of neurons in the current layer", over that of the widest group;
- `p`, "the size of all parameters moved to the current layer": read here as the parameters that the
  decisions so far have settled, which touch no undecided group;
- `l_p`, "the parameter size of the current layer": the remaining parameters that touch this group,
  which for input features are the weights that read them.

The paper does not say how it scales them, nor whether `p` and `l_p` are those of the dense network.
Here both are fractions of the dense network's parameters and follow the pruning, so that the state
tells earlier decisions.

**amc** (AMC's published code): index, whether it is a convolution, input channels, output channels,
stride, kernel size, parameters, reduced, rest, previous action. The first seven are scaled to
[0, 1] over the groups, 0 where all are equal. *reduced* is the fraction of the limited cost that is
gone, *rest* the fraction of the dense multiply-adds in later layers, and the previous action is the
fraction removed of the group before, 0 at first. Departure: the code's actions are fractions kept.

**cacp** (CACP): the episode's target, then the ten of amc. CACP's own state also has the sizes of
the feature maps and the layer's multiply-adds.
"""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune import costs
from jaxprune.dependency import Structure

Kind = Literal["acnn", "amc", "cacp"]

_STATIC = ("index", "convolution", "inputs", "outputs", "stride", "kernel size", "parameters")
_AMC = (*_STATIC, "reduced", "rest", "previous action")

ENTRIES: dict[str, tuple[str, ...]] = {
    "acnn": ("t", "n", "p", "l_p"),
    "amc": _AMC,
    "cacp": ("target", *_AMC),
}
"""The entries of each observation, in order."""

Observe = Callable[[Array, Array, Array, Array], Array]
"""`observe(step, values, previous, limit)` -> float32 `[O]`.

`step` int32 `[]` is the group to decide on, `values` float32 `[N]` the mask so far, `previous`
float32 `[]` the fraction that was removed of the group before, `limit` float32 `[]` the cost that
the episode may end with. Works under `jit` and `vmap`.
"""


def observer(kind: Kind, structure: Structure, cost: Callable[[Array], Array]) -> Observe:
    """The function that observes a network.

    Args:
        kind: which state.
        structure: the network's groups and layers.
        cost: flat mask `[N]` -> the cost that is limited `[]`, traceable.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in ENTRIES:
        raise ValueError(f"unknown observation {kind!r}; it is one of {', '.join(ENTRIES)}")
    return _acnn(structure) if kind == "acnn" else _amc(structure, cost, kind == "cacp")


def _acnn(structure: Structure) -> Observe:
    sizes = [group.size for group in structure.groups]
    relative = jnp.asarray(sizes, jnp.float32) / max(sizes)
    group = jnp.asarray(structure.group_index)
    dense = costs.dense(structure, "params")

    def params(mask: Array) -> Array:
        return costs.params(structure, structure.unflatten(mask)) / dense

    def observe(step: Array, values: Array, previous: Array, limit: Array) -> Array:
        settled = params(jnp.where(group < step, values, 0.0))
        own = params(values) - params(jnp.where(group == step, 0.0, values))
        return jnp.stack([step / len(sizes), relative[step], settled, own])

    return observe


def _amc(structure: Structure, cost: Callable[[Array], Array], with_target: bool) -> Observe:
    table = jnp.asarray(attributes(structure))
    dense = cost(jnp.ones(structure.num_channels))

    def observe(step: Array, values: Array, previous: Array, limit: Array) -> Array:
        static = table[step]
        reduced = 1 - cost(values) / dense
        seen = [*static[:-1], reduced, static[-1], previous]
        return jnp.stack([limit / dense, *seen] if with_target else seen)

    return observe


def attributes(structure: Structure) -> np.ndarray:
    """The entries of amc that no decision changes, float32 `[T, 8]`: the first seven, and rest."""
    rows, rest = [], []
    total = sum(layer.macs for layer in structure.layers)
    for number, group in enumerate(structure.groups):
        place = _producer(structure, number)
        inputs, stride, kernel, params = group.size, 1, 1, 0
        if place is not None:
            layer = structure.layers[place]
            inputs, params = layer.inputs, layer.params
            stride, kernel = max(layer.stride), max(layer.kernel)
        convolution = is_convolution(structure, number)
        rows.append((number, convolution, inputs, group.size, stride, kernel, params))
        later = structure.layers[0 if place is None else place + 1 :]
        rest.append(sum(layer.macs for layer in later) / max(total, 1))
    static = np.array(rows, np.float32)
    spread = np.ptp(static, axis=0)
    scaled = (static - static.min(0)) / np.where(spread > 0, spread, 1)
    return np.column_stack([scaled, np.array(rest, np.float32)])


def is_convolution(structure: Structure, group: int) -> bool:
    """Whether the first layer that produces a group is a convolution."""
    place = _producer(structure, group)
    return place is not None and len(structure.layers[place].kernel) > 1


def _producer(structure: Structure, group: int) -> int | None:
    """The index of the first layer that produces a group; None for input features."""
    places = (i for i, layer in enumerate(structure.layers) if layer.group == group)
    return next(places, None)
