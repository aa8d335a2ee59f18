"""How channels of different groups are compared, where one ranking decides what is removed."""

from typing import Any

import numpy as np

from jaxprune.costs import within_groups
from jaxprune.dependency import Structure

SCOPES = ("global", "uniform", "isomorphic", "raw")
"""The ways to compare channels of different groups, see `comparable`."""


def comparable(structure: Structure, scores: Any, scope: str) -> Any:
    """Scores that can be compared across groups. Within a group their order is that of the scores.

    - "global": the score divided by the mean score of the group.
    - "uniform": the rank within the group over its size, which takes the same fraction of each.
    - "isomorphic": the rank among the groups that are alike, over the number of their channels. So
      scores are compared as they are, but only like with like, and the same fraction is taken of
      each kind of group (Fang, Ma, Mi and Wang, "Isomorphic pruning for vision models", ECCV 2024,
      arXiv 2407.04616, sec. 3; see `kinds`).
    - "raw": the score as it is, for criteria made to be compared across layers (LAMP, SNIP, GraSP,
      Taylor, BatchNorm scales).

    Args:
      structure: what `trace` returned.
      scores: [num_channels], larger = keep; concrete for "isomorphic".
      scope: one of `SCOPES`.

    Returns:
      [num_channels], a numpy or JAX array.
    """
    sizes = tuple(group.size for group in structure.groups)
    if scope == "global":
        return within_groups.relative(sizes, scores)
    if scope == "uniform":
        return (within_groups.rank(sizes, scores) + 0.5) / within_groups.size(sizes)
    if scope == "isomorphic":
        kind = kinds(structure)[structure.group_index]
        # A stable sort by kind and then score: ties stay in the order of the channels.
        order = np.lexsort((np.asarray(scores), kind))
        count = np.bincount(kind)
        place = np.empty(len(kind), np.float32)
        place[order] = np.arange(len(kind)) - (np.cumsum(count) - count)[kind[order]] + 0.5
        return place / count[kind]
    return scores


def kinds(structure: Structure) -> np.ndarray:
    """Which groups are alike: int32 [G], equal for groups of one kind, from 0 on.

    Groups are alike if as many layers with the same windows produce them and read them, as many
    parameters lie along them, and they take the same part in the axes that they share with other
    groups, as heads and the features of a head do. Widths and map sizes do not count.

    Departure: the paper compares the graphs of the operations that a removal touches. Here windows
    are told apart, so that channels between two 3x3 convolutions are not compared with those
    between two 1x1 ones; operations without parameters are not.
    """
    windows = {layer.path: layer.kernel for layer in structure.layers}
    index = structure.group_index
    joints = structure.joints
    factors = [
        {int(index[channel]) for channel in side if channel < structure.num_channels}
        for side in (joints[:, 0], joints[:, 1])
    ]
    known: dict[Any, int] = {}
    found = []
    for g, group in enumerate(structure.groups):
        form = (
            tuple(sorted(windows.get(path, ()) for path in group.layers)),
            tuple(sorted(windows.get(path, ()) for path in group.consumers)),
            len(group.carried),
            tuple(g in side for side in factors),
        )
        found.append(known.setdefault(form, len(known)))
    return np.array(found, np.int32)
