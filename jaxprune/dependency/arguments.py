"""The full sizes of arguments that are given at small ones.

What a compact network returns is small: an optimizer's state, a cache, a latent. Given to it again,
or to another compact function, its full size is not known. Guesses are made here, from what is most
likely on; the one is right with which the function can be traced and makes the argument as small as
it is.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, islice, product
from typing import Any

import jax
import numpy as np

from jaxprune.dependency.groups import NO_CHANNEL, Structure
from jaxprune.dependency.likeness import Shape, counterparts
from jaxprune.dependency.trace import known_inputs

_MOST_GUESSES = 64


def by_likeness(
    structure: Structure, keep: np.ndarray, small_shapes: Sequence[Shape], arguments: Any
) -> list[Shape]:
    """Arguments that are like the small parameters, or like the inputs, are of their full size.

    Args:
      structure: the structure of the parameters.
      keep: bool: `Structure.expand` of the channels that are kept.
      small_shapes: the shapes of the small parameters.
      arguments: what follows the parameters, a tuple.

    Returns:
      The full shape of each leaf; of others the shape that is given.
    """
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(arguments)]
    # One by one: the numbers of the arguments are no places of parameters.
    all_found = [
        found
        for argument in arguments
        for found in counterparts(structure, argument, small_shapes, strict=False)
    ]
    for leaf, found in enumerate(all_found):
        if found is not None:
            full = structure.shapes[found.parameter]
            shapes[leaf] = tuple(
                size if d is None else full[d]
                for size, d in zip(shapes[leaf], found.axes, strict=True)
            )
    inputs = known_inputs(structure, arguments)
    for leaf, (_, axes) in enumerate(zip(inputs, structure.input_channels, strict=False)):
        shapes[leaf] = tuple(
            len(axis) if d and size == keep[axis + 1].sum() and (axis != NO_CHANNEL).any() else size
            for d, (size, axis) in enumerate(zip(shapes[leaf], axes, strict=True))
        )
    return shapes


def like_earlier(
    shapes: Sequence[Shape], earlier: Sequence[tuple[np.ndarray, ...]]
) -> list[Shape] | None:
    """The full shapes of an earlier call's arguments, None if these cannot be such.

    Args:
      shapes: the shapes of the arguments.
      earlier: for each argument of a call with the same tree, and each of its axes, which positions
        are kept: bool [full size].
    """
    found = []
    for shape, axes in zip(shapes, earlier, strict=True):
        if len(shape) != len(axes):
            return None
        sizes = []
        for size, kept in zip(shape, axes, strict=True):
            full = len(kept)
            if not kept.all() and size not in (full, kept.sum()):
                return None
            sizes.append(size if kept.all() else full)
        found.append(tuple(sizes))
    return found


def guesses(
    structure: Structure, keep: np.ndarray, arguments: Sequence[Any]
) -> Iterator[list[Shape]]:
    """Full shapes with axes as the parameters have them: first few such axes, or almost all.

    Leaves of equal shape within one argument are taken to be of equal full shape.
    """
    shapes = [
        (number, np.shape(leaf))
        for number, argument in enumerate(arguments)
        for leaf in jax.tree.leaves(argument)
    ]
    full_sizes: dict[int, set[int]] = {}
    for axis in (axis for axes in structure.channels for axis in axes):
        small = int(keep[axis + 1].sum())
        if small != len(axis):
            full_sizes.setdefault(small, set()).add(len(axis))
    places = [
        (kind, d)
        for kind in dict.fromkeys(shapes)
        for d, size in enumerate(kind[1])
        if size in full_sizes
    ]

    def all_of_them() -> Iterator[list[Shape]]:
        counts = range(1, len(places) + 1)
        for count in sorted(counts, key=lambda count: min(count, len(places) - count + 1)):
            for chosen in combinations(places, count):
                for sizes in product(*(sorted(full_sizes[kind[1][d]]) for kind, d in chosen)):
                    full = dict(zip(chosen, sizes, strict=True))
                    yield [
                        tuple(full.get((kind, d), size) for d, size in enumerate(kind[1]))
                        for kind in shapes
                    ]

    return islice(all_of_them(), _MOST_GUESSES)
