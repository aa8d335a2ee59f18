"""How the candidates of an evaluator are computed: what all share, and what is run for each.

The first product reads the same data for all candidates. Where it sums over no channels that can be
removed, it is computed once for all, and what reads it picks each candidate's channels. Where it
does, and a candidate keeps the most important of them, it goes on from a sum that is kept
(`partial_sums`). Either way it computes all its channels, the most important first, so that
candidates that keep those read the first ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.scoring.evaluation import classified
from jaxprune.scoring.own_widths.candidates import Candidate, Choices
from jaxprune.scoring.own_widths.chains import Chain, Part, chains
from jaxprune.scoring.own_widths.operands import (
    PICKING,
    Operands,
    Picks,
    of_product,
    of_rest,
    picked,
    taken,
)
from jaxprune.scoring.own_widths.partial_sums import MOST_BYTES, PartialSums
from jaxprune.scoring.own_widths.positions import Positions
from jaxprune.scoring.own_widths.stages import Code, Product, Rest, Stages, run

_BLOCK, _BEFORE = -1, -2
"""The values that a product goes on from."""


class Plan(NamedTuple):
    """How candidates are computed.

    Attributes:
      given: the values that are the same for all.
      chains: what is run for each.
      made_by: for each value the chain that makes it.
      layouts: of the group whose channels the first product computes for all, as in `Positions`.
      sums: what the first product goes on from; None: it is as the others, or among the given.
      source: the group that it sums over, then.
      first: the first piece.
    """

    given: dict[int, Array]
    chains: tuple[Chain, ...]
    made_by: dict[int, int]
    layouts: Mapping[int, np.ndarray | None]
    sums: PartialSums | None
    source: int
    first: Product | Rest

    def suits(self, candidate: Candidate) -> bool:
        """Whether a candidate can be computed so."""
        return self.sums is None or candidate.choices[self.source].ordered

    def prepare(
        self, chain: Chain, candidate: Candidate, at: Positions, values: Mapping[int, Array]
    ) -> "Prepared":
        """What a chain computes with for a candidate; of the values so far only shapes matter."""
        operands: list[Operands] = []
        picks: dict[int, Picks] = {}
        block = 0
        for part in chain.parts:
            piece = part.piece
            if isinstance(piece, Rest):
                operands.append(of_rest(piece, at))
            elif self.sums is not None and piece is self.first:
                count, _ = candidate.choices[self.source].key
                block, rows = self.sums.rows(count)
                operands.append(Operands((), [rows], []))
            else:
                entries = values[piece.data].size if piece.data in chain.reads else None
                found, picks[piece.data] = of_product(piece, at, entries)
                operands.append(found)
        sizes, known, masks = zip(*operands, strict=True)
        return Prepared(sizes, known, masks, picks, block)

    def evaluate(self, chain: Chain, prepared: "Prepared", values: dict[int, Array]) -> None:
        """Adds what a chain makes of the values so far."""
        own = {value: picked(values[value], some) for value, some in prepared.picks.items() if some}
        if self.sums is not None and _BLOCK in chain.reads:
            own[_BLOCK], own[_BEFORE] = self.sums.before(prepared.block)
        data = [own[value] if value in own else values[value] for value in chain.reads]
        results = run(chain.code, prepared.sizes, data, prepared.known, prepared.masks)
        values.update(zip(chain.makes, results, strict=True))


class Prepared(NamedTuple):
    """What a chain computes with for one candidate, whatever the batch.

    Attributes:
      sizes, known, masks: as in `stages.run`.
      picks: {value: which of its positions are read}.
      block: of the first product, the place where its sum goes on.
    """

    sizes: tuple[Any, ...]
    known: tuple[Any, ...]
    masks: tuple[Any, ...]
    picks: dict[int, Picks]
    block: int


class Planner:
    """Plans for one network on one batch.

    Args:
      staged: the network in pieces.
      slots: the entries of the vector of all masks (`joints.Slots`).
      inputs: its inputs.
      y: the labels.
      batches: of how many batches this is one: what they keep is divided among them.

    Attributes:
      score: the value that is wanted: loss and accuracy.
    """

    def __init__(
        self, staged: Stages, slots: Any, inputs: Sequence[Array], y: Array, batches: int = 1
    ):
        self.staged, self._slots, self._batches = staged, slots, batches
        made = (value for piece in staged.pieces for value in piece.makes)
        labels = 1 + max([*staged.inputs, *made])
        self.score = labels + 1
        reads = (staged.output, labels)
        score = Rest(Code("score", _score), reads, (), (), (), (self.score,), False)
        self._pieces = (*staged.pieces, score)
        self._given = dict(zip((*staged.inputs, labels), (*inputs, jnp.asarray(y)), strict=True))

    def separate(self, everything: Candidate) -> Plan:
        """How any candidate can be computed by itself; `everything` keeps all channels."""
        return self._plan(self._given, 0, {}, everything)

    def shared(self, groups: Sequence[Choices], everything: Candidate) -> Plan | None:
        """How candidates share the first product; None if they cannot, or if it does not pay.

        Args:
          groups: the masks of each group, which the plan may want in order.
          everything: the candidate that keeps all channels.
        """
        number = next((i for i, p in enumerate(self._pieces) if isinstance(p, Product)), None)
        if number is None:
            return None
        piece, earlier = self._pieces[number], self._pieces[:number]
        assert isinstance(piece, Product)
        if any(isinstance(one, Rest) and one.masked for one in earlier) or len(piece.out) != 1:
            return None
        group = self.staged.patterns[piece.out[0].pattern].alone
        if group is None or group in self.staged.held or self.staged.produced[group] != 1:
            return None
        if not piece.summed:
            if PICKING * piece.size >= piece.multiply_adds:
                return None
        elif not self._goes_on(piece, groups):
            return None
        values = self._before(number, everything)
        everywhere = (one for one in self.staged.patterns if group in one.groups)
        layout = groups[group].order if all(one.alone == group for one in everywhere) else None
        groups[group].by_order = layout is not None
        if not piece.summed:
            kernel = taken(piece.known, [(place.axis, layout) for place in piece.known.places])
            (values[piece.result],) = run(piece.code, (), [values[piece.data]], [kernel])
            return self._plan(values, number + 1, {group: layout}, everything)
        source = self.staged.patterns[piece.summed[0].pattern].alone
        assert source is not None
        order = groups[source].order
        assert order is not None
        most = MOST_BYTES // self._batches
        sums = PartialSums(piece, values[piece.data], order, layout, most)
        return self._plan(values, number, {group: layout}, everything, sums, source)

    def _goes_on(self, piece: Product, groups: Sequence[Choices]) -> bool:
        """Whether a product can go on from a sum over the most important channels."""
        source = self.staged.patterns[piece.summed[0].pattern].alone
        known = source is not None and groups[source].order is not None
        return known and len(piece.summed) == 1 and not piece.alone

    def _before(self, number: int, everything: Candidate) -> dict[int, Array]:
        """What there is before a piece, of which nothing depends on the masks."""
        values = dict(self._given)
        at = Positions(self.staged, self._slots, everything.selections, {})
        for piece in self._pieces[:number]:
            assert isinstance(piece, Rest)
            data = [values[value] for value in piece.reads]
            sizes, known, masks = of_rest(piece, at)
            results = run(piece.code, sizes, data, known, masks)
            values.update(zip(piece.makes, results, strict=True))
        return values

    def _plan(
        self,
        given: dict[int, Array],
        start: int,
        layouts: Mapping[int, np.ndarray | None],
        everything: Candidate,
        sums: PartialSums | None = None,
        source: int = -1,
    ) -> Plan:
        """The pieces from a place on, given the values before."""
        parts = [Part(piece, piece.code, piece.reads) for piece in self._pieces[start:]]
        if sums is not None:
            parts[0] = parts[0]._replace(code=sums.code, reads=(_BLOCK, _BEFORE))
        same = self.staged.held | set(layouts)
        found = chains(self.staged, parts, [*given, _BLOCK, _BEFORE], self.score, same)
        plan = Plan(dict(given), (), {}, layouts, sums, source, parts[0].piece)
        at = Positions(self.staged, self._slots, everything.selections, layouts)
        count = next((i for i, chain in enumerate(found) if chain.needs), len(found))
        for chain in found[:count]:  # what depends on no mask
            plan.evaluate(chain, plan.prepare(chain, everything, at, plan.given), plan.given)
        later = tuple(
            chain._replace(done=tuple(value for value in chain.done if value not in plan.given))
            for chain in found[count:]
        )
        made_by = {value: number for number, chain in enumerate(later) for value in chain.makes}
        return plan._replace(chains=later, made_by=made_by)


def _score(sizes: Any, data: list[Array], known: Any, masks: Any) -> list[Array]:
    """Loss and accuracy, [2], of logits and labels."""
    logits, y = data
    return [jnp.stack(classified(logits, y))]
