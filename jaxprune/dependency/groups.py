"""The structure of a network: its groups of channels, and what they are counted in."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.dependency.atoms import FIXED, AtomTable, Axis, Reason
from jaxprune.dependency.program import Program, Step
from jaxprune.dependency.rules import summed

Masks = Mapping[str, Any]
"""{group name: [size]}, 1 = keep, 0 = remove."""

NO_CHANNEL = -1


class Group(NamedTuple):
    """Channels that some layers produce together: channel i of each goes or stays as one.

    Attributes:
      name: the path of the first layer that produces the channels.
      size: how many channels there are.
      layers: the paths of all layers that produce them; several are coupled through a sum.
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


class Counts(NamedTuple):
    """Products of axis sizes, as functions of the groups' widths.

    Term t is `factor[t] * prod_d (fixed[t, d] + sum_g multiple[t, d, g] * width[g])`.

    Attributes:
      factor: float64 [T].
      fixed: int64 [T, D].
      multiple: int64 [T, D, G].
    """

    factor: np.ndarray
    fixed: np.ndarray
    multiple: np.ndarray

    def total(self, widths: Any, xp: Any = np) -> Any:
        """The sum of all terms at `widths` [G]; `xp` is numpy (exact) or jax.numpy (traceable)."""
        dtype = np.float64 if xp is np else jnp.float32
        sizes = xp.asarray(self.fixed, dtype) + xp.asarray(self.multiple, dtype) @ widths
        return (xp.asarray(self.factor, dtype) * xp.prod(sizes, axis=1)).sum()


