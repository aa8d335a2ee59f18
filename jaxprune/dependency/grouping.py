"""Finding the groups of channels in an analysed program."""

import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from jaxprune.dependency.atoms import FIXED, AtomTable, Axes, Axis, Reason
from jaxprune.dependency.counting import Counts, counts, size_of
from jaxprune.dependency.groups import NO_CHANNEL, Frozen, Group, Structure
from jaxprune.dependency.joints import factors, levels, settle
from jaxprune.dependency.layers import MULTIPLICATIONS, describe_layers, multiplied_axes
from jaxprune.dependency.program import Program, Step
from jaxprune.dependency.rules import RULES

_PARAMETERS = frozenset(
    {"kernel", "weight", "w", "embedding", "embeddings", "table", "bias", "b", "scale"}
)
"""What libraries call the parameters of a layer; any other name counts as a layer's."""

_EMBEDDING = "gather"  # of a parameter, with indices that are data


class Produced(NamedTuple):
    """An axis that a layer produces.

    Attributes:
      axis: the atoms of its positions.
      layer: the path of the layer, "input" for inputs.
      places: (leaf, axis) of the parameters that it is an axis of.
    """

    axis: Axis
    layer: str
    places: tuple[tuple[int, int], ...]


class Layers(NamedTuple):
    """What the layers of a program produce, read and cost.

    Attributes:
      produced: the axes that layers produce.
      consumed: the axes that are summed over, with the path of the layer that does, or "".
      terms: the multiply-adds of one example: a factor and the axes whose sizes multiply it.
    """

    produced: list[Produced]
    consumed: list[tuple[Axis, str]]
    terms: list[tuple[float, list[Axis]]]


@dataclass(frozen=True, eq=False)
class Members:
    """The channels, as classes of atoms.

    Attributes:
      bases: int64 [atoms, F]: the classes that each class depends on, see `joints.factors`.
      channel_of: int32 [atoms]: the channel of each class that is not a joint, or -1.
      groups: the representatives of each group's channels.
    """

    bases: np.ndarray
    channel_of: np.ndarray
    groups: list[np.ndarray]

    @cached_property
    def sizes(self) -> list[int]:
        """The number of channels of each group."""
        return [len(roots) for roots in self.groups]

    @cached_property
    def group_of(self) -> np.ndarray:
        """The group of each channel, int [C + 1]; the last entry, that of channel -1, is -1."""
        return np.append(np.repeat(np.arange(len(self.groups)), self.sizes), NO_CHANNEL)

    def channels(self, roots: np.ndarray) -> np.ndarray:
        """The channels that classes depend on: [n] -> [n, F], -1 for none."""
        return self.channel_of[self.bases[roots]]

    def groups_at(self, roots: np.ndarray) -> np.ndarray:
        """The groups of the channels that classes depend on: [n] -> [n, F], -1 for none."""
        return self.group_of[self.channels(roots)]


def build_structure(
    table: AtomTable,
    program: Program,
    *,
    treedef: Any,
    leaves: Sequence[Any],
    paths: Sequence[str],
    counted: Sequence[bool],
    inputs_tree: Any,
    inputs: Sequence[Any],
    batch: int,
    ignore: Sequence[str],
) -> Structure:
    """Finds the groups in an analysed program whose atoms are fully known.

    Args:
      table: what the analysis has learned about the atoms.
      program: the analysed function; its first inputs are the parameter leaves.
      treedef: the tree of the parameters.
      leaves: their leaves, as anything with shape and dtype.
      paths: the path of each leaf.
      counted: which leaves count as parameters.
      inputs_tree: the tree of the inputs.
      inputs: their leaves.
      batch: how many examples they hold.
      ignore: patterns (`fnmatch`) of layer paths whose channels stay whole.

    Raises:
      ValueError: a pattern in `ignore` matches no layer.
    """
    leaf_axes, input_axes = program.inputs[: len(leaves)], program.inputs[len(leaves) :]
    names = [_layer(path) for path in paths]
    layers = _layers(program, leaf_axes, input_axes, names, batch)
    layers.produced.extend(_by_modulated_kernels(table, program, layers, leaf_axes, names))
    _ignore(table, layers.produced, ignore)
    sites = [axis for axes in leaf_axes for axis in axes]
    sites += [axis for _, axes in layers.terms for axis in axes]
    members = _members(table, layers, sites)
    identity, joints = _identities(table, members, [*leaf_axes, *input_axes])
    groups = _groups(table, members, layers, paths, leaf_axes)

    def channels(axes: Axes) -> tuple[np.ndarray, ...]:
        return tuple(identity[table.find(axis)] for axis in axes)

    def total(items: Sequence[tuple[float, Sequence[Axis]]]) -> Counts:
        polynomials = [
            (
                factor,
                [size_of(members.groups_at(table.find(axis)), members.sizes) for axis in axes],
            )
            for factor, axes in items
        ]
        return counts(polynomials, len(groups))

    num_params = [
        math.prod(leaf.shape) if count else 0 for leaf, count in zip(leaves, counted, strict=True)
    ]

    def group_of(axes: Sequence[Axis]) -> int | None:
        return _most_of(len(groups), [members.groups_at(table.find(axis)) for axis in axes])

    return Structure(
        groups=groups,
        layers=describe_layers(program, names, num_params, batch, group_of),
        frozen=_frozen(table, members, layers.produced, leaf_axes),
        treedef=treedef,
        paths=tuple(paths),
        shapes=tuple(tuple(leaf.shape) for leaf in leaves),
        channels=tuple(channels(axes) for axes in leaf_axes),
        joints=joints,
        producers=_unique(place for produced in layers.produced for place in produced.places),
        inputs_tree=inputs_tree,
        input_shapes=tuple(tuple(leaf.shape) for leaf in inputs),
        input_channels=tuple(channels(axes) for axes in input_axes),
        param_counts=total(
            [(1.0, axes) for axes, count in zip(leaf_axes, counted, strict=True) if count]
        ),
        mac_counts=total(layers.terms),
    )


