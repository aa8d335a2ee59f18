"""A function of parameters and inputs cut into small pieces that run at any widths.

Compiling a network anew for every choice of widths takes longer than running it at full width. Cut
at its layers, it consists of pieces that depend on the widths of one or two groups each, so that
few shapes occur and each is compiled once. Two kinds of pieces alternate:

- a **product**: one convolution or matrix product of data with an array that is known beforehand,
  such as a parameter. XLA's CPU backend calls a library for it: it compiles in milliseconds;
- the **rest**: everything up to the next product or pooling, elementwise most of the time.

What depends on the parameters alone is computed once, at full width, and sliced afterwards.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.extend.core import Literal

from jaxprune.dependency.atoms import AtomTable, Axes, Axis
from jaxprune.dependency.groups import Structure
from jaxprune.dependency.joints import slots
from jaxprune.dependency.masking import Masked, apply_mask, rescale
from jaxprune.dependency.program import Program, Step
from jaxprune.dependency.rules import RULES, bind
from jaxprune.dependency.rules.base import shape
from jaxprune.dependency.trace import analyse_call
from jaxprune.scoring.lowering import lower

_INLINED = frozenset(
    (
        "jit",
        "pjit",
        "closed_call",
        "core_call",
        "custom_jvp_call",
        "custom_vjp_call",
        "checkpoint",
        "remat2",
    )
)
_PRODUCTS = frozenset(("dot_general", "conv_general_dilated"))
_POOLING = "reduce_window"
_BY_SIZE = frozenset(("broadcast_in_dim", "reshape", "split", "conv_general_dilated"))
"""Primitives whose `Rule.shrink` looks at the numbers of kept positions alone."""


class Pattern(NamedTuple):
    """How the positions of an axis follow the channels.

    Attributes:
      entries: int64 [n], for each position its entry in a vector of all masks (`joints.Slots`).
      groups: the groups that these are of.
      alone: the group whose channels they are, each once and in order; None for anything else.
    """

    entries: np.ndarray
    groups: tuple[int, ...]
    alone: int | None


class Place(NamedTuple):
    """An axis of channels of an array: which axis, and the number of its pattern."""

    axis: int
    pattern: int


class Known(NamedTuple):
    """An array that is the same for all candidates, and its axes of channels."""

    array: np.ndarray
    whole: Array
    places: tuple[Place, ...]


class Summed(NamedTuple):
    """An axis that a product sums over, in its operand of data and in its known one."""

    data_axis: int
    known_axis: int
    pattern: int


class Product(NamedTuple):
    """One convolution or matrix product of data with a known array.

    Attributes:
      code: what is compiled.
      data: the value that it reads.
      known: what it multiplies that with.
      summed: the axes of channels that it sums over.
      result: the value that it makes.
      out: the axes of channels of the result.
      multiply_adds: for whole operands.
      size: entries of the whole result.
      alone: whether it is to be compiled by itself: convolutions take long.
    """

    code: "Code"
    data: int
    known: Known
    summed: tuple[Summed, ...]
    result: int
    out: tuple[Place, ...]
    multiply_adds: int
    size: int
    alone: bool

    @property
    def reads(self) -> tuple[int, ...]:
        """The values that it reads."""
        return (self.data,)

    @property
    def makes(self) -> tuple[int, ...]:
        """The values that it makes."""
        return (self.result,)

    @property
    def patterns(self) -> tuple[int, ...]:
        """The patterns of the axes that it does not sum over."""
        summed = [one.known_axis for one in self.summed]
        known = [place.pattern for place in self.known.places if place.axis not in summed]
        return (*known, *(place.pattern for place in self.out))

    @property
    def masked(self) -> tuple[int, ...]:
        """The patterns whose masks it needs."""
        return tuple(one.pattern for one in self.summed)


class Rest(NamedTuple):
    """What lies between two products.

    Attributes:
      code: what is compiled.
      reads: the values that it reads.
      known: the known arrays that it reads.
      masked: the patterns whose masks it needs.
      patterns: the patterns of all its axes.
      makes: the values that it makes and others read.
      alone: whether it is to be compiled by itself, as pooling is: XLA's CPU backend would compute
        what comes before it again for each of its windows.
    """

    code: "Code"
    reads: tuple[int, ...]
    known: tuple[Known, ...]
    masked: tuple[int, ...]
    patterns: tuple[int, ...]
    makes: tuple[int, ...]
    alone: bool


@dataclass(frozen=True)
class Stages:
    """A function in pieces, in the order in which they run.

    Attributes:
      table: what was learned of the function's atoms.
      patterns: the patterns of axes, by their numbers.
      pieces: products and rests; values are numbered.
      inputs: the values of the inputs.
      output: the value of the result.
      carried: the groups that the inputs have.
      pinned: the groups that cannot be made narrower.
      produced: for each group how many products produce it.
    """

    table: AtomTable
    patterns: tuple[Pattern, ...]
    pieces: tuple[Product | Rest, ...]
    inputs: tuple[int, ...]
    output: int
    carried: frozenset[int]
    pinned: frozenset[int]
    produced: tuple[int, ...]

    @property
    def held(self) -> frozenset[int]:
        """The groups whose channels are all there, outside of products."""
        return self.pinned | self.carried


class Code:
    """Steps that are compiled together. Equal for equal steps, whatever layer they are of.

    Args:
      signature: hashable, what they compute.
      function: `function(sizes, data, known, masks)` -> results.
    """

    def __init__(self, signature: Any, function: Callable[..., list[Any]]):
        self._signature, self._hash, self.function = signature, hash(signature), function

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Code) and self._signature == other._signature)


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(code: Code, sizes: tuple[Any, ...], data: Any, known: Any, masks: Any = ()) -> list[Array]:
    """Runs a piece, or several.

    Args:
      code: what it computes.
      sizes: of a rest, how many positions there are of each of its patterns, in their order; of a
        product, (axis, n) wherever it reads only the first n positions of its data.
      data: the values that it reads, at these sizes.
      known: the known arrays, at these sizes.
      masks: the masks of the patterns in `Rest.masked`, at these sizes.
    """
    return code.function(sizes, data, known, masks)


class _Node(NamedTuple):
    """A step whose operands and results are numbered values; literals stand for themselves."""

    step: Step
    operands: tuple[Any, ...]
    results: tuple[int, ...]


class _Unsuited(Exception):
    """The function cannot be cut."""


def stages(
    fn: Callable[..., Any], structure: Structure, params: Any, *arguments: Any
) -> Stages | None:
    """Cuts a function at its layers.

    Args:
      fn: `fn(params, *arguments)` -> one array.
      structure: what `trace` returned.
      params: the dense parameters.
      *arguments: inputs; pieces are for their shapes.

    Returns:
      The stages; None if the function cannot be cut: where masks concern the inside of a loop or of
      a branch, or what it does with parameters alone, or if it returns several values.
    """
    leaves = structure.check_params(params)
    table, program, _ = analyse_call(fn, structure, leaves, arguments)
    try:
        return _Cutter(structure, table, program, leaves).cut()
    except _Unsuited:
        return None


class _Cutter:
    """Cuts one program.

    Args:
      structure: the structure of its parameters.
      table: its atoms.
      program: the program.
      leaves: the parameters.
    """

    def __init__(
        self, structure: Structure, table: AtomTable, program: Program, leaves: Sequence[Any]
    ):
        self.structure, self.table, self.program = structure, table, program
        self.masking = Masked(structure, _no_masks(structure), table)
        self.slots = slots(table)
        self.involved = _groups_of_entries(structure, self.slots)
        self.patterns: list[Pattern] = []
        self.numbers: dict[bytes, int] = {}
        self.nodes: list[_Node] = []
        self.count = 0
        self.constants: dict[int, Any] = {}
        self.axes: dict[int, Axes] = {}
        self.codes: dict[Code, Code] = {}
        inputs = [self.value(axes) for axes in program.inputs]
        self.constants.update(zip(inputs, leaves, strict=False))
        self.inputs = inputs[len(leaves) :]
        outputs = self.flatten(program, inputs)
        if len(outputs) != 1 or not isinstance(outputs[0], int):
            raise _Unsuited
        self.output = outputs[0]

    def value(self, axes: Axes) -> int:
        """A new value."""
        self.axes[self.count] = axes
        self.count += 1
        return self.count - 1

    def flatten(self, program: Program, inputs: Sequence[Any]) -> list[Any]:
        """Numbers the values of a program, called functions written out."""
        names: dict[Any, Any] = dict(zip(program.jaxpr.invars, inputs, strict=True))
        captured = zip(program.jaxpr.constvars, program.consts, program.const_axes, strict=True)
        for var, constant, axes in captured:
            names[var] = self.value(axes)
            self.constants[names[var]] = constant
        for step in program.steps:
            operands = [v if isinstance(v, Literal) else names[v] for v in step.eqn.invars]
            if step.name in _INLINED and step.bodies:
                results = self.flatten(step.bodies[0], operands)
            else:
                results = [self.value(axes) for axes in step.outputs]
                self.nodes.append(_Node(step, tuple(operands), tuple(results)))
            names.update(zip(step.eqn.outvars, results, strict=True))
        return [v if isinstance(v, Literal) else names[v] for v in program.jaxpr.outvars]

    # -- patterns ---------------------------------------------------------------------------------

    def pattern(self, axis: Axis) -> int | None:
        """The number of an axis's pattern; None if it has no channels."""
        entries = self.slots.of_root[self.table.find(axis)]
        if not entries.any():
            return None
        key = entries.tobytes()
        if key not in self.numbers:
            groups = sorted(set().union(*(self.involved[entry] for entry in np.unique(entries))))
            alone = None
            if len(groups) == 1:
                first = 1 + sum(group.size for group in self.structure.groups[: groups[0]])
                size = self.structure.groups[groups[0]].size
                if np.array_equal(entries, np.arange(first, first + size)):
                    alone = groups[0]
            self.numbers[key] = len(self.patterns)
            self.patterns.append(Pattern(entries, tuple(groups), alone))
        return self.numbers[key]

    def places(self, axes: Axes) -> tuple[Place, ...]:
        """The axes of channels."""
        found = [(d, self.pattern(axis)) for d, axis in enumerate(axes)]
        return tuple(Place(d, number) for d, number in found if number is not None)

    def groups(self, axes: Axes) -> set[int]:
        """The groups of a value."""
        return {g for place in self.places(axes) for g in self.patterns[place.pattern].groups}

    # -- cutting ----------------------------------------------------------------------------------

    def cut(self) -> Stages:
        """The stages."""
        ordinary = self.compute_constants()
        pieces: list[Product | Rest] = []
        produced = [0] * len(self.structure.groups)
        carried = set().union(*(self.groups(self.axes[value]) for value in self.inputs))
        pinned: set[int] = set()
        users: dict[int, int] = {self.output: 1}
        for node in ordinary:
            for operand in _values(node):
                users[operand] = users.get(operand, 0) + 1
            pinned |= self.held_by(node.step)
        gathered: list[_Node] = []

        def close() -> None:
            if gathered:
                pieces.append(self.rest(gathered, users))
                gathered.clear()

        for node in ordinary:
            if self.is_product(node):
                close()
                product = self.product(node)
                pieces.append(product)
                for group in self.groups(self.axes[product.result]):
                    produced[group] += 1
            elif node.step.name.startswith(_POOLING):
                close()
                pieces.append(self.rest([node], users)._replace(alone=True))
            else:
                gathered.append(node)
        close()
        pinned |= {group for group in carried if produced[group]}
        return Stages(
            self.table,
            tuple(self.patterns),
            tuple(pieces),
            tuple(self.inputs),
            self.output,
            frozenset(carried),
            frozenset(pinned),
            tuple(produced),
        )

    def compute_constants(self) -> list[_Node]:
        """Computes what depends on no data, once; returns the other nodes."""
        known, ordinary = set(self.constants), []
        fixed = []
        for node in self.nodes:
            if all(value in known for value in _values(node)) and not node.step.eqn.effects:
                if self.concerned(node.step):
                    raise _Unsuited
                known.update(node.results)
                fixed.append(node)
            else:
                ordinary.append(node)
        read = {value for node in ordinary for value in _values(node)}
        wanted = [value for node in fixed for value in node.results if value in read]
        if self.output in known:
            raise _Unsuited

        def compute(constants: dict[int, Any]) -> dict[int, Any]:
            values = dict(constants)
            for node in fixed:
                operands = [_read(values, operand) for operand in node.operands]
                with node.step.eqn.ctx.manager:
                    values.update(zip(node.results, bind(node.step.eqn, operands), strict=True))
            return {value: values[value] for value in wanted}

        if wanted:
            self.constants.update(jax.jit(compute)(self.constants))
        return ordinary

    def concerned(self, step: Step) -> bool:
        """Do masks change what a step computes?"""
        inner = [inside for body in step.bodies for inside, _ in body.walk()]
        return any(self.masking.concerns(each) for each in (step, *inner))

    def held_by(self, step: Step) -> set[int]:
        """The groups that a step needs at full width."""
        if step.bodies:
            inner = [inside for body in step.bodies for inside, _ in body.walk()]
            if any(self.groups((*x, *y)) for s in inner for x in s.inputs for y in s.outputs):
                raise _Unsuited
            return set()
        rule = RULES.get(step.name)
        if rule is None or rule.shrink is None or step.name in _BY_SIZE:
            return set()
        return set().union(*(self.groups(axes) for axes in (*step.inputs, *step.outputs)))

    def is_product(self, node: _Node) -> bool:
        """Is it a product of data with a known array that can carry the masks?"""
        if node.step.name not in _PRODUCTS:
            return False
        left, right = (operand in self.constants for operand in node.operands)
        if left == right:
            return False
        side = 0 if left else 1
        summed = RULES[node.step.name].summed
        assert summed is not None
        return not node.step.rescale and all(
            any(operand == side for operand, _ in pair) or not self.masked_places(node.step, pair)
            for pair in summed(node.step.eqn)
        )

    def masked_places(self, step: Step, pair: Sequence[tuple[int, int]]) -> bool:
        return any(self.pattern(step.inputs[operand][d]) is not None for operand, d in pair)

    def product(self, node: _Node) -> Product:
        step, eqn = node.step, node.step.eqn
        side = 0 if node.operands[0] in self.constants else 1
        rule = RULES[step.name]
        assert rule.summed is not None
        summed = []
        for pair in rule.summed(eqn):
            axes = dict(pair)
            number = self.pattern(step.inputs[side][axes[side]]) if side in axes else None
            if number is not None and 1 - side in axes:
                summed.append(Summed(axes[1 - side], axes[side], number))

        result, known = node.results[0], node.operands[side]
        return Product(
            code=self.code(
                ("product", side, _signature(eqn)), functools.partial(_multiply, eqn, side)
            ),
            data=node.operands[1 - side],
            known=self.known(known),
            summed=tuple(summed),
            result=result,
            out=self.places(self.axes[result]),
            multiply_adds=_multiply_adds(eqn),
            size=int(np.prod(shape(eqn.outvars[0]))),
            alone=step.name == "conv_general_dilated",
        )

    def rest(self, nodes: Sequence[_Node], users: dict[int, int]) -> Rest:
        made = [value for node in nodes for value in node.results]
        inside: dict[int, int] = {}
        for value in (value for node in nodes for value in _values(node)):
            inside[value] = inside.get(value, 0) + 1
        known = [value for value in inside if value in self.constants]
        data = [value for value in inside if value not in self.constants and value not in made]
        results = [value for value in made if users.get(value, 0) > inside.get(value, 0)]
        patterns: dict[int, int] = {}  # their places among those of this piece
        local = {value: place for place, value in enumerate([*data, *known, *made])}
        lines = tuple(self.line(node, local, patterns) for node in nodes)
        masked = sorted({place for line in lines for place in line.masks})
        ends = tuple(local[value] for value in results)
        numbers = list(patterns)
        return Rest(
            code=self.code(
                ("rest", len(data), tuple(line.signature for line in lines), ends),
                functools.partial(_compute, lines, tuple(masked), ends),
            ),
            reads=tuple(data),
            known=tuple(self.known(value) for value in known),
            masked=tuple(numbers[place] for place in masked),
            patterns=tuple(numbers),
            makes=tuple(results),
            alone=False,
        )

    def line(self, node: _Node, local: dict[int, int], patterns: dict[int, int]) -> "_Line":
        """A step without anything that the cutter holds; finds places for its patterns."""
        step = node.step

        def place(axis: Axis) -> int | None:
            number = self.pattern(axis)
            return None if number is None else patterns.setdefault(number, len(patterns))

        reduced = [] if step.bodies else self.masking.reduced(step)
        return _Line(
            eqn=step.eqn,
            operands=tuple(local[o] if isinstance(o, int) else o for o in node.operands),
            results=tuple(local[value] for value in node.results),
            reduced=tuple((o, d, place(step.inputs[o][d]) or 0) for o, d in reduced),
            rescale=tuple(
                (len(axis), found)
                for axis, found in ((axis, place(axis)) for axis in step.rescale)
                if found is not None
            ),
            inputs=tuple(tuple(map(place, axes)) for axes in step.inputs),
            outputs=tuple(tuple(map(place, axes)) for axes in step.outputs),
        )

    def known(self, value: int) -> Known:
        array = self.constants[value]
        return Known(np.asarray(array), jax.numpy.asarray(array), self.places(self.axes[value]))

    def code(self, signature: Any, function: Callable[..., list[Any]]) -> Code:
        """The same object for equal steps, which is what the compiled ones are looked up by."""
        code = Code(signature, function)
        return self.codes.setdefault(code, code)


