"""A traced function with the atoms of every value: what masking and compaction evaluate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import source_info_util
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from jaxprune.dependency.atoms import AtomTable, Axes, Reason, fixed_axis
from jaxprune.dependency.rules import RULES, freeze_everything

INLINED = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}
"""Primitives that only call a function, with the parameter that holds it."""

WRAPPED = {"custom_jvp_call": "call_jaxpr", "checkpoint": "jaxpr", "remat2": "jaxpr"}
"""Primitives that call a function and say how to differentiate it."""

SHAPELESS = {"custom_vjp_call": "call_jaxpr"}
"""Primitives that call a function which must work at any size as it stands."""

_CALLS = INLINED | WRAPPED | SHAPELESS


@dataclass(frozen=True)
class Step:
    """One equation with the atoms of its operands and results."""

    eqn: JaxprEqn
    inputs: tuple[Axes, ...]
    outputs: tuple[Axes, ...]
    from_params: tuple[bool, ...]  # for each operand: does it depend on the parameters alone?
    body: "Program | None" = None  # the called function, if the primitive calls one


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

    def walk(self):
        """Every step, those of called functions included."""
        for step in self.steps:
            yield step
            if step.body is not None:
                yield from step.body.walk()


def analyse(
    table: AtomTable,
    jaxpr: Any,
    inputs: Sequence[Axes],
    from_params: Sequence[bool],
    caller: str = "",
) -> Program:
    """Gives every value of a closed jaxpr its atoms.

    Args:
      table: the union-find that learns what must be removed together.
      jaxpr: a closed jaxpr, as `jax.make_jaxpr` returns it.
      inputs: the atoms of each of its arguments.
      from_params: which of its arguments are parameters.
      caller: the source line to name for equations that carry none of their own.
    """
    consts = tuple(getattr(jaxpr, "consts", ()))
    jaxpr = jaxpr.jaxpr if hasattr(jaxpr, "jaxpr") else jaxpr
    atoms: dict[Any, Axes] = dict(zip(jaxpr.invars, inputs, strict=True))
    of_params: dict[Any, bool] = dict(zip(jaxpr.invars, from_params, strict=True))
    for var in jaxpr.constvars:
        atoms[var] = tuple(table.fresh(size) for size in getattr(var.aval, "shape", ()))
        of_params[var] = True

    def axes_of(var: Any) -> Axes:
        if isinstance(var, Literal):
            return tuple(fixed_axis(size) for size in getattr(var.aval, "shape", ()))
        return atoms[var]

    steps = []
    for eqn in jaxpr.eqns:
        operands = tuple(axes_of(var) for var in eqn.invars)
        parameters = tuple(isinstance(v, Literal) or of_params[v] for v in eqn.invars)
        name = eqn.primitive.name
        reason = Reason(f"'{name}'", source_info_util.summarize(eqn.source_info) or caller)
        body = None
        if name in _CALLS:
            function = eqn.params[_CALLS[name]]
            body = analyse(table, function, operands, parameters, reason.source)
            if name in SHAPELESS and any(_has_shapes(step) for step in body.walk()):
                freeze_everything(table, eqn, operands, reason)
            results = body.outputs
        elif name in RULES:
            results = tuple(RULES[name].relate(table, eqn, operands, reason))
        else:
            lacking = Reason(f"no rule for primitive '{name}'", reason.source)
            results = tuple(freeze_everything(table, eqn, operands, lacking))
        steps.append(Step(eqn, operands, results, parameters, body))
        for var, axes in zip(eqn.outvars, results, strict=True):
            atoms[var] = axes
            of_params[var] = all(parameters)
    return Program(
        jaxpr=jaxpr,
        consts=consts,
        const_axes=tuple(atoms[var] for var in jaxpr.constvars),
        steps=tuple(steps),
        inputs=tuple(inputs),
        outputs=tuple(axes_of(var) for var in jaxpr.outvars),
    )


def evaluate(
    program: Program,
    arguments: Sequence[Any],
    bind: Callable[[Step, list[Any]], list[Any]],
    constant: Callable[[Any, Axes], Any] = lambda value, axes: value,
) -> list[Any]:
    """Runs a program, `bind` evaluating each step and `constant` preparing captured constants."""
    values: dict[Any, Any] = dict(zip(program.jaxpr.invars, arguments, strict=True))
    captured = zip(program.jaxpr.constvars, program.consts, program.const_axes, strict=True)
    values.update((var, constant(value, axes)) for var, value, axes in captured)
    for step in program.steps:
        operands = [v.val if isinstance(v, Literal) else values[v] for v in step.eqn.invars]
        names = source_info_util.current_name_stack() + step.eqn.source_info.name_stack
        traceback = step.eqn.source_info.traceback
        with source_info_util.user_context(traceback, name_stack=names), step.eqn.ctx.manager:
            if step.body is not None and step.eqn.primitive.name in INLINED:
                results = evaluate(step.body, operands, bind, constant)
            else:
                results = bind(step, operands)
        values.update(zip(step.eqn.outvars, results, strict=True))
    return [v.val if isinstance(v, Literal) else values[v] for v in program.jaxpr.outvars]


def call(
    table: AtomTable,
    step: Step,
    operands: list[Any],
    bind: Callable[[Step, list[Any]], list[Any]],
    constant: Callable[[Any, Axes], Any] = lambda value, axes: value,
) -> list[Any]:
    """Evaluates a step that calls a function, keeping what it says of differentiation."""
    body = step.body
    if body is None:
        raise ValueError(f"'{step.eqn.primitive.name}' calls no function")

    def run(*arguments):
        return evaluate(body, arguments, bind, constant)

    params = step.eqn.params
    if step.eqn.primitive.name != "custom_jvp_call":
        keep = {"prevent_cse": params["prevent_cse"], "policy": params["policy"]}
        return list(jax.checkpoint(run, **keep)(*operands))

    function = jax.custom_jvp(run)
    skip = params["num_consts"]

    @function.defjvp
    def derivative(primals, tangents):
        zeros = [False] * (len(primals) - skip)
        jaxpr, consts, zero_outputs = params["jvp_jaxpr_fun"].call_wrapped(*zeros)
        rule = analyse(
            table,
            ClosedJaxpr(jaxpr, consts),
            [*step.inputs[skip:], *step.inputs[skip:]],
            [*step.from_params[skip:], *step.from_params[skip:]],
        )
        results = evaluate(rule, [*primals[skip:], *tangents[skip:]], bind, constant)
        outputs, derivatives = results[: len(zero_outputs)], iter(results[len(zero_outputs) :])
        return outputs, [
            jnp.zeros_like(output) if zero else next(derivatives)
            for output, zero in zip(outputs, zero_outputs, strict=True)
        ]

    return list(function(*operands))


def _has_shapes(step: Step) -> bool:
    rule = RULES.get(step.eqn.primitive.name)
    return step.body is None and (rule is None or rule.shrink is not None)