# -- what layers do -------------------------------------------------------------------------------


def _layers(
    program: Program,
    leaf_axes: Sequence[Axes],
    input_axes: Sequence[Axes],
    names: Sequence[str],
    batch: int,
) -> Layers:
    found = Layers([], [], [])
    for axes in input_axes:
        found.produced.extend(Produced(a, "input", ()) for a in axes if (a != FIXED).any())
    for step, times in program.walk():
        # A product of parameters is itself a parameter: it produces and costs nothing.
        if step.name not in (*MULTIPLICATIONS, _EMBEDDING) or all(step.from_params):
            continue
        rule = RULES[step.name]
        pairs = rule.summed(step.eqn) if rule.summed else []
        if step.name in MULTIPLICATIONS:
            found.terms.append(_term(times / batch, multiplied_axes(step)))
        for operand, axes in enumerate(step.inputs):
            summed = [d for pair in pairs for which, d in pair if which == operand]
            leaf = step.origins[operand]
            name = names[leaf] if leaf is not None and leaf >= 0 else ""
            found.consumed.extend((_within_group(step, axes[d]), name) for d in summed)
            indices = step.name == _EMBEDDING and operand > 0
            if not name or leaf is None or indices:
                continue
            for d, axis in enumerate(axes):
                if d not in summed and any(axis is result for result in step.outputs[0]):
                    places = _places(leaf, leaf_axes[leaf], axis, [axes[d] for d in summed])
                    found.produced.append(Produced(axis, name, places))
    return found


def _by_modulated_kernels(
    table: AtomTable,
    program: Program,
    layers: Layers,
    leaf_axes: Sequence[Axes],
    names: Sequence[str],
) -> list[Produced]:
    """What kernels produce that were multiplied by data: StyleGAN's, one for each example.

    Such a kernel is not a parameter, but its axes are still those of one.
    """
    known = np.zeros(table.size, bool)
    for produced in layers.produced:
        known[table.find(produced.axis)] = True
    place_of = {
        int(axis[0]): (leaf, d)
        for leaf, axes in enumerate(leaf_axes)
        for d, axis in enumerate(axes)
        if axis.any()
    }
    found = []
    for step, _ in program.walk():
        if step.name not in MULTIPLICATIONS or any(step.from_params):
            continue
        for axis in (axis for axes in step.inputs for axis in axes):
            if not any(axis is result for result in step.outputs[0]):
                continue
            roots = table.find(axis)
            place = place_of.get(int(axis[0]))
            if place is None or known[roots].any() or not table.removable(roots).all():
                continue
            known[roots] = True
            leaf, d = place
            found.append(Produced(leaf_axes[leaf][d], names[leaf], (place,)))
    return found


def _within_group(step: Step, summed: Axis) -> Axis:
    """What a step sums over: a grouped convolution over the channels of a group, not over groups.

    The groups may be members of an ensemble, or examples with kernels of their own.
    """
    if step.eqn.params.get("feature_group_count", 1) == 1:
        return summed
    return step.inputs[1][step.eqn.params["dimension_numbers"].rhs_spec[1]]


