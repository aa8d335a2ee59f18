"""Scores of candidates at a cost that follows what remains of the network.

Candidates are evaluated one after another, each in the pieces of `stages` at its own rounded
widths. The pieces are dispatched from the host, which does not wait for them. What two consecutive
candidates have in common is computed once: they are sorted, so that those which agree on the first
groups follow each other.

The first product reads the same data for all candidates, so it has two more ways to share. If that
takes less work, it computes all channels that any candidate keeps, and what reads them picks each
candidate's. And if it reads input features that can be removed, and those of one candidate contain
those of the one before, the sum goes on with what the others add. Searches that remove features in
the order of their importance have nothing but such candidates.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxprune.bucketed.stages import Known, Product, Rest, Stages, Summed, run, stages
from jaxprune.bucketed.widths import COARSEST, Selection, added, select, some, union
from jaxprune.dependency import Structure, masked
from jaxprune.dependency.joints import slots
from jaxprune.evaluate import Scores, evaluate

PICKING = 40
"""Multiply-adds in the time that it takes to pick one entry of an array by its index."""

SEARCHING = 40_000_000
COMPILING = 2_000_000_000
"""Multiply-adds in the time that the pieces of one layer take to be compiled, in all; and in a
search's part of it for each of its candidates, of which there are about a thousand, at some twenty
widths."""

MOST_PROGRAMS = 4000
"""Compiled pieces that are kept; each takes memory mappings, of which a process may have 65,000."""


@functools.partial(jax.jit, static_argnums=2)
def _pick(value: Array, index: Array, axis: int) -> Array:
    return jnp.take(value, index, axis=axis, mode="clip")


@jax.jit
def _add(left: Array, right: Array) -> Array:
    return left + right


@jax.jit
def _score(logits: Array, y: Array) -> Array:
    logits = logits.astype(jnp.float32)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    return jnp.stack([loss, (logits.argmax(-1) == y).mean()])


def pays(structure: Structure, examples: int, *, few: bool = False) -> bool:
    """Whether candidates are predicted to be scored faster so than all at full width together.

    On a CPU, if what depends on the masks is so much work that compiling its pieces takes less than
    scoring at full width, which computes the rest but once for all candidates. A rule of counts
    alone, so that a search always goes one way.

    Args:
      structure: the network's structure.
      examples: how many examples a candidate is scored on.
      few: whether there are so few candidates that most need pieces of their own to be compiled.
    """
    least = COMPILING if few else SEARCHING
    reading = {path for group in structure.groups for path in group.consumers}
    work = examples * sum(layer.macs for layer in structure.layers if layer.path in reading)
    return jax.default_backend() == "cpu" and work >= least * len(structure.layers)


def evaluator(
    apply: Callable[..., Array], structure: Structure, params: Any, x: Array, y: Array
) -> Callable[[Any], Scores]:
    """What scores candidates on one batch, to be called outside of `jit`.

    Args:
      apply: `apply(params, x)` -> logits [B, classes].
      structure: the structure of `apply`.
      params: the dense parameters.
      x: [B, ...], as the network takes it.
      y: int [B], the labels.

    Returns:
      masks [..., N] -> scores [...]: those of `jaxprune.evaluate` up to the order in which floating
      point numbers are added. Masks may be any numbers. It is an `Evaluator`, or, if the network
      cannot be cut into stages, evaluates at full width.
    """
    staged = stages(apply, structure, params, x)
    if staged is not None:
        return Evaluator(staged, structure, [jnp.asarray(leaf) for leaf in jax.tree.leaves(x)], y)
    masked_apply = masked(apply, structure)

    def whole(masks: Any) -> Scores:
        masks = jnp.asarray(masks, jnp.float32)
        flat = structure.unflatten(masks.reshape(-1, masks.shape[-1]))
        found = evaluate(masked_apply, params, flat, x, y)
        return Scores(*(column.reshape(masks.shape[:-1]) for column in found))

    return whole


class Evaluator:
    """Scores candidates on one batch.

    Args:
      staged: the network in pieces.
      structure: its structure.
      inputs: its inputs.
      y: the labels.
    """

    def __init__(self, staged: Stages, structure: Structure, inputs: list[Array], y: Array):
        self.staged, self._inputs, self._y = staged, inputs, jnp.asarray(y)
        self._ends = np.cumsum([group.size for group in structure.groups])
        self._slots = slots(staged.table)
        products = (i for i, piece in enumerate(staged.pieces) if isinstance(piece, Product))
        self._first = next(products, None)
        self._shareable = self._find_shareable()
        self._plans = {group: _plan(staged, group) for group in {None, self._shareable}}

    def __call__(self, masks: Any) -> Scores:
        """The scores of candidates, [..., N] with 0 = removed -> [...]."""
        masks = np.asarray(masks, np.float32)
        flat = masks.reshape(-1, masks.shape[-1])
        if run._cache_size() > MOST_PROGRAMS:  # type: ignore[attr-defined]
            run.clear_cache()  # type: ignore[attr-defined]
        scores = self._run(flat)
        found: Any = np.stack([np.asarray(scores[k]) for k in range(len(flat))])
        loss, accuracy = (column.reshape(masks.shape[:-1]) for column in found.T)
        return Scores(loss, accuracy)

    def _run(self, flat: np.ndarray) -> dict[int, Array]:
        """The scores of each candidate, [2] each, not waited for."""
        candidates = _read(flat, self._ends)
        order = sorted(range(len(flat)), key=lambda k: candidates[k].key)
        shared = self._choose(candidates, order)
        plan = self._plans[None if shared is None else self._shareable]
        values: dict[int, Any] = dict(zip(self.staged.inputs, self._inputs, strict=True))
        sums: _Sums | None = None
        common = [False] * len(plan.needs)  # what this candidate has in common with the last one
        scores: dict[int, Array] = {}
        score = None
        for k, then in zip(order, [*order[1:], None], strict=True):
            one = candidates[k]
            ahead = [then is not None and one.agrees(candidates[then], g) for g in plan.needs]
            at = _Positions(self.staged, self._slots, one.selections, shared)
            for number, piece in enumerate(self.staged.pieces):
                if common[number]:
                    continue
                if isinstance(piece, Rest):
                    results = _rest(piece, at, values)
                elif number == self._first and shared is not None:
                    sums = _first_product(piece, at, values, sums)
                    results = [sums.result]
                else:
                    results = [_product(piece, at, values)]
                values.update(zip(piece.makes, results, strict=True))
                score = None
                for value in plan.done[number]:
                    if not ahead[plan.made_by[value]]:
                        del values[value]
            if score is None:
                score = _score(values[self.staged.output], self._y)
            scores[k] = score
            common = ahead
        return scores

    def _find_shareable(self) -> int | None:
        """The group that the first product alone produces, from data that are always the same."""
        if self._first is None:
            return None
        piece, earlier = self.staged.pieces[self._first], self.staged.pieces[: self._first]
        assert isinstance(piece, Product)
        if any(isinstance(one, Rest) and one.masked for one in earlier) or len(piece.out) != 1:
            return None
        group = self.staged.patterns[piece.out[0].pattern].alone
        if group is None or group in self.staged.held or self.staged.produced[group] != 1:
            return None
        summed = [self.staged.patterns[one.pattern].alone for one in piece.summed]
        return None if len(summed) > 1 or None in summed else group

    def _choose(
        self, candidates: Sequence["_Candidate"], order: Sequence[int]
    ) -> dict[int, Selection] | None:
        """What the first product computes for all candidates, if that is less work.

        A choice by counting, so that it is the same whenever the candidates are.
        """
        group = self._shareable
        if group is None or self._first is None:
            return None
        piece = self.staged.pieces[self._first]
        assert isinstance(piece, Product)
        source = self.staged.patterns[piece.summed[0].pattern].alone if piece.summed else None
        everyone = union([candidates[k].selections[group] for k in order])
        outputs = len(everyone.mask)
        inputs = 1 if source is None else len(candidates[0].selections[source].mask)
        each = piece.multiply_adds / (inputs * outputs)  # of one input with one output
        alone = together = 0.0
        seen: set[Any] = set()
        before: Selection | None = None
        for k in order:
            mine = candidates[k].selections[group]
            theirs = None if source is None else candidates[k].selections[source]
            reads = 1 if theirs is None else len(theirs.there)
            key = tuple(candidates[k].key[g][1] for g in (source, group) if g is not None)
            if key not in seen:
                alone += each * reads * len(mine.there)
                together += PICKING * piece.size / outputs * len(mine.there)
                seen.add(key)
            if theirs is None:
                together += each * len(everyone.there) if before is None else 0
                before = mine
            elif theirs is not before:
                new = None if before is None else added(theirs, before)
                reads = reads if new is None else len(new)
                together += each * reads * len(everyone.there)
                before = theirs
        return {group: everyone} if together < alone else None


class _Candidate(NamedTuple):
    """A candidate.

    Attributes:
      key: for each group its width and the number of its mask; sorted by it, candidates that agree
        on the first groups follow each other, narrower ones first.
      selections: for each group what is computed of it.
    """

    key: tuple[tuple[int, int], ...]
    selections: tuple[Selection, ...]

    def agrees(self, other: "_Candidate", groups: Sequence[int]) -> bool:
        """Whether the masks of some groups are the same."""
        return all(self.key[group] == other.key[group] for group in groups)


def _read(flat: np.ndarray, ends: np.ndarray) -> list[_Candidate]:
    """The candidates of masks [K, N]; equal masks of a group are one selection."""
    columns = []
    for masks in np.split(flat, ends[:-1], axis=1):
        known: dict[bytes, tuple[tuple[int, int], Selection]] = {}
        column = []
        for mask in masks:
            name = mask.tobytes()
            if name not in known:
                selection = select(mask)
                known[name] = (len(selection.kept), len(known)), selection
            column.append(known[name])
        columns.append(column)
    return [
        _Candidate(tuple(key for key, _ in row), tuple(selection for _, selection in row))
        for row in zip(*columns, strict=True)
    ]


class _Plan(NamedTuple):
    """What depends on what, given which group is computed for all candidates at once.

    Attributes:
      needs: for each piece the groups whose masks its results depend on.
      made_by: for each value the piece that makes it.
      done: for each piece the values, but inputs, that nothing after it reads.
    """

    needs: tuple[tuple[int, ...], ...]
    made_by: dict[int, int]
    done: tuple[tuple[int, ...], ...]


def _plan(staged: Stages, shared: int | None) -> _Plan:
    same = staged.held | {shared}
    needed: dict[int, set[int]] = {value: set() for value in staged.inputs}
    needs: list[tuple[int, ...]] = []
    made_by: dict[int, int] = {}
    last: dict[int, int] = {}
    for number, piece in enumerate(staged.pieces):
        groups = {g for p in piece.patterns for g in staged.patterns[p].groups} - same
        groups |= {g for p in piece.masked for g in staged.patterns[p].groups}
        groups |= {g for value in piece.reads for g in needed[value]}
        needs.append(tuple(sorted(groups)))
        needed.update((value, groups) for value in piece.makes)
        made_by.update((value, number) for value in piece.makes)
        last.update((value, number) for value in piece.reads)
    last[staged.output] = -1
    done = [
        tuple(value for value in made_by if last.get(value) == number)
        for number in range(len(staged.pieces))
    ]
    return _Plan(tuple(needs), made_by, tuple(done))


class _Positions:
    """The positions along axes that a candidate's arrays have, and its masks there.

    Args:
      staged: the network in pieces.
      known: the entries of the vector of all masks.
      selections: what the candidate computes of each group.
      shared: {group: what is computed of it for all candidates}.
    """

    def __init__(
        self,
        staged: Stages,
        known: Any,
        selections: Sequence[Selection],
        shared: dict[int, Selection] | None,
    ):
        self._staged, self._slots = staged, known
        self._own = tuple(
            select(one.mask, whole=True) if group in staged.pinned else one
            for group, one in enumerate(selections)
        )
        self._there = tuple(
            select(one.mask, whole=True) if group in staged.held else (shared or {}).get(group, one)
            for group, one in enumerate(self._own)
        )
        self._found: dict[tuple[int, bool], np.ndarray | None] = {}
        self._vector: Any = None

    def own(self, group: int) -> Selection:
        """What the candidate would compute of a group by itself."""
        return self._own[group]

    def alone(self, pattern: int) -> int:
        """The only group of an axis."""
        group = self._staged.patterns[pattern].alone
        assert group is not None
        return group

    def index(self, pattern: int, *, own: bool = False) -> np.ndarray | None:
        """The positions along an axis, ascending; None: all.

        Args:
          pattern: the number of the axis's pattern.
          own: those that the candidate needs, and not those that its arrays have.
        """
        key = pattern, own
        if key not in self._found:
            self._found[key] = self._positions(pattern, self._own if own else self._there)
        return self._found[key]

    def _positions(self, pattern: int, selections: Sequence[Selection]) -> np.ndarray | None:
        entries, _, alone = self._staged.patterns[pattern]
        if alone is not None:
            return None if selections[alone].whole else selections[alone].there
        parts = [np.zeros(len(one.mask), bool) for one in selections]
        for part, one in zip(parts, selections, strict=True):
            part[one.there] = True
        vector = self._slots.extend(np.concatenate([[True], *parts]), np)
        there = vector[entries]
        return None if there.all() else np.flatnonzero(there)

    def mask(self, pattern: int, index: np.ndarray | None) -> np.ndarray:
        """The masks of some positions along an axis; float32."""
        entries, _, alone = self._staged.patterns[pattern]
        if alone is not None:
            whole = self._own[alone].mask
        else:
            if self._vector is None:
                first = np.concatenate([np.ones(1, np.float32), *(one.mask for one in self._own)])
                self._vector = self._slots.extend(first, np)
            whole = self._vector[entries]
        return whole if index is None else whole[index]

    def count(self, pattern: int) -> int:
        """How many positions along an axis there are."""
        index = self.index(pattern)
        return len(self._staged.patterns[pattern].entries) if index is None else len(index)


def _taken(known: Known, places: Sequence[tuple[int, np.ndarray | None]]) -> Any:
    """A known array at given positions along its axes."""
    partial = [(axis, index) for axis, index in places if index is not None]
    if not partial:
        return known.whole
    array = known.array
    for axis, index in sorted(partial, key=lambda part: len(part[1]) / array.shape[part[0]]):
        array = np.take(array, index, axis=axis)
    return array


def _without(array: Any, axis: int, mask: np.ndarray) -> Any:
    """An array times a mask along an axis."""
    if (mask == 1).all():
        return array
    shape = [1] * array.ndim
    shape[axis] = len(mask)
    return np.asarray(array) * mask.reshape(shape).astype(array.dtype)


def _rest(piece: Rest, at: _Positions, values: dict[int, Any]) -> list[Array]:
    known = [
        _taken(one, [(place.axis, at.index(place.pattern)) for place in one.places])
        for one in piece.known
    ]
    return run(
        piece.code,
        tuple(map(at.count, piece.patterns)),
        [values[value] for value in piece.reads],
        known,
        [at.mask(pattern, at.index(pattern)) for pattern in piece.masked],
    )


def _product(piece: Product, at: _Positions, values: dict[int, Any]) -> Array:
    """A product at the positions that its data have, or at fewer if picking them pays."""
    data = values[piece.data]
    work = float(piece.multiply_adds)
    for place in piece.known.places:
        work *= at.count(place.pattern) / piece.known.whole.shape[place.axis]
    rows: dict[int, np.ndarray | None] = {}
    for one in piece.summed:
        there, needed = at.index(one.pattern), at.index(one.pattern, own=True)
        rows[one.known_axis] = there
        if needed is not None and (there is None or len(there) > len(needed)):
            left = len(needed) / data.shape[one.data_axis]
            if work * (1 - left) > PICKING * data.size * left:
                data = _picked(data, one, there, needed)
                rows[one.known_axis] = needed
    return _times(piece, at, data, rows)


def _picked(data: Array, one: Summed, there: np.ndarray | None, index: np.ndarray) -> Array:
    """The data at some of the positions along an axis that are there."""
    place = index if there is None else np.searchsorted(there, index)
    return _pick(data, place.astype(np.int32), one.data_axis)


def _times(
    piece: Product, at: _Positions, data: Array, rows: dict[int, np.ndarray | None]
) -> Array:
    """The product of data with the known array at given positions of the axes summed over."""
    known = _taken(
        piece.known,
        [
            (p.axis, rows[p.axis] if p.axis in rows else at.index(p.pattern))
            for p in piece.known.places
        ],
    )
    for one in piece.summed:
        known = _without(known, one.known_axis, at.mask(one.pattern, rows[one.known_axis]))
    return run(piece.code, (), data, known)[0]


class _Sums(NamedTuple):
    """What the first product computed last, and for which of the channels that it sums over."""

    source: Selection | None
    result: Array


def _first_product(
    piece: Product, at: _Positions, values: dict[int, Any], before: _Sums | None
) -> _Sums:
    """The first product, going on from that of the candidate before if that is a part of it."""
    if not piece.summed:
        return _Sums(None, _product(piece, at, values))
    (one,) = piece.summed
    source = at.own(at.alone(one.pattern))
    new = None if before is None or before.source is None else added(source, before.source)
    if before is not None and new is not None:
        count = COARSEST  # few sizes, that soon are compiled
        while count < len(new):
            count *= 2
        more = some(source.mask, new, count)
        if len(more.there) < len(source.there):
            data = _picked(values[piece.data], one, at.index(one.pattern), more.there)
            rest = _times(piece, at, data, {one.known_axis: more.there})
            return _Sums(source, _add(before.result, rest))
    return _Sums(source, _product(piece, at, values))
