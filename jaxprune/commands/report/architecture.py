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
    kept = [tuple(keep[axis + 1] for axis in axes) for axes in structure.channels]
    layers = []
    for layer in structure.layers:
        if f"{layer.path}/kernel" not in structure.paths:
            continue
        axes = kept[structure.paths.index(f"{layer.path}/kernel")]
        own = [leaf for path, leaf in zip(structure.paths, kept, strict=True) if _in(path, layer)]
        # Every multiply-add belongs to an element of the kernel, each to equally many.
        left = layer.macs * math.prod(int(k.sum()) for k in axes)
        layers.append(
            LayerChange(
                path=layer.path,
                group=None if layer.group is None else structure.groups[layer.group].name,
                kernel=layer.kernel,
                spatial=layer.spatial,
                kept_inputs=axes[-2],
                kept_outputs=axes[-1],
                macs=(layer.macs, left // math.prod(map(len, axes))),
                params=(layer.params, sum(math.prod(int(k.sum()) for k in leaf) for leaf in own)),
            )
        )
    frozen = [(", ".join(frozen.layers), frozen.reason) for frozen in structure.frozen]
    return Architecture(
        tuple(map(int, image_shape)), structure.groups, tuple(layers), tuple(frozen)
    )


def _in(path: str, layer: Any) -> bool:
    return path.rpartition("/")[0] == layer.path


def to_json(architecture: Architecture) -> dict[str, Any]:
    """What JSON keeps of it; what is kept of a layer is a string of 1 and 0."""
    return {
        "image_shape": list(architecture.image_shape),
        "groups": [group._asdict() for group in architecture.groups],
        "layers": [
            {
                **layer._asdict(),
                "kept_inputs": _as_text(layer.kept_inputs),
                "kept_outputs": _as_text(layer.kept_outputs),
            }
            for layer in architecture.layers
        ],
        "frozen": [list(pair) for pair in architecture.frozen],
    }


def from_json(value: Mapping[str, Any]) -> Architecture:
    """What `to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: It is something else.
    """
    return Architecture(
        image_shape=tuple(map(int, value["image_shape"])),
        groups=tuple(
            Group(
                name=str(group["name"]),
                size=int(group["size"]),
                layers=tuple(map(str, group["layers"])),
                consumers=tuple(map(str, group["consumers"])),
                carried=tuple(map(str, group["carried"])),
            )
            for group in value["groups"]
        ),
        layers=tuple(map(_layer, value["layers"])),
        frozen=tuple((str(layers), str(reason)) for layers, reason in value["frozen"]),
    )


def _layer(value: Mapping[str, Any]) -> LayerChange:
    (macs, macs_left), (params, params_left) = value["macs"], value["params"]
    return LayerChange(
        path=str(value["path"]),
        group=None if value["group"] is None else str(value["group"]),
        kernel=tuple(map(int, value["kernel"])),
        spatial=tuple(map(int, value["spatial"])),
        kept_inputs=_as_mask(value["kept_inputs"]),
        kept_outputs=_as_mask(value["kept_outputs"]),
        macs=(int(macs), int(macs_left)),
        params=(int(params), int(params_left)),
    )


def _as_text(mask: np.ndarray) -> str:
    return "".join("1" if keep else "0" for keep in mask)


def _as_mask(text: str) -> np.ndarray:
    return np.array([{"1": True, "0": False}[digit] for digit in text])