def _places(
    leaf: int, axes: Axes, axis: Axis, summed: Sequence[Axis]
) -> tuple[tuple[int, int], ...]:
    """The axes of a parameter that an axis of a value made from it comes from."""
    same = [d for d, own in enumerate(axes) if len(own) == len(axis) and (own == axis).all()]
    if (axis == FIXED).all():  # one output, as of a regression: the axis that is not summed over
        same = [d for d in same if not any(axes[d] is other for other in summed)]
    if same:
        return ((leaf, same[-1]),)
    apart = [own for own in axes if not any(own is other for other in summed)]
    return tuple(
        (leaf, d)
        for d, own in enumerate(axes)
        if any(own is other for other in apart) and (own != FIXED).any()
    )


def _term(factor: float, axes: Sequence[Axis]) -> tuple[float, list[Axis]]:
    """A product of sizes: a factor with the sizes that never change, and the other axes."""
    fixed = [len(axis) for axis in axes if (axis == FIXED).all()]
    free = [axis for axis in axes if (axis != FIXED).any()]
    return factor * float(np.prod(fixed, dtype=np.float64)), free


def _ignore(table: AtomTable, produced: Sequence[Produced], patterns: Sequence[str]) -> None:
    for pattern in patterns:
        matched = [each.axis for each in produced if fnmatch.fnmatch(each.layer, pattern)]
        if not matched:
            names = list(_unique(each.layer for each in produced))
            raise ValueError(f"ignore: '{pattern}' matches no layer; the layers are {names}")
        for axis in matched:
            table.freeze(axis[axis != FIXED], Reason(f"ignored by '{pattern}'", ""))


# -- channels -------------------------------------------------------------------------------------


def _members(table: AtomTable, layers: Layers, sites: Sequence[Axis]) -> Members:
    """The channels, group by group, after freezing those that cannot be removed on their own."""
    while True:
        settle(table)
        members = _candidates(table, layers, sites)
        irregular = _irregular(table, members, sites)
        if len(irregular):
            table.freeze(irregular, Reason("they are coupled in an irregular way", ""))
            continue
        alone = [roots for roots in members.groups if len(roots) == 1]
        if not alone:
            return members
        table.freeze(np.concatenate(alone), Reason("all its channels are coupled", ""))


def _candidates(table: AtomTable, layers: Layers, sites: Sequence[Axis]) -> Members:
    """What one layer produces, another reads, and may be removed, grouped by where it appears."""
    num_atoms = table.size
    bases = factors(table, table.find(np.arange(num_atoms)))
    random = np.random.default_rng(0)
    signature = np.zeros(num_atoms, np.uint64)  # a hash of where each class appears, how often
    for axis in sites:
        for column in bases[table.find(axis)].T:
            np.add.at(signature, column, random.integers(1, 2**63, dtype=np.uint64))
    is_produced, is_consumed = np.zeros(num_atoms, bool), np.zeros(num_atoms, bool)
    for produced in layers.produced:
        is_produced[bases[table.find(produced.axis)]] = True
    for axis, _ in layers.consumed:
        is_consumed[bases[table.find(axis)]] = True
    is_channel = is_produced & is_consumed & table.removable(np.arange(num_atoms))

    members: dict[int, list[np.ndarray]] = {}  # signature -> roots, in the order of computation
    seen = np.zeros(num_atoms, bool)
    for produced in layers.produced:
        for roots in bases[table.find(produced.axis)].T:
            _, first = np.unique(roots, return_index=True)
            new = roots[np.sort(first)]
            new = new[is_channel[new] & ~seen[new]]
            seen[new] = True
            for value in dict.fromkeys(signature[new].tolist()):
                members.setdefault(value, []).append(new[signature[new] == value])
    groups = [np.concatenate(pieces) for pieces in members.values()]
    channel_of = np.full(num_atoms, NO_CHANNEL, np.int32)
    if groups:
        roots = np.concatenate(groups)
        channel_of[roots] = np.arange(len(roots))
    return Members(bases, channel_of, groups)


def _irregular(table: AtomTable, members: Members, sites: Sequence[Axis]) -> np.ndarray:
    """The channels whose joints do not form a whole product of groups, as a regular axis must.

    Also those that occur in a joint whose other factor is not a channel.
    """
    found = []
    for axis in sites:
        roots = table.find(axis)
        channels = members.channels(roots)
        if ((channels != NO_CHANNEL).sum(1) < 2).all():
            continue
        channels = np.sort(channels, axis=1)
        kinds, kind = np.unique(members.group_of[channels], axis=0, return_inverse=True)
        for k, row in enumerate(kinds):
            inside = kind.reshape(-1) == k
            _, repeats = np.unique(channels[inside], axis=0, return_counts=True)
            product = np.prod([members.sizes[group] for group in row if group >= 0])
            if len(repeats) != product or (repeats != repeats[0]).any():
                bases = members.bases[roots[inside]]
                found.append(bases[members.channel_of[bases] != NO_CHANNEL])
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)