@dataclass(frozen=True, eq=False)
class Structure:
    """Which channels a network's parameters have, and which of them go together.

    Channels are numbered group by group, from 0 to `num_channels` - 1. `print(structure)` shows
    the groups as a table.

    Attributes:
      groups: the groups in the order in which the network computes them.
      frozen: produced channels that cannot be removed, with the reason.
      treedef: the tree of the parameters.
      paths: the path of each parameter leaf.
      shapes: the shape of each parameter leaf.
      channels: for each leaf and axis, int32 [size]: the channel of each position or -1.
      producers: (leaf, axis) pairs whose positions are the outputs of a layer.
      inputs_tree: the tree of the inputs the network was traced with.
      input_shapes: the shape of each input leaf.
      input_channels: the same for each input leaf and axis.
      param_counts: the number of trainable parameters.
      mac_counts: the number of multiply-adds for one example.
    """

    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    treedef: Any
    paths: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    channels: tuple[tuple[np.ndarray, ...], ...]
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
        xp = np if all(isinstance(m, np.ndarray) for m in masks.values()) else jnp
        return xp.concatenate([xp.asarray(masks[group.name]) for group in self.groups], axis=-1)

    def unflatten(self, vector: Any) -> dict[str, Any]:
        """The masks of one array [..., num_channels].

        Raises:
          ValueError: the last axis has another size.
        """
        if vector.shape[-1] != self.num_channels:
            raise ValueError(
                f"a flat mask has {self.num_channels} entries in its last axis, got shape "
                f"{tuple(vector.shape)}"
            )
        ends = np.cumsum([group.size for group in self.groups])
        return {
            group.name: vector[..., end - group.size : end]
            for group, end in zip(self.groups, ends, strict=True)
        }

    def widths(self, masks: Masks) -> Any:
        """How many channels of each group are kept: [..., G]."""
        self.check_masks(masks)
        xp = np if all(isinstance(m, np.ndarray) for m in masks.values()) else jnp
        return xp.stack([masks[group.name].sum(-1) for group in self.groups], axis=-1)

    def check_masks(self, masks: Masks) -> None:
        """Raises ValueError unless there is one mask of the right size for each group."""
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
          ValueError: tree or shapes are not those that were traced.
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
        widths = np.array([group.size for group in self.groups], np.float64)
        rows = [("group", "channels", "layers", "read by")]
        for group in self.groups:
            rows.append(
                (group.name, str(group.size), _shorten(group.layers), _shorten(group.consumers))
            )
        lines = _table(rows)
        for frozen in self.frozen:
            where = f" at {frozen.source}" if frozen.source else ""
            names = ", ".join(frozen.layers)
            lines.append(f"frozen: {names} ({frozen.size} channels): {frozen.reason}{where}")
        lines.append(
            f"{len(self.groups)} groups, {self.num_channels} channels, "
            f"{self.param_counts.total(widths):,.0f} parameters, "
            f"{self.mac_counts.total(widths):,.0f} multiply-adds per example"
        )
        return "\n".join(lines)

    __repr__ = __str__


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
    """Finds the groups in an analysed program, once nothing more is learned about its atoms.

    Args:
      table: what the analysis has learned.
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
    num_leaves = len(leaves)
    leaf_axes, input_axes = program.inputs[:num_leaves], program.inputs[num_leaves:]
    owner = {
        int(atom): (leaf, d)
        for leaf, axes in enumerate(leaf_axes)
        for d, axis in enumerate(axes)
        for atom in axis[:1]
        if atom != FIXED
    }
    layers = [_layer(path) for path in paths]

    def leaf_of(axis: Axis) -> tuple[int, int] | None:
        """The parameter axis that positions come from, if they come from one as a whole."""
        found = owner.get(int(axis[0])) if len(axis) else None
        if found is not None and np.array_equal(leaf_axes[found[0]][found[1]], axis):
            return found
        return None

    produced: list[tuple[Axis, str, tuple[int, int] | None]] = []
    consumed: list[tuple[Axis, str]] = []
    terms: list[tuple[float, list[Axis]]] = []
    for axes in input_axes:
        produced += [(axis, "input", None) for axis in axes if (axis != FIXED).any()]
    for step in program.walk():
        if not _multiplies(step):
            continue
        sums = summed(step.eqn)
        terms.append(_multiply_adds(step, sums, batch))
        for operand, axes in enumerate(step.inputs):
            if not step.from_params[operand]:
                continue
            summed_axes = [axis for pair in sums for which, axis in pair if which == operand]
            for d, axis in enumerate(axes):
                place = leaf_of(axis)
                if place is None:
                    continue
                if d in summed_axes:
                    consumed.append((axis, layers[place[0]]))
                elif any(axis is result for result in step.outputs[0]):
                    produced.append((axis, layers[place[0]], place))
        for pair in sums:
            consumed += [(step.inputs[which][d], "") for which, d in pair]

    _ignore(table, [(axis, layer) for axis, layer, _ in produced], ignore)

    num_atoms = table.fresh(2)[-1] + 1
    random = np.random.default_rng(0)
    signature = np.zeros(num_atoms, np.uint64)  # of each class: where it appears, and how often
    sites = [axis for axes in leaf_axes for axis in axes] + [
        axis for _, axes in terms for axis in axes
    ]
    for axis in sites:
        np.add.at(signature, table.find(axis), random.integers(1, 2**63, dtype=np.uint64))

    is_produced, is_consumed = np.zeros(num_atoms, bool), np.zeros(num_atoms, bool)
    for axis, _, _ in produced:
        is_produced[table.find(axis)] = True
    for axis, _ in consumed:
        is_consumed[table.find(axis)] = True
    everything = np.arange(num_atoms)
    removable = table.removable(everything)
    is_channel = is_produced & is_consumed & removable

    members: dict[int, list[np.ndarray]] = {}  # signature -> roots, in the order of computation
    seen = np.zeros(num_atoms, bool)
    for axis, _, _ in produced:
        roots = table.find(axis)
        _, first = np.unique(roots, return_index=True)
        roots = roots[np.sort(first)]
        roots = roots[is_channel[roots] & ~seen[roots]]
        seen[roots] = True
        for value in dict.fromkeys(signature[roots].tolist()):
            members.setdefault(value, []).append(roots[signature[roots] == value])

    channel_of = np.full(num_atoms, NO_CHANNEL, np.int32)
    groups: list[Group] = []
    start = 0
    for pieces in members.values():
        roots = np.concatenate(pieces)
        channel_of[roots] = start + np.arange(len(roots))
        start += len(roots)
        inside = np.zeros(num_atoms, bool)
        inside[roots] = True
        layer_names = _unique(name for axis, name, _ in produced if inside[table.find(axis)].any())
        reading = _unique(
            name for axis, name in consumed if name and inside[table.find(axis)].any()
        )
        carried = _unique(
            path
            for path, axes in zip(paths, leaf_axes, strict=True)
            if any(inside[table.find(axis)].any() for axis in axes)
        )
        taken = {group.name for group in groups}
        name, copy = layer_names[0], 2
        while name in taken:
            name, copy = f"{layer_names[0]}#{copy}", copy + 1
        groups.append(Group(name, len(roots), layer_names, reading, carried))

    def channels(axes: Sequence[Axis]) -> tuple[np.ndarray, ...]:
        return tuple(channel_of[table.find(axis)] for axis in axes)

    def counts(items: Sequence[tuple[float, Sequence[Axis]]]) -> Counts:
        return _counts([(factor, channels(axes)) for factor, axes in items], groups)

    return Structure(
        groups=tuple(groups),
        frozen=_frozen(table, produced),
        treedef=treedef,
        paths=tuple(paths),
        shapes=tuple(tuple(leaf.shape) for leaf in leaves),
        channels=tuple(channels(axes) for axes in leaf_axes),
        producers=_unique(place for _, _, place in produced if place is not None),
        inputs_tree=inputs_tree,
        input_shapes=tuple(tuple(leaf.shape) for leaf in inputs),
        input_channels=tuple(channels(axes) for axes in input_axes),
        param_counts=counts(
            [(1.0, axes) for axes, count in zip(leaf_axes, counted, strict=True) if count]
        ),
        mac_counts=counts(terms),
    )


def _multiplies(step: Step) -> bool:
    """Is the step a matrix product or a convolution of data?"""
    return step.eqn.primitive.name in ("dot_general", "conv_general_dilated") and not all(
        step.from_params
    )


def _multiply_adds(step: Step, sums: Any, batch: int) -> tuple[float, list[Axis]]:
    """The multiply-adds of a step for one example: a factor and the axes to multiply it by."""
    axes = list(step.outputs[0])
    if step.eqn.primitive.name == "conv_general_dilated":
        spec = step.eqn.params["dimension_numbers"]
        axes += [step.inputs[1][d] for d in spec.rhs_spec[1:]]
    else:
        axes += [step.inputs[which][d] for (which, d), *_ in sums]
    fixed = [len(axis) for axis in axes if (axis == FIXED).all()]
    return float(np.prod(fixed, dtype=np.float64)) / batch, [a for a in axes if (a != FIXED).any()]


def _counts(items: Sequence[tuple[float, Sequence[np.ndarray]]], groups: Sequence[Group]) -> Counts:
    """Counts from the channels of axes; a group's channels appear equally often in an axis."""
    sizes = np.array([group.size for group in groups], np.int64)
    index = np.repeat(np.arange(len(groups)), sizes)
    depth = max((len(axes) for _, axes in items), default=1)
    fixed = np.ones((len(items), depth), np.int64)
    multiple = np.zeros((len(items), depth, len(groups)), np.int64)
    for t, (_, axes) in enumerate(items):
        for d, axis in enumerate(axes):
            inside = axis[axis != NO_CHANNEL]
            fixed[t, d] = len(axis) - len(inside)
            multiple[t, d] = np.bincount(index[inside], minlength=len(groups)) // np.maximum(
                sizes, 1
            )
    return Counts(np.array([factor for factor, _ in items], np.float64), fixed, multiple)


