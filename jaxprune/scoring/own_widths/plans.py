"""How candidates are computed on one batch: what is shared by all, and what is run for each.

The first product reads the same data for all candidates. If it sums over no channels that can be
removed, it is computed once, and what reads it picks each candidate's channels. If it does, it goes
on from a kept sum (`partial_sums`) for candidates that keep the most important of these channels.
Either way it computes all channels of its result, the most important first, so that candidates that
keep those read the first ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.scoring.evaluation import classified
from jaxprune.scoring.own_widths.layout import Layout
from jaxprune.scoring.own_widths.operands import PICKING, Operands, operands, picked, taken
from jaxprune.scoring.own_widths.partial_sums import MOST_BYTES, PartialSums
from jaxprune.scoring.own_widths.pieces import Piece, Pieces, code_for, run
from jaxprune.scoring.own_widths.programs import Program, programs
from jaxprune.scoring.own_widths.widths import Candidate, Choices

_BLOCK, _BEFORE = -1, -2
"""The values that a product goes on from."""


class Prepared(NamedTuple):
    """What a program computes with for one candidate, whatever the batch.

    Attributes:
      sizes, known, masks: as in `pieces.run`.
      picks: (value, axis, positions) that are picked from its data.
      block: where the sum of the first product goes on.
    """

    sizes: tuple[Any, ...]
    known: tuple[Any, ...]
    masks: tuple[Any, ...]
    picks: list[tuple[int, int, np.ndarray]]
    block: int


class Plan(NamedTuple):
    """How candidates are computed.

    Attributes:
      given: {value: array}, the same for all candidates.
      programs: what is run for each.
      made_by: {value: the number of the program that makes it}.
      last_read: for each program, the values of others that nothing after it reads.
      shared: {group: order} whose channels the first product computes for all, as in `Layout`.
      sums: what the first product goes on from, if it does.
      source: the group that it then sums over.
    """

    given: dict[int, Array]
    programs: Sequence[Program]
    made_by: dict[int, int]
    last_read: Sequence[Sequence[int]]
    shared: Mapping[int, np.ndarray | None]
    sums: PartialSums | None
    source: int

    def suits(self, candidate: Candidate) -> bool:
        """Whether a candidate can be computed this way."""
        return self.sums is None or candidate[self.source].ordered

    def prepare(
        self, program: Program, candidate: Candidate, layout: Layout, values: Mapping[int, Array]
    ) -> Prepared:
        """What a program computes with; only the shapes of the values matter."""
        found: list[Operands] = []
        picks: list[tuple[int, int, np.ndarray]] = []
        block = 0
        for piece in program.pieces:
            if self.sums is not None and piece.code is self.sums.code:
                block, rows = self.sums.rows(candidate[self.source].kept)
                found.append(Operands((), [rows], []))
                continue
            data = piece.reads[0] if piece.reads else _BLOCK
            # What several pieces read stays whole: they may need different positions.
            picking = piece.product and data in program.read_once
            found.append(operands(piece, layout, values[data].size if picking else None))
            picks += [(data, axis, index) for axis, index in found[-1].picks]
        sizes, known, masks, _ = zip(*found, strict=True)
        return Prepared(sizes, known, masks, picks, block)

    def evaluate(self, program: Program, prepared: Prepared, values: dict[int, Array]) -> None:
        """Adds what a program makes to the values."""
        own: dict[int, Array] = {}
        for value, axis, index in prepared.picks:
            own[value] = picked(own[value] if value in own else values[value], index, axis)
        if self.sums is not None and _BLOCK in program.reads:
            own[_BLOCK], own[_BEFORE] = self.sums.before(prepared.block)
        data = [own[value] if value in own else values[value] for value in program.reads]
        results = run(program.code, prepared.sizes, data, prepared.known, prepared.masks)
        values.update(zip(program.makes, results, strict=True))


class Planner:
    """Makes plans for a network on one batch.

    Args:
      network: the network in pieces.
      inputs: its inputs.
      y: the labels.
      everything: the candidate that keeps all channels.
      batches: of how many batches this is one: what they may keep is divided among them.

    Attributes:
      score: the value that is wanted: loss and accuracy.
    """

    def __init__(
        self,
        network: Pieces,
        inputs: Sequence[Array],
        y: Array,
        everything: Candidate,
        batches: int = 1,
    ):
        self._network, self._everything, self._batches = network, everything, batches
        made = (value for piece in network.pieces for value in piece.makes)
        labels = 1 + max([*network.inputs, *made])
        self.score = labels + 1
        score = Piece(
            code_for("score", _score), (network.output, labels), (), (), (), (self.score,)
        )
        self._pieces = (*network.pieces, score)
        self._given = dict(zip((*network.inputs, labels), (*inputs, jnp.asarray(y)), strict=True))

    def separate(self) -> Plan:
        """How any candidate can be computed by itself."""
        return self._plan(self._given, self._pieces, {})

    def shared(self, groups: Sequence[Choices]) -> Plan | None:
        """How candidates share the first product; None if they cannot, or if it does not pay.

        Args:
          groups: the choices of each group, which the plan may want in order.
        """
        network = self._network
        number = next((n for n, piece in enumerate(self._pieces) if piece.product), None)
        if number is None:
            return None
        piece, earlier = self._pieces[number], self._pieces[:number]
        product, (data,) = piece.product, piece.reads
        assert product is not None
        if any(one.masked for one in earlier) or len(product.out) != 1:
            return None
        group = network.patterns[product.out[0].pattern].alone
        if group is None or group in network.held or network.produced[group] != 1:
            return None
        order, source = None, None
        if product.summed:
            source = network.patterns[product.summed[0].pattern].alone
            order = None if source is None else groups[source].order
            if order is None or len(product.summed) > 1 or piece.alone:
                return None
        elif PICKING * product.size >= product.multiply_adds:
            return None
        values = self._computed(self._given, earlier)
        # Where each axis with channels of the group has just those, they can be in any order.
        regular = all(one.alone == group for one in network.patterns if group in one.groups)
        out_order = groups[group].order if regular else None
        groups[group].by_order = out_order is not None
        shared = {group: out_order}
        if order is None:
            (known,) = piece.known
            kernel = taken(known, [(place.axis, out_order) for place in known.places])
            (values[piece.makes[0]],) = run(piece.code, (), [values[data]], [kernel])
            return self._plan(values, self._pieces[number + 1 :], shared)
        sums = PartialSums(piece, values[data], order, out_order, MOST_BYTES // self._batches)
        going_on = piece._replace(code=sums.code, reads=(_BLOCK, _BEFORE))
        pieces = (going_on, *self._pieces[number + 1 :])
        return self._plan(values, pieces, shared, sums, -1 if source is None else source)

    def _computed(self, given: Mapping[int, Array], pieces: Sequence[Piece]) -> dict[int, Array]:
        """The values after pieces without products, of which none depends on the masks."""
        values = dict(given)
        layout = Layout(self._network, self._everything, {})
        for piece in pieces:
            data = [values[value] for value in piece.reads]
            sizes, known, masks, _ = operands(piece, layout, None)
            values.update(zip(piece.makes, run(piece.code, sizes, data, known, masks), strict=True))
        return values

    def _plan(
        self,
        given: Mapping[int, Array],
        pieces: Sequence[Piece],
        shared: Mapping[int, np.ndarray | None],
        sums: PartialSums | None = None,
        source: int = -1,
    ) -> Plan:
        """The plan for pieces, given the values before them."""
        found = programs(self._network, pieces, self.score, self._network.held | set(shared))
        plan = Plan(dict(given), (), {}, (), shared, sums, source)
        layout = Layout(self._network, self._everything, shared)
        while found and not found[0].needs:  # depends on no mask
            program = found.pop(0)
            prepared = plan.prepare(program, self._everything, layout, plan.given)
            plan.evaluate(program, prepared, plan.given)
        made_by = {value: number for number, one in enumerate(found) for value in one.makes}
        last = {value: number for number, one in enumerate(found) for value in one.reads}
        last_read = [
            [value for value in one.reads if last[value] == number and value in made_by]
            for number, one in enumerate(found)
        ]
        return plan._replace(programs=found, made_by=made_by, last_read=last_read)


def _score(sizes: Any, data: list[Array], known: Any, masks: Any) -> list[Array]:
    """Loss and accuracy, [2], from logits and labels."""
    logits, y = data
    return [jnp.stack(classified(logits, y))]