def _identities(
    table: AtomTable, members: Members, values: Sequence[Axes]
) -> tuple[np.ndarray, np.ndarray]:
    """The number of each class, int32 [atoms] (channels, then joints, or -1), and the joints."""
    identity = members.channel_of.copy()
    ordered = levels(table)
    wanted = np.zeros(table.size, bool)
    for axis in (axis for axes in values for axis in axes):
        wanted[table.find(axis)] = True
    for rows in reversed(ordered):
        wanted[rows[wanted[rows[:, 0]], 1:]] = True
    count, joints = sum(members.sizes), [np.zeros((0, 2), np.int32)]
    for rows in ordered:
        rows = rows[wanted[rows[:, 0]]]
        left, right = identity[rows[:, 1]], identity[rows[:, 2]]
        both = (left != NO_CHANNEL) & (right != NO_CHANNEL)
        identity[rows[:, 0]] = np.maximum(left, right)
        identity[rows[both, 0]] = count + np.arange(both.sum())
        count += int(both.sum())
        joints.append(np.stack([left[both], right[both]], axis=1))
    return identity, np.concatenate(joints).astype(np.int32)


# -- presentation ---------------------------------------------------------------------------------


def _groups(
    table: AtomTable,
    members: Members,
    layers: Layers,
    paths: Sequence[str],
    leaf_axes: Sequence[Axes],
) -> tuple[Group, ...]:
    def involved(axis: Axis) -> set[int]:
        return set(np.unique(members.groups_at(table.find(axis))).tolist()) - {NO_CHANNEL}

    producing: list[dict[str, None]] = [{} for _ in members.groups]
    reading: list[dict[str, None]] = [{} for _ in members.groups]
    carried: list[dict[str, None]] = [{} for _ in members.groups]
    for produced in layers.produced:
        for group in involved(produced.axis):
            producing[group][produced.layer] = None
    for axis, layer in layers.consumed:
        for group in involved(axis) if layer else ():
            reading[group][layer] = None
    for path, axes in zip(paths, leaf_axes, strict=True):
        for group in set().union(*map(involved, axes)):
            carried[group][path] = None
    groups: list[Group] = []
    taken: set[str] = set()
    for size, *names in zip(members.sizes, producing, reading, carried, strict=True):
        first = next(iter(names[0]))
        name, copy = first, 2
        while name in taken:
            name, copy = f"{first}#{copy}", copy + 1
        taken.add(name)
        groups.append(Group(name, size, *map(tuple, names)))
    return tuple(groups)


def _most_of(num_groups: int, axes: Sequence[np.ndarray]) -> int | None:
    """The group with the largest share of some axes, each given as int [size, F]."""
    share = np.zeros(num_groups)
    for groups in axes:
        found = groups[groups != NO_CHANNEL]
        share += np.bincount(found, minlength=num_groups) / len(groups)
    return int(np.argmax(share)) if share.any() else None


def _frozen(
    table: AtomTable,
    members: Members,
    produced: Sequence[Produced],
    leaf_axes: Sequence[Axes],
) -> tuple[Frozen, ...]:
    """The produced axes that cannot be removed, one entry for each class."""
    found: dict[tuple[int, str], tuple[list[str], Reason]] = {}
    sizes: dict[tuple[int, str], int] = {}
    for axis, layer, places in produced:
        if len(places) == 1:  # the parameter's own axis, which nothing has repeated
            axis = leaf_axes[places[0][0]][places[0][1]]
        roots = table.find(axis[axis != FIXED])
        stays = (members.channels(roots) == NO_CHANNEL).all(1)
        if not stays.any():
            continue
        first = int(roots[stays].min())
        reason = table.reason(first) or Reason("no layer reads them", "")
        names, _ = found.setdefault((first, reason.message), ([], reason))
        names.append(layer)
        sizes[first, reason.message] = max(sizes.get((first, reason.message), 0), int(stays.sum()))
    return tuple(
        Frozen(_unique(names), sizes[key], reason.message, reason.source)
        for key, (names, reason) in found.items()
    )


def _layer(path: str) -> str:
    """The path of the layer that a parameter belongs to: "block/conv" of "block/conv/kernel"."""
    parts = path.split("/")
    if parts[-1] == "value" and parts[-2:-1] and parts[-2] in _PARAMETERS:
        parts.pop()  # Flax NNX: "conv/kernel/value"
    if len(parts) > 1 and parts[-1] in _PARAMETERS:
        parts.pop()
    return "/".join(parts)


def _unique(items: Any) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(items))
