"""A network that is pruned again: its masks and parameters as the first network has them.

The groups of a compact network are those of the network that it came from, at their new sizes.
"""

from typing import Any

import jax
import numpy as np

from jaxprune.dependency.groups import Masks, Structure


def nested(structure: Structure, masks: Masks, inner: Structure, further: Masks) -> dict[str, Any]:
    """The masks of two rounds as one.

    Args:
      structure: that of the first network.
      masks: {group: [size]} of 0 and 1, what the first round kept.
      inner: the structure of the compact network, as `trace` found it anew.
      further: {group: [size]}, what the second round keeps of it. Further axes may come first.

    Returns:
      {group: float32 [..., size]} of the first network.

    Raises:
      ValueError: the inner structure is not that of the first network at these masks.
    """
    found = {group.name: group.size for group in inner.groups}
    wanted = {name: int(np.asarray(mask).sum()) for name, mask in masks.items()}
    if found != wanted:
        raise ValueError(
            f"the compact network has the groups {found}, not those of the masks: {wanted}"
        )
    whole = {}
    for group in structure.groups:
        rest = np.asarray(further[group.name])
        whole[group.name] = np.zeros((*rest.shape[:-1], group.size), np.float32)
        whole[group.name][..., np.asarray(masks[group.name]) > 0] = rest
    return whole


def widened(structure: Structure, masks: Masks, params: Any) -> Any:
    """Small parameters at the places and shapes of the first network; what is gone is 0.

    The inverse of `compact` as far as there is one: compacted with the same masks, the result gives
    back the small parameters.

    Args:
      structure: that of the first network.
      masks: {group: [size]} of 0 and 1, all that was kept.
      params: the parameters of the compact network.
    """
    kept = np.asarray(structure.flatten({name: np.asarray(mask) for name, mask in masks.items()}))
    keep = structure.expand(kept.astype(bool))
    leaves = []
    for leaf, shape, axes in zip(
        jax.tree.leaves(params), structure.shapes, structure.channels, strict=True
    ):
        if np.shape(leaf) == shape:
            leaves.append(leaf)
            continue
        whole = np.zeros(shape, leaf.dtype)
        whole[np.ix_(*(np.flatnonzero(keep[axis + 1]) for axis in axes))] = leaf
        leaves.append(jax.numpy.asarray(whole))
    return structure.treedef.unflatten(leaves)