class _Line(NamedTuple):
    """A step of a rest, which says everything by places in the rest.

    Attributes:
      eqn: the equation.
      operands: places of values, or literals.
      results: places of values.
      reduced: (operand, axis, place of the pattern) wherever it reduces an axis of channels.
      rescale: (full size, place of the pattern) of axes that it divides by.
      inputs: for each axis of each operand the place of its pattern, None if it has no channels.
      outputs: the same of the results.
    """

    eqn: Any
    operands: tuple[Any, ...]
    results: tuple[int, ...]
    reduced: tuple[tuple[int, int, int], ...]
    rescale: tuple[tuple[int, int], ...]
    inputs: tuple[tuple[int | None, ...], ...]
    outputs: tuple[tuple[int | None, ...], ...]

    @property
    def masks(self) -> set[int]:
        """The places of the patterns whose masks it needs."""
        return {place for *_, place in (*self.reduced, *self.rescale)}

    @property
    def signature(self) -> Any:
        """What it computes, hashable."""
        operands = tuple(
            operand if isinstance(operand, int) else _literal(operand) for operand in self.operands
        )
        return (_signature(self.eqn), operands, *self[2:])


def _compute(
    lines: Sequence[_Line],
    masked: tuple[int, ...],
    ends: tuple[int, ...],
    sizes: tuple[int, ...],
    data: Sequence[Any],
    known: Sequence[Any],
    masks: Sequence[Any],
) -> list[Any]:
    """Evaluates a rest."""
    mask_of = dict(zip(masked, masks, strict=True))
    values: dict[int, Any] = dict(enumerate([*data, *known]))

    def kept(places: tuple[int | None, ...], var: Any) -> tuple[np.ndarray, ...]:
        """As many positions of each axis as are there; which ones does not matter."""
        return tuple(
            np.arange(size) < (size if place is None else int(sizes[place]))
            for place, size in zip(places, shape(var), strict=True)
        )

    for line in lines:
        eqn = line.eqn
        operands = [_read(values, operand) for operand in line.operands]
        for operand, d, place in line.reduced:
            operands[operand] = apply_mask(operands[operand], d, mask_of[place], eqn)
        rule = RULES.get(eqn.primitive.name)
        with eqn.ctx.manager:
            if rule is not None and rule.shrink is not None and eqn.primitive.name in _BY_SIZE:
                inputs = [kept(*pair) for pair in zip(line.inputs, eqn.invars, strict=True)]
                outputs = [kept(*pair) for pair in zip(line.outputs, eqn.outvars, strict=True)]
                results = rule.shrink(eqn, operands, inputs, outputs)
            else:
                results = bind(eqn, operands)
            for full, place in line.rescale:
                results[0] = rescale(results[0], full, mask_of[place])
        values.update(zip(line.results, results, strict=True))
    return [values[end] for end in ends]


