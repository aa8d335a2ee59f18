"""What pruning did to each layer, in numbers that a run's folder keeps."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune.dependency import Group, Structure


class LayerChange(NamedTuple):
    """A convolution or matrix product before and after.

    Attributes:
        path: The layer's path among the parameters.
        group: The name of the group that its outputs belong to, None if they all stay.
        kernel: The extents of its window, (1,) for a matrix product.
        spatial: The extents of its output map, (1,) if it has none.
        kept_inputs: bool `[inputs]`, along the kernel's axis of inputs.
        kept_outputs: bool `[outputs]`.
        macs: Multiply-adds for one example, before and after.
        params: Its trainable parameters, before and after.
    """

    path: str
    group: str | None
    kernel: tuple[int, ...]
    spatial: tuple[int, ...]
    kept_inputs: np.ndarray
    kept_outputs: np.ndarray
    macs: tuple[int, int]
    params: tuple[int, int]


class Architecture(NamedTuple):
    """A network before and after.

    Attributes:
        image_shape: Height, width and channels of the images, in pixels.
        groups: The channels that go together, in the order in which they are computed.
        layers: The layers in the order in which they are computed.
        frozen: Layers whose outputs cannot be removed, and why, in words.
    """

    image_shape: tuple[int, ...]
    groups: tuple[Group, ...]
    layers: tuple[LayerChange, ...]
    frozen: tuple[tuple[str, str], ...]

    @property
    def widths(self) -> dict[str, int]:
        """{group: channels of the dense network}."""
        return {group.name: group.size for group in self.groups}


def describe(
    structure: Structure, masks: Mapping[str, Any], image_shape: Sequence[int]
) -> Architecture:
    """What removing channels does to each layer of a Flax Linen network.

    Args:
        structure: The network's structure. Kernels are called "kernel" and their last two axes are
            inputs and outputs, as Linen has them; layers that are not so are left out.
        masks: {group: [size]}, 1 = keep.
        image_shape: Height, width and channels of the images.
    """
    keep = structure.expand(np.asarray(structure.flatten(masks)).astype(bool))
    kept = {
        path: tuple(keep[axis + 1] for axis in axes)
        for path, axes in zip(structure.paths, structure.channels, strict=True)
    }

    def size(path: str) -> int:
        return math.prod(int(axis.sum()) for axis in kept[path])

    layers = []
    for layer in structure.layers:
        kernel = f"{layer.path}/kernel"
        if kernel not in kept:
            continue
        own = [path for path in kept if path.rpartition("/")[0] == layer.path]
        whole = math.prod(map(len, kept[kernel]))
        layers.append(
            LayerChange(
                path=layer.path,
                group=None if layer.group is None else structure.groups[layer.group].name,
                kernel=layer.kernel,
                spatial=layer.spatial,
                kept_inputs=kept[kernel][-2],
                kept_outputs=kept[kernel][-1],
                # Each element of the kernel takes part in equally many multiply-adds.
                macs=(layer.macs, layer.macs * size(kernel) // whole),
                params=(layer.params, sum(map(size, own))),
            )
        )
    frozen = tuple((", ".join(frozen.layers), frozen.reason) for frozen in structure.frozen)
    shape = tuple(map(int, image_shape))
    return Architecture(shape, structure.groups, tuple(layers), frozen)


def to_json(architecture: Architecture) -> dict[str, Any]:
    """What JSON keeps of it; the masks of a layer are strings of 1 and 0."""
    return {
        **architecture._asdict(),
        "groups": [group._asdict() for group in architecture.groups],
        "layers": [
            layer._asdict() | {name: _text(getattr(layer, name)) for name in _MASKS}
            for layer in architecture.layers
        ],
    }


def from_json(value: Mapping[str, Any]) -> Architecture:
    """What `to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: It is something else.
    """
    image_shape, layers = tuple(value["image_shape"]), []
    for entry in value["layers"]:
        masks = {name: np.array(list(entry[name]), int) == 1 for name in _MASKS}
        layers.append(LayerChange(**_tuples(entry) | masks))
    return Architecture(
        image_shape=image_shape,
        groups=tuple(Group(**_tuples(group)) for group in value["groups"]),
        layers=tuple(layers),
        frozen=tuple((layers, reason) for layers, reason in value["frozen"]),
    )


_MASKS = ("kept_inputs", "kept_outputs")


def _tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An object of JSON with its lists as tuples."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()
    }


def _text(mask: np.ndarray) -> str:
    return "".join("1" if keep else "0" for keep in mask)
