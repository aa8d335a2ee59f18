"""Cuts a function of parameters and inputs into small pieces that run at any widths.

Compiling a network anew for every choice of widths takes longer than running it at full width. Cut
at its layers, it consists of pieces whose shapes depend on the widths of one or two groups each:
few shapes occur, and each is compiled once. Two kinds of pieces alternate:

- a **product**: one convolution or matrix product of data and a known array, usually a parameter.
  XLA's CPU backend calls a library for it, so that it compiles in milliseconds;
- the **rest**: everything up to the next product or pooling, most of it elementwise.

What depends on the parameters alone is computed once, at full width, and sliced afterwards.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal

from jaxprune.dependency.atoms import AtomTable, Axes, Axis
from jaxprune.dependency.groups import Structure
from jaxprune.dependency.joints import slots
from jaxprune.dependency.masking import Masked
from jaxprune.dependency.program import Program, Step
from jaxprune.dependency.rules import RULES, bind
from jaxprune.dependency.rules.base import shape
from jaxprune.dependency.trace import analyse_call
from jaxprune.scoring.own_widths.pieces import (
    RESHAPING,
    Known,
    Line,
    Pattern,
    Piece,
    Pieces,
    Place,
    Product,
    Summed,
    code_of_lines,
    code_of_product,
    read,
)

_INLINED = frozenset(
    (
        *("jit", "pjit", "closed_call", "core_call"),
        *("custom_jvp_call", "custom_vjp_call", "checkpoint", "remat2"),
    )
)
_PRODUCTS = frozenset(("dot_general", "conv_general_dilated"))
_POOLING = "reduce_window"


def cut(
    fn: Callable[..., Any], structure: Structure, params: Any, *arguments: Any
) -> Pieces | None:
    """Cuts a function at its layers.

    Args:
      fn: `fn(params, *arguments)` -> one array.
      structure: what `trace` returned.
      params: the dense parameters.
      *arguments: the inputs, whose shapes the pieces are made for.

    Returns:
      The pieces; None if the function cannot be cut: if masks act inside a loop or branch, or on
      what it computes from parameters alone, or if it returns several values.
    """
    leaves = structure.check_params(params)
    table, program, _ = analyse_call(fn, structure, leaves, arguments)
    try:
        return _Cutter(structure, table, program, leaves).cut()
    except _Unsuited:
        return None


class _Unsuited(Exception):
    """The function cannot be cut."""


class _Node(NamedTuple):
    """A step whose operands are numbered values or literals, and whose results are values."""

    step: Step
    operands: tuple[Any, ...]
    results: tuple[int, ...]

    @property
    def reads(self) -> list[int]:
        return [operand for operand in self.operands if not isinstance(operand, Literal)]


class _Cutter:
    def __init__(
        self, structure: Structure, table: AtomTable, program: Program, leaves: Sequence[Any]
    ):
        self.structure, self.table = structure, table
        # Zeros: masks of which it is not known that they keep everything.
        none = {group.name: np.zeros(group.size, np.float32) for group in structure.groups}
        self.masking = Masked(structure, none, table)
        self.slots = slots(table)
        self.groups_of_entry = [set[int](), *({int(group)} for group in structure.group_index)]
        for pairs in self.slots.levels:
            self.groups_of_entry += [
                self.groups_of_entry[left] | self.groups_of_entry[right] for left, right in pairs
            ]
        self.patterns: list[Pattern] = []
        self.numbers: dict[bytes, int] = {}
        self.nodes: list[_Node] = []
        self.known: dict[int, Any] = {}
        self.axes: dict[int, Axes] = {}
        inputs = [self.value(axes) for axes in program.inputs]
        self.known.update(zip(inputs, leaves, strict=False))
        self.inputs = inputs[len(leaves) :]
        outputs = self.flatten(program, inputs)
        if len(outputs) != 1 or isinstance(outputs[0], Literal):
            raise _Unsuited
        self.output = outputs[0]

    def value(self, axes: Axes) -> int:
        """A new value."""
        number = len(self.axes)
        self.axes[number] = axes
        return number

    def flatten(self, program: Program, inputs: Sequence[Any]) -> list[Any]:
        """Numbers the values of a program and of the functions that it calls; returns its results.

        Args:
          program: its steps are appended to the nodes.
          inputs: values or literals.
        """
        names: dict[Any, Any] = dict(zip(program.jaxpr.invars, inputs, strict=True))
        captured = zip(program.jaxpr.constvars, program.consts, program.const_axes, strict=True)
        for var, constant, axes in captured:
            names[var] = self.value(axes)
            self.known[names[var]] = constant
        for step in program.steps:
            operands = [v if isinstance(v, Literal) else names[v] for v in step.eqn.invars]
            if step.name in _INLINED and step.bodies:
                results = self.flatten(step.bodies[0], operands)
            else:
                results = [self.value(axes) for axes in step.outputs]
                self.nodes.append(_Node(step, tuple(operands), tuple(results)))
            names.update(zip(step.eqn.outvars, results, strict=True))
        return [v if isinstance(v, Literal) else names[v] for v in program.jaxpr.outvars]

    def pattern(self, axis: Axis) -> int | None:
        """The number of an axis's pattern; None if it has no channels."""
        entries = self.slots.of_root[self.table.find(axis)]
        if not entries.any():
            return None
        key = entries.tobytes()
        if key not in self.numbers:
            groups = sorted(set().union(*(self.groups_of_entry[e] for e in np.unique(entries))))
            whole = 1 + np.flatnonzero(self.structure.group_index == groups[0])
            alone = groups[0] if np.array_equal(entries, whole) else None
            self.numbers[key] = len(self.patterns)
            self.patterns.append(Pattern(entries, tuple(groups), alone))
        return self.numbers[key]

    def places(self, axes: Axes) -> tuple[Place, ...]:
        """The axes of channels."""
        found = [(d, self.pattern(axis)) for d, axis in enumerate(axes)]
        return tuple(Place(d, number) for d, number in found if number is not None)

    def groups(self, axes: Axes) -> set[int]:
        """The groups of all axes of a value."""
        return {g for place in self.places(axes) for g in self.patterns[place.pattern].groups}

    def cut(self) -> Pieces:
        """The pieces."""
        nodes = self.compute_known()
        users = Counter([self.output, *(value for node in nodes for value in node.reads)])

        def kind(node: _Node) -> Any:
            """Consecutive nodes that have the same make one piece."""
            alone = self.is_product(node) or node.step.name.startswith(_POOLING)
            return node.results[0] if alone else None

        pieces = []
        for alone, run in itertools.groupby(nodes, kind):
            first, *others = run
            if alone is not None and self.is_product(first):
                pieces.append(self.product(first))
            else:
                piece = self.rest([first, *others], users)
                pieces.append(piece._replace(alone=alone is not None))
        produced = Counter(
            group
            for piece in pieces
            if piece.product is not None
            for group in self.groups(self.axes[piece.makes[0]])
        )
        carried = set().union(*(self.groups(self.axes[value]) for value in self.inputs))
        pinned = set().union(*(self.pinned_by(node.step) for node in nodes))
        pinned |= {group for group in carried if produced[group]}
        return Pieces(
            slots=self.slots,
            patterns=tuple(self.patterns),
            pieces=tuple(pieces),
            inputs=tuple(self.inputs),
            output=self.output,
            pinned=frozenset(pinned),
            held=frozenset(pinned | carried),
            produced=tuple(produced[group] for group in range(len(self.structure.groups))),
        )

    def compute_known(self) -> list[_Node]:
        """Computes what depends on known arrays alone; returns the other nodes."""
        known, ordinary, fixed = set(self.known), [], []
        for node in self.nodes:
            if known.issuperset(node.reads) and not node.step.eqn.effects:
                if any(map(self.masking.concerns, (node.step, *_inside(node.step)))):
                    raise _Unsuited
                known.update(node.results)
                fixed.append(node)
            else:
                ordinary.append(node)
        if self.output in known:
            raise _Unsuited
        read_later = {value for node in ordinary for value in node.reads}
        wanted = [value for node in fixed for value in node.results if value in read_later]

        def compute(values: dict[int, Any]) -> dict[int, Any]:
            values = dict(values)
            for node in fixed:
                operands = [read(values, operand) for operand in node.operands]
                with node.step.eqn.ctx.manager:
                    values.update(zip(node.results, bind(node.step.eqn, operands), strict=True))
            return {value: values[value] for value in wanted}

        if wanted:
            self.known.update(jax.jit(compute)(self.known))
        return ordinary

    def pinned_by(self, step: Step) -> set[int]:
        """The groups that a step needs at full width."""
        inner = _inside(step)
        if any(self.groups((*x, *y)) for s in inner for x in s.inputs for y in s.outputs):
            raise _Unsuited
        rule = RULES.get(step.name)
        if step.bodies or rule is None or rule.shrink is None or step.name in RESHAPING:
            return set()
        return set().union(*(self.groups(axes) for axes in (*step.inputs, *step.outputs)))

    def is_product(self, node: _Node) -> bool:
        """Is it a product of data and a known array, whose rows can carry the masks?"""
        step = node.step
        if step.name not in _PRODUCTS or step.rescale:
            return False
        known = [operand in self.known for operand in node.operands]
        if known[0] == known[1]:
            return False
        summed = RULES[step.name].summed
        assert summed is not None
        return all(
            any(known[operand] for operand, _ in pair)
            or all(self.pattern(step.inputs[operand][d]) is None for operand, d in pair)
            for pair in summed(step.eqn)
        )

    def product(self, node: _Node) -> Piece:
        """The piece of one product."""
        step, eqn, (result,) = node.step, node.step.eqn, node.results
        side = 0 if node.operands[0] in self.known else 1
        rule = RULES[step.name]
        assert rule.summed is not None
        summed = []
        for pair in rule.summed(eqn):
            axes = dict(pair)
            number = self.pattern(step.inputs[side][axes[side]]) if side in axes else None
            if number is not None and 1 - side in axes:
                summed.append(Summed(axes[1 - side], axes[side], number))
        known, out = self.known_array(node.operands[side]), self.places(self.axes[result])
        over = {one.known_axis for one in summed}
        outer = [place.pattern for place in known.places if place.axis not in over]
        size = int(np.prod(shape(eqn.outvars[0])))
        return Piece(
            code=code_of_product(eqn, side),
            reads=(node.operands[1 - side],),
            known=(known,),
            masked=tuple(one.pattern for one in summed),
            patterns=(*outer, *(place.pattern for place in out)),
            makes=(result,),
            alone=step.name == "conv_general_dilated",
            product=Product(tuple(summed), out, size * _terms(eqn), size),
        )

    def rest(self, nodes: Sequence[_Node], users: Counter[int]) -> Piece:
        """The piece of consecutive nodes.

        Args:
          nodes: the nodes.
          users: how often each value is read in the whole function.
        """
        made = [value for node in nodes for value in node.results]
        inside = Counter(value for node in nodes for value in node.reads)
        known = [value for value in inside if value in self.known]
        data = [value for value in inside if value not in self.known and value not in made]
        makes = tuple(value for value in made if users[value] > inside[value])
        local = {value: place for place, value in enumerate([*data, *known, *made])}
        patterns: dict[int, int] = {}  # their places in this piece
        lines = tuple(self.line(node, local, patterns) for node in nodes)
        masked = tuple(sorted(set().union(*(line.masks for line in lines))))
        numbers = tuple(patterns)
        ends = tuple(local[value] for value in makes)
        return Piece(
            code=code_of_lines(lines, len(data), masked, ends),
            reads=tuple(data),
            known=tuple(map(self.known_array, known)),
            masked=tuple(numbers[place] for place in masked),
            patterns=numbers,
            makes=makes,
        )

    def line(self, node: _Node, local: dict[int, int], patterns: dict[int, int]) -> Line:
        """A node by itself; gives its patterns places in the piece."""
        step = node.step

        def place(axis: Axis) -> int | None:
            number = self.pattern(axis)
            return None if number is None else patterns.setdefault(number, len(patterns))

        reduced = [] if step.bodies else self.masking.reduced(step)
        rescaled = [(len(axis), place(axis)) for axis in step.rescale]
        return Line(
            eqn=step.eqn,
            operands=tuple(o if isinstance(o, Literal) else local[o] for o in node.operands),
            results=tuple(local[value] for value in node.results),
            reduced=tuple((o, d, place(step.inputs[o][d]) or 0) for o, d in reduced),
            rescale=tuple((size, found) for size, found in rescaled if found is not None),
            inputs=tuple(tuple(map(place, axes)) for axes in step.inputs),
            outputs=tuple(tuple(map(place, axes)) for axes in step.outputs),
        )

    def known_array(self, value: int) -> Known:
        array = self.known[value]
        return Known(np.asarray(array), jax.numpy.asarray(array), self.places(self.axes[value]))


def _inside(step: Step) -> list[Step]:
    """The steps of the functions that a step calls."""
    return [inner for body in step.bodies for inner, _ in body.walk()]


def _terms(eqn: Any) -> int:
    """How many products are summed for an entry of the result, padding included."""
    numbers = eqn.params["dimension_numbers"]
    right = shape(eqn.invars[1])
    summed = numbers[0][1] if eqn.primitive.name == "dot_general" else numbers.rhs_spec[1:]
    return int(np.prod([right[d] for d in summed]))
