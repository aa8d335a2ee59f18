"""A traced function with the atoms of every value, which masking and compaction evaluate."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jax.extend import source_info_util
from jax.extend.core import JaxprEqn, Literal

from jaxprune.dependency import facts
from jaxprune.dependency.atoms import AtomTable, Axes, Axis, Reason, fixed_axis
from jaxprune.dependency.calls import CALLS, Again
from jaxprune.dependency.copies import with_copies
from jaxprune.dependency.facts import Fact
from jaxprune.dependency.rules import RULES, freeze_everything
from jaxprune.dependency.source import source_line

CONSTANT = -1
"""The origin of a value that depends neither on data nor on parameters."""


@dataclass(frozen=True)
class Step:
    """One equation with the atoms of its operands and results.

    Attributes:
      eqn: the equation.
      inputs: the atoms of each operand.
      outputs: the atoms of each result.
      origins: for each operand: the first parameter leaf it was made from, `CONSTANT` if it was
        made from constants, None if it depends on data.
      rescale: axes whose full size the equation divides by, see `facts`.
      bodies: the called functions, if the primitive calls any.
    """

    eqn: JaxprEqn
    inputs: tuple[Axes, ...]
    outputs: tuple[Axes, ...]
    origins: tuple[int | None, ...]
    rescale: tuple[Axis, ...] = ()
    bodies: "tuple[Program, ...]" = ()

    @property
    def from_params(self) -> tuple[bool, ...]:
        """For each operand, whether it is independent of data."""
        return tuple(origin is not None for origin in self.origins)

    @property
    def name(self) -> str:
        """The name of the primitive."""
        return self.eqn.primitive.name


@dataclass(frozen=True)
class Program:
    """A function as equations, with the atoms of every value.

    The atoms are as they were when each equation was read: `AtomTable.find` gives their classes.
    """

    jaxpr: Any
    consts: tuple[Any, ...]
    const_axes: tuple[Axes, ...]
    steps: tuple[Step, ...]
    inputs: tuple[Axes, ...]
    outputs: tuple[Axes, ...]
    output_facts: tuple[Fact, ...]

    def walk(self, times: float = 1.0) -> Iterator[tuple[Step, float]]:
        """All steps, including those of called functions, and how often each runs.

        A loop of unknown length counts once, and the branches of a condition share one run.
        """
        for step in self.steps:
            yield step, times
            for body in step.bodies:
                yield from body.walk(times * CALLS[step.name].times(step))


def analyse(
    table: AtomTable,
    jaxpr: Any,
    inputs: Sequence[Axes],
    origins: Sequence[int | None],
    known: Sequence[Fact] = (),
    caller: str = "",
    back: bool = False,
) -> Program:
    """Finds the atoms of every value of a closed jaxpr.

    Args:
      table: the union-find that learns what must be removed together.
      jaxpr: a closed jaxpr, as `jax.make_jaxpr` returns it.
      inputs: the atoms of each of its arguments.
      origins: the origin of each of its arguments, see `Step.origins`.
      known: what is known about its arguments; by default nothing.
      caller: the source line for equations that have none of their own.
      back: whether it is part of a reverse-mode derivative.
    """
    consts = tuple(getattr(jaxpr, "consts", ()))
    jaxpr, consts = with_copies(jaxpr.jaxpr if hasattr(jaxpr, "jaxpr") else jaxpr, consts)
    known = known or [facts.NOTHING] * len(jaxpr.invars)
    atoms: dict[Any, Axes] = dict(zip(jaxpr.invars, inputs, strict=True))
    origin_of: dict[Any, int | None] = dict(zip(jaxpr.invars, origins, strict=True))
    fact_of: dict[Any, Fact] = dict(zip(jaxpr.invars, known, strict=True))
    for var, value in zip(jaxpr.constvars, consts, strict=True):
        atoms[var] = tuple(table.fresh(size) for size in getattr(var.aval, "shape", ()))
        origin_of[var] = CONSTANT
        fact_of[var] = facts.captured(value)

    def axes_of(var: Any) -> Axes:
        if isinstance(var, Literal):
            return tuple(fixed_axis(size) for size in getattr(var.aval, "shape", ()))
        return atoms[var]

    steps = []
    for eqn in jaxpr.eqns:
        operands = tuple(axes_of(var) for var in eqn.invars)
        sources = tuple(CONSTANT if isinstance(v, Literal) else origin_of[v] for v in eqn.invars)
        learned = [facts.of_operand(var, fact_of) for var in eqn.invars]
        backward = back or "transpose(" in str(eqn.source_info.name_stack)
        line = source_line(eqn.source_info, caller)
        step = _step(table, eqn, operands, sources, learned, line, backward)
        if step.bodies:
            new_facts = CALLS[step.name].facts(step)
        else:
            new_facts, rescale = facts.follow(eqn, operands, learned, step.outputs, backward)
            if rescale:
                step = Step(eqn, operands, step.outputs, sources, rescale)
        steps.append(step)
        for var, axes, fact in zip(eqn.outvars, step.outputs, new_facts, strict=True):
            atoms[var] = axes
            origin_of[var] = _origin(sources)
            fact_of[var] = fact
    return Program(
        jaxpr=jaxpr,
        consts=consts,
        const_axes=tuple(atoms[var] for var in jaxpr.constvars),
        steps=tuple(steps),
        inputs=tuple(inputs),
        outputs=tuple(axes_of(var) for var in jaxpr.outvars),
        output_facts=tuple(facts.of_operand(var, fact_of) for var in jaxpr.outvars),
    )


def _origin(sources: Sequence[int | None]) -> int | None:
    """The origin of a value that was made from several."""
    if any(source is None for source in sources):
        return None
    return next((source for source in sources if source != CONSTANT), CONSTANT)


def _step(
    table: AtomTable,
    eqn: JaxprEqn,
    inputs: tuple[Axes, ...],
    origins: tuple[int | None, ...],
    known: Sequence[Fact],
    source: str,
    back: bool,
) -> Step:
    """One equation analysed, together with the functions that it calls."""
    name = eqn.primitive.name
    reason = Reason(f"'{name}'", source)
    if name in CALLS:

        def analyse_body(jaxpr, axes, origins, known=()):
            return analyse(table, jaxpr, axes, origins, known, source, back)

        bodies, outputs = CALLS[name].analyse(
            table, eqn, inputs, origins, known, reason, analyse_body
        )
        return Step(eqn, inputs, tuple(outputs), origins, bodies=tuple(bodies))
    if name in RULES:
        rule = RULES[name]
        values = [[fact.value() for fact in known]] if rule.reads_values else []
        outputs = rule.relate(table, eqn, inputs, reason, *values)
    else:
        lacking = Reason(f"no rule for primitive '{name}'", source)
        outputs = freeze_everything(table, eqn, inputs, lacking)
    return Step(eqn, inputs, tuple(outputs), origins)


class Interpreter(Protocol):
    """A way to evaluate a program: with masks, or at the sizes that remain."""

    @property
    def table(self) -> AtomTable:
        """What was learned about the program's atoms."""
        ...

    def bind(self, step: Step, operands: list[Any]) -> list[Any]:
        """Evaluates one step on the values of its operands."""
        ...

    def constant(self, value: Any, axes: Axes) -> Any:
        """Prepares a constant that a function has captured."""
        ...

    def clear(self, value: Any, axes: Axes) -> Any:
        """Sets a derivative to zero at removed positions."""
        ...

    @property
    def masks(self) -> Any:
        """The arrays that the evaluation depends on, a pytree."""
        ...

    def given(self, masks: Any) -> "Interpreter":
        """The same with other arrays."""
        ...