def _multiply(eqn: Any, side: int, sizes: Any, data: Any, known: Any, masks: Any) -> list[Any]:
    """Evaluates a product; side is the place of the known array among the operands."""
    (value,), (array,) = data, known
    for axis, count in sizes:
        value = jax.lax.slice_in_dim(value, 0, count, axis=axis)

    def compute(data: Any, known: Any) -> Any:
        operands = [known, data] if side == 0 else [data, known]
        rule = RULES[eqn.primitive.name]
        with eqn.ctx.manager:
            if rule.shrink is None:
                return bind(eqn, operands)[0]
            kept = tuple(np.ones(size, bool) for size in shape(eqn.outvars[0]))
            return rule.shrink(eqn, operands, [], [kept])[0]

    if eqn.primitive.name == "conv_general_dilated":
        value, array = _even(eqn, value, array)
    return [lower(compute)(value, array)]


EVEN = 4
"""XLA's CPU backend convolves a number of channels that this does not divide much slower than the
next one that it does."""


def _even(eqn: Any, data: Any, kernel: Any) -> tuple[Any, Any]:
    """The operands of a convolution with channels of zeros, so that `EVEN` divides their number."""
    params = eqn.params
    missing = -data.shape[params["dimension_numbers"].lhs_spec[1]] % EVEN
    if params["feature_group_count"] > 1 or params["batch_group_count"] > 1 or not missing:
        return data, kernel

    def padded(value: Any, axis: int) -> Any:
        amounts = [(0, missing if d == axis else 0, 0) for d in range(value.ndim)]
        return jax.lax.pad(value, np.zeros((), value.dtype), amounts)

    spec = params["dimension_numbers"]
    return padded(data, spec.lhs_spec[1]), padded(kernel, spec.rhs_spec[1])


