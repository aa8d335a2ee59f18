"""Primitives that call functions: jit, remat, loops, branches, and custom derivatives.

For each of them, `CALLS` relates the operands and results to the arguments and results of the
called functions, evaluates the primitive with other functions in their place, and tells how often
each function runs.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values
from jax.extend.core import ClosedJaxpr

from jaxprune.dependency.atoms import Axes, fixed_axis
from jaxprune.dependency.facts import NOTHING, Fact
from jaxprune.dependency.rules import freeze_everything
from jaxprune.dependency.rules.base import because, frozen_axis, shape


class Call(NamedTuple):
    """How a primitive that calls functions is treated.

    Attributes:
      analyse: `analyse(table, eqn, inputs, origins, known, reason, analyse_body)` returns the
        analysed functions and the atoms of the results. `analyse_body(jaxpr, axes, origins,
        known)` analyses one function.
      run: `run(step, operands, again)` evaluates the primitive.
      times: `times(step)` tells how often each function runs, on average.
      facts: `facts(step)` tells what is known about the results.
    """

    analyse: Callable[..., tuple[Sequence[Any], Sequence[Any]]]
    run: Callable[..., Sequence[Any]]
    times: Callable[[Any], float] = lambda step: 1.0
    facts: Callable[[Any], Sequence[Fact]] = lambda step: [NOTHING] * len(step.outputs)


class Again(NamedTuple):
    """What it takes to evaluate called functions masked or at smaller sizes.

    Attributes:
      evaluate: `evaluate(body, *arguments)` evaluates an analysed function.
      analyse: `analyse(jaxpr, axes, origins, back=False)` analyses another one.
      tie: `tie(axes, axes)` unites the positions of two values.
      clear: `clear(value, axes)` sets a derivative to zero at removed positions.
      masks: the arrays that `evaluate` and `clear` depend on.
      given: `given(masks)` is the same with other arrays.
    """

    evaluate: Callable[..., list[Any]]
    analyse: Callable[..., Any]
    tie: Callable[[Axes, Axes], None]
    clear: Callable[[Any, Axes], Any]
    masks: Any
    given: "Callable[[Any], Again]"


CALLS: dict[str, Call] = {}


# -- one function, called once --------------------------------------------------------------------


def _analyse_one(parameter: str) -> Callable[..., Any]:
    def analyse(table, eqn, inputs, origins, known, reason, analyse_body):
        body = analyse_body(eqn.params[parameter], inputs, origins, known)
        return (body,), body.outputs

    return analyse


def _run_inlined(step, operands, again):
    return again.evaluate(step.bodies[0], *operands)


def _facts_of_body(step):
    return step.bodies[0].output_facts


for _name, _parameter in {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
}.items():
    CALLS[_name] = Call(_analyse_one(_parameter), _run_inlined, facts=_facts_of_body)


def _run_checkpoint(step, operands, again):
    def function(*arguments):
        return again.evaluate(step.bodies[0], *arguments)

    params = step.eqn.params
    keep = {"prevent_cse": params["prevent_cse"], "policy": params["policy"]}
    return jax.checkpoint(function, **keep)(*operands)


for _name in ("checkpoint", "remat2"):
    CALLS[_name] = Call(_analyse_one("jaxpr"), _run_checkpoint, facts=_facts_of_body)


# -- custom derivatives ---------------------------------------------------------------------------
#
# A custom rule knows nothing of masks: their derivative is that of the function itself. They are
# passed as arguments, because a rule must not close over tracers of a derivative or of a loop.


def _run_custom_jvp(step, operands, again):
    body, params = step.bodies[0], step.eqn.params
    skip = params["num_consts"]

    def call(masks, *values):
        return tuple(again.given(masks).evaluate(body, *values))

    def derivative(primals, tangents):
        (masks, *values), (of_masks, *of_values) = primals, tangents
        zeros = [False] * (len(values) - skip)
        jaxpr, consts, zero_outputs = params["jvp_jaxpr_fun"].call_wrapped(*zeros)
        twice = [*step.inputs[skip:], *step.inputs[skip:]]
        origins = [*step.origins[skip:], *step.origins[skip:]]
        rule = again.analyse(ClosedJaxpr(jaxpr, consts), twice, origins)
        slopes = map(_instantiated, of_values[skip:])
        results = again.given(masks).evaluate(rule, *values[skip:], *slopes)
        outputs, derivatives = results[: len(zero_outputs)], iter(results[len(zero_outputs) :])
        found = [
            jnp.zeros_like(output) if zero else next(derivatives)
            for output, zero in zip(outputs, zero_outputs, strict=True)
        ]
        if any(not isinstance(leaf, SymbolicZero) for leaf in jax.tree.leaves(of_masks)):
            of_masks = jax.tree.map(_instantiated, of_masks)
            _, more = jax.jvp(lambda masks: call(masks, *values), (masks,), (of_masks,))
            found = [a + b for a, b in zip(found, more, strict=True)]
        return tuple(outputs), tuple(found)

    function = jax.custom_jvp(call)
    # Symbolic zeros tell whether the masks are differentiated.
    function.defjvp(derivative, symbolic_zeros=bool(jax.tree.leaves(again.masks)))
    return function(again.masks, *operands)


CALLS["custom_jvp_call"] = Call(_analyse_one("call_jaxpr"), _run_custom_jvp, facts=_facts_of_body)


def _analyse_custom_vjp(table, eqn, inputs, origins, known, reason, analyse_body):
    if eqn.params["symbolic_zeros"]:
        freeze_everything(table, eqn, inputs, because(reason, "it asks for symbolic zeros"))
    return _analyse_one("call_jaxpr")(table, eqn, inputs, origins, known, reason, analyse_body)


def _run_custom_vjp(step, operands, again):
    body, params = step.bodies[0], step.eqn.params
    skip = params["num_consts"]
    given = [var.aval for var in step.eqn.invars]
    has_masks = bool(jax.tree.leaves(again.masks))
    traced: list[Any] = []  # the atoms of the forward rule's residuals, and their types

    def call(masks, *values):
        return tuple(again.given(masks).evaluate(body, *values))

    def forward(masks, *values):
        asks = any(leaf.perturbed for leaf in jax.tree.leaves(masks))
        if has_masks:
            masks, values = custom_vjp_primal_tree_values((masks, values))
        jaxpr, consts = params["fwd_jaxpr_thunk"].call_wrapped(*[True] * len(given[skip:]))
        rule = again.analyse(ClosedJaxpr(jaxpr, consts), step.inputs[skip:], step.origins[skip:])
        for ours, theirs in zip(rule.outputs[-len(step.outputs) :], step.outputs, strict=True):
            again.tie(ours, theirs)
        _, tree, forwarded = params["out_trees"]()
        count = tree.num_leaves - sum(place is not None for place in forwarded)
        results = again.given(masks).evaluate(rule, *values[skip:])

        def residuals(from_rule, from_inputs):
            rest = iter(from_rule)
            return [next(rest) if i is None else from_inputs[i] for i in forwarded]

        traced[:] = [
            residuals(rule.outputs[:count], step.inputs),
            residuals([v.aval for v in rule.jaxpr.outvars[:count]], given),
        ]
        saved = (masks, residuals(results[:count], values), values if asks else None)
        return tuple(results[count:]), saved

    def backward(saved, cotangents):
        axes, avals = traced
        masks, residuals, values = saved
        inside = again.given(masks)
        cotangents = tuple(map(_instantiated, cotangents))
        outputs = [v.aval.to_tangent_aval() for v in step.eqn.outvars]
        nothing: list[bool] = []  # which arguments have no derivative

        def rule(*arguments):
            found = params["bwd"].call_wrapped(*arguments)
            if isinstance(found, tuple):  # from JAX 0.11 on: with what the rule logs
                found, _ = found
            nothing[:] = [not hasattr(each, "dtype") for each in found]
            return [each for each, none in zip(found, nothing, strict=True) if not none]

        shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (*avals, *outputs)]
        program = again.analyse(
            jax.make_jaxpr(rule)(*shapes),
            [*axes, *step.outputs],
            [None] * len(shapes),
            back=True,
        )
        theirs = [a for a, none in zip(step.inputs[skip:], nothing, strict=True) if not none]
        for ours, axes_in in zip(program.outputs, theirs, strict=True):
            again.tie(ours, axes_in)
        # Where a mask removed a position, nothing depends on it; the rule does not know that.
        results = inside.evaluate(program, *residuals, *cotangents)
        found = iter([inside.clear(v, a) for v, a in zip(results, theirs, strict=True)])
        of_masks = None
        if values is not None:
            (of_masks,) = jax.vjp(lambda masks: call(masks, *values), masks)[1](cotangents)
        return (of_masks, *[None] * skip, *(None if none else next(found) for none in nothing))

    function = jax.custom_vjp(call)
    # Not in a compact network: a rule that asks for them is frozen when it is traced again.
    function.defvjp(forward, backward, symbolic_zeros=has_masks)
    return function(again.masks, *operands)


def _instantiated(derivative: Any) -> Any:
    """A derivative as an array, even if it is a symbolic zero."""
    if not isinstance(derivative, SymbolicZero):
        return derivative
    integer = derivative.dtype == jax.dtypes.float0
    return (np if integer else jnp).zeros(derivative.shape, derivative.dtype)


CALLS["custom_vjp_call"] = Call(_analyse_custom_vjp, _run_custom_vjp, facts=_facts_of_body)


# -- loops ----------------------------------------------------------------------------------------


def _tie(table, before, after, reason):
    """Unites what a loop carries before and after an iteration."""
    for old, new in zip(before, after, strict=True):
        table.unite_values(old, new, because(reason, "the loop carries them"))


def scan_counts(eqn):
    """How many operands are constants of the loop, and how many are carried."""
    if "num_consts" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carry, _ = eqn.params["ft_in"].unpack()  # from JAX 0.11 on
    return len(consts), len(carry)


def _analyse_scan(table, eqn, inputs, origins, known, reason, analyse_body):
    num_consts, num_carry = scan_counts(eqn)
    first = num_consts + num_carry
    for axes in inputs[first:]:
        table.freeze(axes[0], because(reason, "the loop runs over them"))
    each = [axes[1:] for axes in inputs[first:]]
    steady = [*known[:num_consts], *([NOTHING] * num_carry), *map(_every_round, known[first:])]
    body = analyse_body(
        eqn.params["jaxpr"],
        [*inputs[:first], *each],
        _steady(origins, num_consts, num_carry),
        steady,
    )
    carried, stacked = body.outputs[:num_carry], body.outputs[num_carry:]
    _tie(table, inputs[num_consts:first], carried, reason)
    steps = fixed_axis(eqn.params["length"])
    return (body,), [*carried, *((steps, *axes) for axes in stacked)]


def _steady(origins, num_consts, num_carry):
    """The origins of operands: the carry depends on data if any operand of the loop does."""
    if all(origin is not None for origin in origins):
        return origins
    last = num_consts + num_carry
    return [*origins[:num_consts], *[None] * num_carry, *origins[last:]]


def _run_scan(step, operands, again):
    params, (body,) = step.eqn.params, step.bodies
    num_consts, num_carry = scan_counts(step.eqn)
    first = num_consts + num_carry

    def round_(carry, each):
        results = again.evaluate(body, *operands[:num_consts], *carry, *each)
        return tuple(results[:num_carry]), tuple(results[num_carry:])

    carry, stacked = jax.lax.scan(
        round_,
        tuple(operands[num_consts:first]),
        tuple(operands[first:]),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*carry, *stacked]


def _every_round(fact: Fact) -> Fact:
    """What is known about one slice, if a loop runs over equal ones."""

    def slice_() -> np.ndarray | None:
        value = fact.value()
        if value is None or not len(value) or (value != value[:1]).any():
            return None
        return value[0]

    return NOTHING if fact.constant is None else Fact(constant=slice_)


def _stacked(fact: Fact, length: int) -> Fact:
    """What is known about the stacked results of a loop."""

    def repeated() -> np.ndarray | None:
        value = fact.value()
        return None if value is None else np.broadcast_to(value, (length, *value.shape))

    return NOTHING if fact.constant is None else Fact(constant=repeated)


def _scan_facts(step):
    params, body = step.eqn.params, step.bodies[0]
    _, num_carry = scan_counts(step.eqn)
    stacked = body.output_facts[num_carry:]
    return [NOTHING] * num_carry + [_stacked(fact, params["length"]) for fact in stacked]


CALLS["scan"] = Call(
    _analyse_scan,
    _run_scan,
    times=lambda step: float(step.eqn.params["length"]),
    facts=_scan_facts,
)


def _analyse_while(table, eqn, inputs, origins, known, reason, analyse_body):
    of_cond, of_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    first = of_cond + of_body
    carry = inputs[first:]
    enter = _steady(origins, first, len(carry))
    cond = analyse_body(
        eqn.params["cond_jaxpr"],
        [*inputs[:of_cond], *carry],
        [*enter[:of_cond], *enter[first:]],
    )
    body = analyse_body(eqn.params["body_jaxpr"], [*inputs[of_cond:first], *carry], enter[of_cond:])
    _tie(table, carry, body.outputs, reason)
    return (cond, body), body.outputs


def _run_while(step, operands, again):
    params, (cond, body) = step.eqn.params, step.bodies
    of_cond, of_body = params["cond_nconsts"], params["body_nconsts"]
    first = of_cond + of_body
    return jax.lax.while_loop(
        lambda carry: again.evaluate(cond, *operands[:of_cond], *carry)[0],
        lambda carry: tuple(again.evaluate(body, *operands[of_cond:first], *carry)),
        tuple(operands[first:]),
    )


CALLS["while"] = Call(_analyse_while, _run_while)


# -- branches -------------------------------------------------------------------------------------


def _analyse_cond(table, eqn, inputs, origins, known, reason, analyse_body):
    branches = [
        analyse_body(branch, inputs[1:], origins[1:], known[1:])
        for branch in eqn.params["branches"]
    ]
    first = branches[0].outputs
    for branch in branches[1:]:
        for left, right in zip(first, branch.outputs, strict=True):
            table.unite_values(left, right, because(reason, "either branch may run"))
    return branches, _removable(first, [branch.outputs for branch in branches])


def _removable(first, outputs):
    """For each axis of the results, that of a branch in which it has channels, if there is one."""
    return [
        tuple(
            next((axes[i][d] for axes in outputs if axes[i][d].any()), axis)
            for d, axis in enumerate(result)
        )
        for i, result in enumerate(first)
    ]


def _run_cond(step, operands, again):
    index, *values = operands
    branches = [
        lambda *arguments, body=body: tuple(again.evaluate(body, *arguments))
        for body in step.bodies
    ]
    return jax.lax.switch(jnp.asarray(index, jnp.int32), branches, *values)


CALLS["cond"] = Call(_analyse_cond, _run_cond, times=lambda step: 1 / len(step.bodies))


# -- one function, called on every device ---------------------------------------------------------


def _names(part):
    """The mesh axes that one axis of an array is divided along."""
    return () if part is None else part if isinstance(part, tuple) else (part,)


def _shares(eqn, specs, variables):
    """For each operand or result, among how many devices each of its axes is divided."""
    sizes = eqn.params["mesh"].shape
    found = []
    for spec, var in zip(specs, variables, strict=True):
        parts = [*spec, *[None] * (len(shape(var)) - len(spec))]
        found.append([math.prod(sizes[name] for name in _names(part)) for part in parts])
    return found


def _analyse_shard_map(table, eqn, inputs, origins, known, reason, analyse_body):
    """Channels pass where no axis of theirs is divided among devices."""
    reason = because(reason, "they are divided among devices")

    def resized(axis, size):
        if size == len(axis):
            return axis
        table.freeze(axis, reason)
        return frozen_axis(table, size, reason)

    shares = _shares(eqn, eqn.params["in_specs"], eqn.invars)
    local = [
        tuple(resized(axis, len(axis) // n) for axis, n in zip(axes, each, strict=True))
        for axes, each in zip(inputs, shares, strict=True)
    ]
    facts = [_part_of(fact, each) for fact, each in zip(known, shares, strict=True)]
    body = analyse_body(eqn.params["jaxpr"], local, origins, facts)
    shares = _shares(eqn, eqn.params["out_specs"], eqn.outvars)
    outputs = [
        tuple(resized(axis, len(axis) * n) for axis, n in zip(axes, each, strict=True))
        for axes, each in zip(body.outputs, shares, strict=True)
    ]
    return (body,), outputs


def _run_shard_map(step, operands, again):
    params, (body,) = step.eqn.params, step.bodies

    def function(masks, *values):
        return tuple(again.given(masks).evaluate(body, *values))

    everywhere = jax.sharding.PartitionSpec()
    return jax.shard_map(
        function,
        mesh=params["mesh"],
        in_specs=(everywhere, *params["in_specs"]),
        out_specs=tuple(params["out_specs"]),
        axis_names=params["newly_manual_axes"],
        check_vma=params["check_vma"],
    )(again.masks, *operands)


def _shards(step):
    """Over how many devices the operands are divided: each computes a part of the result."""
    params = step.eqn.params
    names = {name for spec in params["in_specs"] for part in spec for name in _names(part)}
    return float(math.prod(params["mesh"].shape[name] for name in names))


def _part_of(fact, shares):
    """What is known about one device's part, if all have the same."""

    def part() -> np.ndarray | None:
        value = fact.value()
        if value is None:
            return None
        part = value[tuple(slice(size // n) for size, n in zip(value.shape, shares, strict=True))]
        return part if np.array_equal(np.tile(part, shares), value) else None

    if math.prod(shares) == 1:
        return fact
    return NOTHING if fact.constant is None else Fact(constant=part)


def _all_parts(fact, shares):
    """What is known about the parts of all devices together, of which each has the same."""

    def whole() -> np.ndarray | None:
        value = fact.value()
        return None if value is None else np.tile(value, shares)

    if math.prod(shares) == 1:
        return fact
    return NOTHING if fact.constant is None else Fact(constant=whole)


def _shard_map_facts(step):
    shares = _shares(step.eqn, step.eqn.params["out_specs"], step.eqn.outvars)
    found = step.bodies[0].output_facts
    return [_all_parts(fact, each) for fact, each in zip(found, shares, strict=True)]


CALLS["shard_map"] = Call(_analyse_shard_map, _run_shard_map, times=_shards, facts=_shard_map_facts)