def _frozen(table: AtomTable, produced: Sequence[tuple[Axis, str, Any]]) -> tuple[Frozen, ...]:
    """The produced axes that are frozen, one entry for those that are frozen together."""
    found: dict[tuple[int, str], tuple[list[str], Reason]] = {}
    sizes: dict[tuple[int, str], int] = {}
    for axis, layer, _ in produced:
        atoms = axis[axis != FIXED]
        if not len(atoms) or table.removable(atoms).all():
            continue
        first = int(table.find(atoms).min())
        reason = table.reason(first) or Reason("it cannot be removed", "")
        names, _ = found.setdefault((first, reason.message), ([], reason))
        names.append(layer)
        sizes[first, reason.message] = int((~table.removable(atoms)).sum())
    return tuple(
        Frozen(_unique(names), sizes[key], reason.message, reason.source)
        for key, (names, reason) in found.items()
    )


def _ignore(
    table: AtomTable, produced: Sequence[tuple[Axis, str]], patterns: Sequence[str]
) -> None:
    for pattern in patterns:
        matched = [axis for axis, layer in produced if fnmatch.fnmatch(layer, pattern)]
        if not matched:
            names = list(_unique(layer for _, layer in produced))
            raise ValueError(f"ignore: '{pattern}' matches no layer; the layers are {names}")
        for axis in matched:
            table.freeze(axis[axis != FIXED], Reason(f"ignored by '{pattern}'", ""))


def _layer(path: str) -> str:
    """The path of the layer that a parameter belongs to."""
    return path.rpartition("/")[0] or path


def _shorten(names: Sequence[str], most: int = 2) -> str:
    more = f" (+{len(names) - most} more)" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _unique(items: Any) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(items))


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
