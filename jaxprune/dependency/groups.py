"""The structure of a network: its groups of channels, its layers, and how to count them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.dependency import tables
from jaxprune.dependency.counting import Counts

Masks = Mapping[str, Any]
"""{group name: [size]}, 1 = keep, 0 = remove."""

NO_CHANNEL = -1


class Group(NamedTuple):
    """Channels that one or more layers produce; channel i of all of them is kept or removed as one.

    Attributes:
      name: the path of the first layer that produces the channels.
      size: how many channels there are.
      layers: the paths of all layers that produce them; several if a sum couples them.
      consumers: the paths of the layers that read them.
      carried: the paths of all parameters that have an axis over them.
    """

    name: str
    size: int
    layers: tuple[str, ...]
    consumers: tuple[str, ...]
    carried: tuple[str, ...]


class Frozen(NamedTuple):
    """Channels that cannot be removed, and why.

    Attributes:
      layers: the paths of the layers that produce them.
      size: how many there are.
      reason: what forbids their removal.
      source: "file:line (function)" of the equation that does, or "".
    """

    layers: tuple[str, ...]
    size: int
    reason: str
    source: str


class Layer(NamedTuple):
    """A convolution or matrix product whose kernel is a parameter, as the dense network has it.

    A kernel that is used several times, in a loop or on several lines, is one layer: its sizes are
    those of the first use, its multiply-adds those of all uses. A product with several parameters
    joined into one, as the gates of an LSTM may be, is one layer with the path of the first.
    Products of two activations, as in attention, are not layers.

    Attributes:
      path: the path of the layer, named as in `Group.layers`.
      group: the index of the group that its outputs belong to, None if none can be removed. With
        several groups (parts of its outputs, or heads and head dimension) that of the largest
        part, or the first of equals.
      inputs: how many channels it reads; for a grouped or depthwise convolution those of all
        feature groups.
      outputs: how many channels it produces.
      kernel: the size of its window, (1,) for a matrix product.
      stride: the strides of the window; those of a transposed convolution are 1, over a dilated
        map.
      padding: (low, high) of each axis that the window slides over; negative padding crops.
      spatial: the size of its output map. For a matrix product the sizes of all axes but examples
        and channels, such as tokens; (1,) if there are none.
      macs: its multiply-adds for one example.
      params: the number of trainable parameters under its path: a kernel, and usually a bias.
    """

    path: str
    group: int | None
    inputs: int
    outputs: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    spatial: tuple[int, ...]
    macs: int
    params: int


@dataclass(frozen=True, eq=False)
class Structure:
    """The channels of a network's parameters, and which of them must be removed together.

    Channels are numbered group by group, from 0 to `num_channels` - 1. `print(structure)` shows
    the groups as a table, and so does a notebook.

    Attributes:
      groups: the groups in the order in which the network computes them.
      layers: the layers in the order in which the network computes them.
      frozen: produced channels that cannot be removed, with the reason.
      treedef: the tree of the parameters.
      paths: the path of each parameter leaf.
      shapes: the shape of each parameter leaf.
      channels: for each leaf and axis, int32 [size]: the channel of each position, -1 for positions
        that always stay, and `num_channels` + j for those of joint j.
      joints: int32 [J, 2]: positions that are kept only if two others are, each given as in
        `channels`. An axis of heads times head dimension consists of joints.
      producers: (leaf, axis) pairs whose positions are the outputs of a layer.
      inputs_tree: the tree of the inputs that the network was traced with.
      input_shapes: the shape of each input leaf.
      input_channels: what `channels` is for leaves, for each input leaf and axis.
      param_counts: the number of trainable parameters as a function of the widths.
      mac_counts: the number of multiply-adds for one example as a function of the widths.
    """

    groups: tuple[Group, ...]
    layers: tuple[Layer, ...]
    frozen: tuple[Frozen, ...]
    treedef: Any
    paths: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    channels: tuple[tuple[np.ndarray, ...], ...]
    joints: np.ndarray
    producers: tuple[tuple[int, int], ...]
    inputs_tree: Any
    input_shapes: tuple[tuple[int, ...], ...]
    input_channels: tuple[tuple[np.ndarray, ...], ...]
    param_counts: Counts
    mac_counts: Counts

    @property
    def num_channels(self) -> int:
        """How many channels can be removed, over all groups."""
        return sum(group.size for group in self.groups)

    @property
    def group_index(self) -> np.ndarray:
        """int32 [num_channels]: the index of each channel's group."""
        sizes = [group.size for group in self.groups]
        return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)

    def full_masks(self) -> dict[str, np.ndarray]:
        """Masks that keep everything."""
        return {group.name: np.ones(group.size, np.float32) for group in self.groups}

    def flatten(self, masks: Masks) -> Any:
        """Masks as one array [..., num_channels], group after group."""
        self.check_masks(masks)
        if not self.groups:
            return np.zeros(0, np.float32)
        xp = np if all(isinstance(m, np.ndarray) for m in masks.values()) else jnp
        return xp.concatenate([xp.asarray(masks[group.name]) for group in self.groups], axis=-1)

    def unflatten(self, vector: Any) -> dict[str, Any]:
        """Splits one array [..., num_channels] into masks.

        Raises:
          ValueError: the last axis has the wrong size.
        """
        vector = vector if hasattr(vector, "shape") else np.asarray(vector)
        if vector.shape[-1:] != (self.num_channels,):
            raise ValueError(
                f"a flat mask has {self.num_channels} entries in its last axis, got shape "
                f"{tuple(vector.shape)}"
            )
        ends = np.cumsum([group.size for group in self.groups])
        return {
            group.name: vector[..., end - group.size : end]
            for group, end in zip(self.groups, ends, strict=True)
        }

    def expand(self, values: Any) -> Any:
        """Extends values of channels [num_channels] to positions [1 + num_channels + J].

        Entry 0 is 1, for positions that always stay; a joint's entry is the product of its factors'
        entries. Index the result with `channels + 1`.
        """
        xp = np if isinstance(values, np.ndarray) else jnp
        whole = xp.concatenate([xp.ones(1, values.dtype), values])
        while (done := len(whole) - 1 - self.num_channels) < len(self.joints):
            rest = self.joints[done:] + 1
            ready = int(np.argmin(np.append((rest < len(whole)).all(1), False)))
            left, right = rest[:ready].T
            whole = xp.concatenate([whole, whole[left] * whole[right]])
        return whole

    def widths(self, masks: Masks) -> Any:
        """How many channels of each group are kept: [..., G]."""
        self.check_masks(masks)
        if not self.groups:
            return np.zeros(0, np.float32)
        xp = np if all(isinstance(m, np.ndarray) for m in masks.values()) else jnp
        kept = [xp.asarray(masks[group.name]).sum(-1) for group in self.groups]
        return xp.stack(kept, axis=-1)

    def check_masks(self, masks: Masks) -> None:
        """Raises ValueError unless there is one mask of the right size for each group."""
        if not isinstance(masks, Mapping):
            raise ValueError(
                f"masks do not fit the structure: they are a dict {{group: [size]}}, got "
                f"{type(masks).__name__}; structure.unflatten makes it of a flat vector"
            )
        names = {group.name for group in self.groups}
        if set(masks) != names:
            unknown, missing = sorted(set(masks) - names), sorted(names - set(masks))
            parts = [f"unknown {unknown}"] * bool(unknown) + [f"missing {missing}"] * bool(missing)
            raise ValueError(
                f"masks do not fit the structure: {', '.join(parts)}; its groups are "
                f"{[group.name for group in self.groups]}"
            )
        for group in self.groups:
            shape = np.shape(masks[group.name])
            if not shape or shape[-1] != group.size:
                raise ValueError(
                    f"the mask of group '{group.name}' has {group.size} entries, got shape {shape}"
                )

    def check_params(self, params: Any) -> list[Any]:
        """The leaves of `params`.

        Raises:
          ValueError: the tree or a shape is not the one that was traced.
        """
        leaves, treedef = jax.tree.flatten(params)
        if treedef != self.treedef:
            raise ValueError(
                f"params have another tree than the traced ones: {treedef} instead of "
                f"{self.treedef}; trace the function again with these params"
            )
        for path, leaf, shape in zip(self.paths, leaves, self.shapes, strict=True):
            if np.shape(leaf) != shape:
                raise ValueError(
                    f"parameter '{path}' has shape {np.shape(leaf)}, traced was {shape}; trace "
                    "the function again with these params"
                )
        return leaves

    def __str__(self) -> str:
        return tables.text(self)

    def _repr_html_(self) -> str:
        """What notebooks show."""
        return tables.html(self)

    __repr__ = __str__


def check_structure(structure: Any) -> None:
    """Raises TypeError unless the argument is a structure."""
    if not isinstance(structure, Structure):
        raise TypeError(
            f"structure is of type {type(structure).__name__}; give what jaxprune.trace returned"
        )
