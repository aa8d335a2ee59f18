"""What a user forbids: least and greatest widths of groups, multiples, equal widths."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import ceil, floor
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from jaxprune.dependency import Structure
from jaxprune.errors import UserError


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


@dataclass(frozen=True)
class Kept:
    """How many channels of a group may be kept.

    An int counts channels, a float in (0, 1] is a fraction of the group's size: `1` is one channel,
    `1.0` all of them. Fractions are rounded to what they allow: `least` up, `most` down.

    Attributes:
      least: never fewer; `Kept(least=1.0)` keeps the group whole.
      most: never more, even if the budget is met without: the rest is always removed.
    """

    least: int | float = 1
    most: int | float = 1.0

    def __post_init__(self) -> None:
        for name in ("least", "most"):
            value = getattr(self, name)
            if _is_count(value):
                if value < 1:
                    raise UserError(f"{name} is {value}: at least one channel of a group is kept")
            elif not isinstance(value, float) or not 0 < value <= 1:
                raise UserError(
                    f"{name} is {value!r}; give a number of channels (an int) or a fraction of the "
                    "group (a float in (0, 1])"
                )

    def bounds(self, size: int) -> tuple[int, int]:
        """The least and the greatest width of a group of this size."""
        rounding = 1e-9  # 0.1 * 30 is a little more than 3
        least, most = self.least, self.most
        return (
            int(least) if _is_count(least) else ceil(least * size - rounding),
            min(size, int(most) if _is_count(most) else floor(most * size + rounding)),
        )


@dataclass(frozen=True)
class Limits:
    """Which widths the groups of a network may have.

    ::

        Limits(
            min_size=8,
            round_to=8,
            groups={"conv1": Kept(least=0.75), "stage*": Kept(most=128)},
            equal=(("encoder*", "decoder*"),),
        )

    Attributes:
      min_size: the least number of channels kept in every group.
      round_to: kept widths are multiples of it. The full width of a group is always allowed,
        multiple or not; a group that holds no smaller multiple stays whole.
      groups: {`fnmatch` pattern: what is kept of the groups whose name it matches, or the name of a
        layer that produces them}. All patterns that match a group hold for it, and `min_size` too.
      equal: sets of patterns; the groups that match a pattern of the same set, all of one size,
        keep equal widths. Which of their channels these are is each group's own.
    """

    min_size: int = 1
    round_to: int = 1
    groups: Mapping[str, Kept] = field(default_factory=dict, hash=False)
    equal: Sequence[Sequence[str]] = ()

    def __post_init__(self) -> None:
        for name in ("min_size", "round_to"):
            value = getattr(self, name)
            if not _is_count(value) or value < 1:
                raise UserError(f"{name} is {value!r}; it is a number of channels, at least 1")
        for pattern, kept in self.groups.items():
            if not isinstance(kept, Kept):
                raise UserError(
                    f"limits of '{pattern}' are {kept!r}; write Kept(least=..., most=...)"
                )
        if any(isinstance(patterns, str) for patterns in self.equal):
            raise UserError(
                f"equal is {self.equal!r}; it holds sets of patterns: "
                f"equal=(('conv1', 'conv2'),) is one set of two"
            )
        object.__setattr__(self, "equal", tuple(map(tuple, self.equal)))  # can be hashed


NO_LIMITS = Limits()
"""At least one channel of each group stays, and nothing else is asked."""


class Choice(NamedTuple):
    """The widths that a group may have, or several groups together.

    Attributes:
      groups: the indices of groups that always have equal widths; mostly a single one.
      widths: int [W], from the greatest allowed width to the least.
    """

    groups: tuple[int, ...]
    widths: np.ndarray


@dataclass(frozen=True)
class Allowed:
    """The widths that are allowed, group by group; hashable, so a static argument of jitted code.

    Attributes:
      sizes: the number of channels of each group.
      widths: the widths that each group may have, from the greatest to the least.
      leaders: for each group the first of the groups that have the same width as it, mostly itself.
    """

    sizes: tuple[int, ...]
    widths: tuple[tuple[int, ...], ...]
    leaders: tuple[int, ...]

    @property
    def sets(self) -> list[list[int]]:
        """The groups that have equal widths, mostly one, in the order of their leaders."""
        groups = range(len(self.sizes))
        return [
            [g for g in groups if self.leaders[g] == leader] for leader in sorted(set(self.leaders))
        ]

    @property
    def greatest(self) -> np.ndarray:
        """The greatest allowed width of each group, int32 [G]."""
        return np.array([widths[0] for widths in self.widths], np.int32)

    @property
    def least(self) -> np.ndarray:
        """The least allowed width of each group, int32 [G]."""
        return np.array([widths[-1] for widths in self.widths], np.int32)

    def nearest(self) -> np.ndarray:
        """The allowed width nearest to each number of channels, the wider of two: int32 [G, W].

        W is the size of the widest group plus 1; beyond a group's size it is its greatest width.
        """
        return self._table(lambda widths, wished: np.abs(widths - wished))

    def at_most(self) -> np.ndarray:
        """The greatest allowed width that is not above a number of channels: int32 [G, W].

        The least allowed one where there is none.
        """
        return self._table(
            lambda widths, wished: np.where(widths <= wished, wished - widths, wished + widths)
        )

    def _table(self, distance: Any) -> np.ndarray:
        wished = np.arange(max(self.sizes) + 1)
        return np.stack(
            [
                np.array(widths, np.int32)[
                    distance(np.array(widths)[:, None], wished).argmin(axis=0)
                ]
                for widths in self.widths
            ]
        )

    def holds(self, masks: Any) -> np.ndarray:
        """Whether the networks of flat masks obey the limits: [..., N] -> bool [...]."""
        kept = np.stack(
            [
                part.sum(-1)
                for part in np.split(np.asarray(masks) > 0, np.cumsum(self.sizes)[:-1], -1)
            ],
            axis=-1,
        )
        fits = [np.isin(kept[..., g], widths) for g, widths in enumerate(self.widths)]
        return np.all(fits, axis=0) & (kept == kept[..., list(self.leaders)]).all(-1)


def any_width(sizes: Sequence[int]) -> Allowed:
    """Groups of these sizes that keep one channel at least."""
    return Allowed(
        sizes=tuple(sizes),
        widths=tuple(tuple(range(size, 0, -1)) for size in sizes),
        leaders=tuple(range(len(sizes))),
    )


@functools.lru_cache(maxsize=16)
def allowed(structure: Structure, limits: Limits = NO_LIMITS) -> Allowed:
    """What `choices` finds, group by group.

    Raises:
      UserError: as `choices`.
    """
    found = {g: choice for choice in choices(structure, limits) for g in choice.groups}
    groups = range(len(structure.groups))
    return Allowed(
        sizes=tuple(group.size for group in structure.groups),
        widths=tuple(tuple(found[g].widths.tolist()) for g in groups),
        leaders=tuple(found[g].groups[0] for g in groups),
    )


def check_leaves_room(structure: Structure, limits: Limits) -> None:
    """Refuses limits that contradict each other, or with which nothing can be removed.

    Raises:
      UserError: they do.
    """
    permitted = allowed(structure, limits)
    if permitted.widths == tuple((size,) for size in permitted.sizes):
        raise UserError(
            "the limits keep every group whole, so that nothing can be removed; lower min_size, "
            f"round_to {limits.round_to} or `least`"
        )


def choices(structure: Structure, limits: Limits) -> tuple[Choice, ...]:
    """The widths that the limits allow, for every group once.

    Raises:
      UserError: a pattern matches no group, or limits contradict each other or a group's size; the
        message names the group and the remedy.
    """
    smallest = min(structure.groups, key=lambda group: group.size, default=None)
    if smallest is not None and limits.min_size > smallest.size:
        raise UserError(
            f"min_size {limits.min_size} is above the {smallest.size} channels of group "
            f"'{smallest.name}'; choose at most {smallest.size}, or set the least width of the "
            "other groups by `groups`"
        )
    bounds = _bounds(structure, limits)
    widths = [
        _widths(group.name, group.size, *bound, limits.round_to)
        for group, bound in zip(structure.groups, bounds, strict=True)
    ]
    found = []
    for members in _equal_groups(structure, limits):
        common = set.intersection(*(set(widths[g]) for g in members))
        if not common:
            raise UserError(
                f"groups {_names(structure, members)} must have equal widths, but no width is "
                "allowed for all of them; loosen `groups` or take one of them out of `equal`"
            )
        found.append(Choice(members, np.array(sorted(common, reverse=True), np.int32)))
    return tuple(found)


def _bounds(structure: Structure, limits: Limits) -> list[tuple[int, int]]:
    """The least and the greatest width of each group, multiples aside."""
    matched = {pattern: _matching(structure, pattern) for pattern in limits.groups}
    bounds = []
    for g, group in enumerate(structure.groups):
        patterns = [pattern for pattern, found in matched.items() if g in found]
        pairs = [limits.groups[pattern].bounds(group.size) for pattern in patterns]
        least = max([limits.min_size, *(least for least, _ in pairs)])
        most = min([group.size, *(most for _, most in pairs)])
        if least > group.size:
            raise UserError(
                f"limits ask for at least {least} channels of group '{group.name}', which has "
                f"{group.size}; lower `least` of {_quoted(patterns)}"
            )
        if least > most:
            raise UserError(
                f"limits ask for at least {least} and at most {most} of the {group.size} channels "
                f"of group '{group.name}'; compare min_size {limits.min_size} and the limits of "
                f"{_quoted(patterns)}"
            )
        bounds.append((least, most))
    return bounds


def _widths(name: str, size: int, least: int, most: int, round_to: int) -> list[int]:
    widths = list(range(-(-least // round_to) * round_to, most + 1, round_to))
    if most == size and size not in widths:
        widths.append(size)
    if not widths:
        raise UserError(
            f"group '{name}' must keep between {least} and {most} of its {size} channels, but no "
            f"multiple of {round_to} lies between; change `round_to` or the limits of '{name}'"
        )
    return widths


def _equal_groups(structure: Structure, limits: Limits) -> list[tuple[int, ...]]:
    """The groups in sets of equal width, in the order of their first groups."""
    found: dict[int, tuple[int, ...]] = {}
    for patterns in limits.equal:
        members = sorted({g for pattern in patterns for g in _matching(structure, pattern)})
        if len(members) < 2:
            raise UserError(
                f"equal: the set of {_quoted(patterns)} has only {_names(structure, members)}; "
                "name at least two or remove the set"
            )
        if len({structure.groups[g].size for g in members}) > 1:
            sizes = ", ".join(
                f"'{structure.groups[g].name}' has {structure.groups[g].size}" for g in members
            )
            raise UserError(f"equal: groups of a set must be of one size, but {sizes}")
        twice = [g for g in members if g in found]
        if twice:
            raise UserError(
                f"equal: group {_names(structure, twice[:1])} is in two sets; make them one"
            )
        found.update(dict.fromkeys(members, tuple(members)))
    everyone = (found.get(g, (g,)) for g in range(len(structure.groups)))
    return list(dict.fromkeys(everyone))


def _matching(structure: Structure, pattern: str) -> list[int]:
    """The groups whose name, or the name of a layer that produces them, a pattern matches."""
    found = [
        g
        for g, group in enumerate(structure.groups)
        if any(
            name == pattern or fnmatchcase(name, pattern) for name in (group.name, *group.layers)
        )
    ]
    if not found:
        names = ", ".join(group.name for group in structure.groups)
        raise UserError(
            f"limits: '{pattern}' matches no group and no layer of one; the groups are {names}"
        )
    return found


def _names(structure: Structure, indices: Sequence[int]) -> str:
    return _quoted([structure.groups[g].name for g in indices])


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