def evaluate(program: Program, arguments: Sequence[Any], interpreter: Interpreter) -> list[Any]:
    """Runs a program."""
    values: dict[Any, Any] = dict(zip(program.jaxpr.invars, arguments, strict=True))
    captured = zip(program.jaxpr.constvars, program.consts, program.const_axes, strict=True)
    values.update((var, interpreter.constant(value, axes)) for var, value, axes in captured)
    for step in program.steps:
        operands = [v.val if isinstance(v, Literal) else values[v] for v in step.eqn.invars]
        names = source_info_util.current_name_stack() + step.eqn.source_info.name_stack
        traceback = step.eqn.source_info.traceback
        with source_info_util.user_context(traceback, name_stack=names), step.eqn.ctx.manager:
            results = interpreter.bind(step, operands)
        values.update(zip(step.eqn.outvars, results, strict=True))
    return [v.val if isinstance(v, Literal) else values[v] for v in program.jaxpr.outvars]


def call(step: Step, operands: list[Any], interpreter: Interpreter) -> list[Any]:
    """Evaluates a step that calls functions; loops, branches and custom derivatives stay such."""
    table = interpreter.table

    def analyse_body(jaxpr, axes, origins, back=False):
        return analyse(table, jaxpr, axes, origins, back=back)

    def tie(left: Axes, right: Axes) -> None:
        table.unite_values(left, right, Reason(f"'{step.name}'", ""))

    def again(interpreter: Interpreter) -> Again:
        return Again(
            evaluate=lambda body, *arguments: evaluate(body, arguments, interpreter),
            analyse=analyse_body,
            tie=tie,
            clear=interpreter.clear,
            masks=interpreter.masks,
            given=lambda masks: again(interpreter.given(masks)),
        )

    return list(CALLS[step.name].run(step, operands, again(interpreter)))