def _literal(literal: Any) -> Any:
    value = np.asarray(literal.val)
    return literal.aval, value.tobytes()


def _no_masks(structure: Structure) -> dict[str, np.ndarray]:
    """Masks that are not known to keep everything."""
    return {group.name: np.zeros(group.size, np.float32) for group in structure.groups}


def _groups_of_entries(structure: Structure, known: Any) -> list[frozenset[int]]:
    """The groups that each entry of the vector of masks depends on."""
    involved = [frozenset[int]()]
    involved += [frozenset((int(group),)) for group in structure.group_index]
    for pairs in known.levels:
        involved += [involved[left] | involved[right] for left, right in pairs]
    return involved


def _values(node: _Node) -> list[int]:
    return [operand for operand in node.operands if isinstance(operand, int)]


def _read(values: dict[int, Any], operand: Any) -> Any:
    return values[operand] if isinstance(operand, int) else operand.val


def _signature(eqn: Any) -> Any:
    """What an equation computes, hashable; one that cannot be hashed is equal to itself alone."""
    signature = (
        eqn.primitive.name,
        tuple(sorted(eqn.params.items(), key=lambda item: item[0])),
        tuple(var.aval for var in (*eqn.invars, *eqn.outvars)),
        eqn.ctx,
    )
    try:
        hash(signature)
    except TypeError:
        return id(eqn)
    return signature


def _multiply_adds(eqn: Any) -> int:
    """The multiply-adds of a product, those with padding included."""
    result, right = shape(eqn.outvars[0]), shape(eqn.invars[1])
    if eqn.primitive.name == "dot_general":
        (_, contracted), _ = eqn.params["dimension_numbers"]
        inside = [right[d] for d in contracted]
    else:
        spec = eqn.params["dimension_numbers"].rhs_spec
        inside = [right[d] for d in spec[1:]]
    return int(np.prod(result, dtype=np.int64) * np.prod(inside, dtype=np.int64))
