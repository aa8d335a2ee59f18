"""Which leaves of a tree belong to which parameters: in optimizer states, averages, gradients.

Such trees repeat the tree of the parameters, or a branch of it, at some places: Adam's state holds
it twice, and optax's masks leave some of its leaves out. A leaf is told by its place and shape.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune.dependency.groups import Structure
from jaxprune.errors import UserError

Place = tuple[str, ...]
Shape = tuple[int, ...]
Axes = tuple[int | None, ...]
_VALUE = jax.tree_util.GetAttrKey("value")


class Counterpart(NamedTuple):
    """The parameter that a leaf belongs to.

    Attributes:
      parameter: the number of its leaf.
      axes: the parameter's axis that each axis of the leaf is, or None: an axis of its own.
    """

    parameter: int
    axes: Axes


def places(tree: Any) -> list[Place]:
    """The place of each leaf of a tree, as names."""
    return [tuple(map(_name, path)) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _places_of_variables(tree: Any) -> list[Place]:
    """The places of leaves, those within the variables of Flax NNX as the places of these."""
    return [
        tuple(map(_name, path[:-1] if path and path[-1] == _VALUE else path))
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]


def counterparts(
    structure: Structure, tree: Any, shapes: Sequence[Shape], *, strict: bool
) -> list[Counterpart | None]:
    """The parameter that each leaf of a tree belongs to, None for leaves of other kinds.

    A branch of the tree belongs to the parameters if each of its leaves has the place of a
    parameter, or all of them have within one branch of the parameters. Shapes must be equal, but
    leaves may have further axes in front (a memory of several steps), lack some (factored second
    moments), or be single numbers.

    Args:
      structure: the structure of the parameters.
      tree: any tree.
      shapes: the shapes of the parameters.
      strict: whether it is an error if leaves have all places of a branch, and other shapes.

    Raises:
      UserError: it cannot be told which parameter, or which of its axes, a leaf belongs to.
    """
    search = _Search(structure, tree, shapes, strict)
    search.visit(list(range(len(search.places))), 0)
    return search.found


class _Search:
    def __init__(self, structure: Structure, tree: Any, shapes: Sequence[Shape], strict: bool):
        self.structure, self.strict = structure, strict
        self.shapes = shapes
        self.places = _places_of_variables(tree)
        self.sizes = [np.shape(leaf) for leaf in jax.tree.leaves(tree)]
        self.found: list[Counterpart | None] = [None] * len(self.places)
        own = _places_of_variables(structure.treedef.unflatten(range(len(shapes))))
        self.alone = own == [()]
        # {place within a branch: {the branch: the number of the leaf}}
        self.ends: dict[Place, dict[Place, int]] = defaultdict(dict)
        self.leaves: dict[Place, int] = defaultdict(int)  # {branch: how many leaves it has}
        for number, place in enumerate(own):
            for start in range(len(place) + 1):
                self.ends[place[start:]][place[:start]] = number
                self.leaves[place[:start]] += 1

    def visit(self, members: list[int], depth: int) -> None:
        """Looks for counterparts of leaves whose places begin alike, up to a depth."""
        fitting = self._fitting(members, depth)
        if fitting:
            for member, counterpart in zip(members, fitting, strict=True):
                self.found[member] = counterpart
            return
        children: dict[str, list[int]] = defaultdict(list)
        for member in members:
            if len(self.places[member]) > depth:
                children[self.places[member][depth]].append(member)
        for below in children.values():
            self.visit(below, depth + 1)

    def _fitting(self, members: list[int], depth: int) -> list[Counterpart] | None:
        """The counterparts of all members, if they form a branch like one of the parameters'."""
        within = [self.places[member][depth:] for member in members]
        if within == [()] and not self.alone:
            return None  # a leaf alone has no place that tells what it is
        branches = set.intersection(*(set(self.ends.get(place, ())) for place in within))
        fitting: dict[Place, list[Counterpart]] = {}
        for branch in sorted(branches, key=lambda branch: (len(branch), branch)):
            numbers = [self.ends[place][branch] for place in within]
            ways = [
                _axes(self.sizes[member], self.shapes[number])
                for member, number in zip(members, numbers, strict=True)
            ]
            if all(ways):
                fitting[branch] = list(map(self._only, members, numbers, ways))
                if branch == ():
                    break
            elif self.strict and len(members) == self.leaves[branch] > 1:
                self._refuse(members, numbers, ways)
        if not fitting:
            return None
        first, *others = fitting.values()
        if any(self._channels(other) != self._channels(first) for other in others):
            raise UserError(
                f"'{'/'.join(self.places[members[0]])}' may belong to any of "
                f"{['/'.join(branch) for branch in fitting]}; give a tree with the places of all "
                "parameters"
            )
        return first

    def _refuse(self, members: Sequence[int], numbers: Sequence[int], ways: Sequence[Any]) -> None:
        at = next(i for i, found in enumerate(ways) if not found)
        raise UserError(
            f"'{'/'.join(self.places[members[at]])}' has shape {self.sizes[members[at]]}, and the "
            f"parameter '{self.structure.paths[numbers[at]]}' in its place "
            f"{self.shapes[numbers[at]]}; make that part of the tree anew for the small network"
        )

    def _only(self, member: int, number: int, ways: Sequence[Axes]) -> Counterpart:
        candidates = [Counterpart(number, axes) for axes in ways]
        if len(ways) > 1 and len({repr(self._channels([each])) for each in candidates}) > 1:
            raise UserError(
                f"'{'/'.join(self.places[member])}' has shape {self.sizes[member]}, and more than "
                f"one axis of the parameter '{self.structure.paths[number]}' "
                f"{self.shapes[number]} may be its: make it anew for the small network"
            )
        return candidates[0]

    def _channels(self, found: Sequence[Counterpart]) -> list[list[list[int] | None]]:
        """The channels along each axis of some leaves."""
        return [
            [None if d is None else self.structure.channels[number][d].tolist() for d in axes]
            for number, axes in found
        ]


def _axes(shape: Shape, parameter: Shape) -> list[Axes]:
    """The ways in which the axes of a leaf can be those of a parameter."""
    more = len(shape) - len(parameter)
    if more >= 0 and shape[more:] == parameter:
        return [(*[None] * more, *range(len(parameter)))]
    if all(size == 1 for size in shape):
        return [(None,) * len(shape)]
    subsets = combinations(range(len(parameter)), len(shape))
    return [axes for axes in subsets if tuple(parameter[d] for d in axes) == shape]


def _name(key: Any) -> str:
    """A key of a pytree path as a plain name."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
