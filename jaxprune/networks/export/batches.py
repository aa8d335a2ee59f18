"""The equations of a function for any batch size, inferred from its traces at three sizes.

A compact network is specialised to concrete shapes and cannot be traced with a symbolic batch size.
But its equations are the same at every size; only the shapes in their parameters grow with the
batch. Numbers that differ between two sizes are read as `slope * batch + offset`, which the third
size must confirm.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Literal

from jaxprune.errors import UserError
from jaxprune.networks.export.examples import Inputs

_SIZES = (2, 3, 5)
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"} | {
    "custom_jvp_call",
    "custom_vjp_call",
}
"""Primitives that only call a function; its equations take their place."""


Rewrites = Mapping[str, Callable[..., Any]]
"""{primitive: `rewrite(*operands, **parameters)`}, which returns its result, or None to decline."""


def for_any_batch(
    function: Callable[..., Any], inputs: Inputs, rewrites: Rewrites | None = None
) -> Callable[..., list[Any]]:
    """A function whose batch size may be symbolic when it is traced.

    Values that do not depend on the input are computed once, when it is traced.

    Args:
        function: `function(*inputs)` of a batch. It is traced at three batch sizes.
        inputs: Any batch; only shapes and types matter.
        rewrites: Replacements for some primitives.

    Returns:
        A function of the leaves of the inputs, whose batch size may be symbolic, that returns the
        leaves of what `function` returns. Calls are inlined and custom derivatives dropped.

    Raises:
        UserError: An equation, which is named, depends on the batch size other than by shapes that
            grow linearly with it. (The returned function raises it.)
    """
    jaxprs = [jax.make_jaxpr(function)(*inputs.of_size(size)) for size in _SIZES]

    def evaluate(*leaves: Any) -> list[Any]:
        sizes = (x.shape[0] for x, each in zip(leaves, inputs.batched, strict=True) if each)
        return _evaluate(jaxprs, leaves, next(sizes, 1), rewrites or {})

    return evaluate


def _evaluate(
    jaxprs: Sequence[Any], arguments: Sequence[Any], batch: Any, rewrites: Rewrites
) -> list[Any]:
    """Evaluates a closed jaxpr that was traced at each of `_SIZES`."""
    model = jaxprs[0].jaxpr
    values: dict[Any, Any] = dict(zip(model.invars, arguments, strict=True))
    values.update(zip(model.constvars, jaxprs[0].consts, strict=True))

    def value(variables: Sequence[Any]) -> Any:
        if not isinstance(variables[0], Literal):
            return values[variables[0]]
        return _same([variable.val for variable in variables])

    if len({len(each.jaxpr.eqns) for each in jaxprs}) > 1:
        raise UserError("the network computes something else at another batch size")
    for eqns in zip(*(each.jaxpr.eqns for each in jaxprs), strict=True):
        name = eqns[0].primitive.name
        try:
            operands = [value(each) for each in zip(*(e.invars for e in eqns), strict=True)]
            body = next((key for key in _BODIES if key in eqns[0].params), None)
            if name in _CALLS and body:
                inner = [_closed(eqn.params[body]) for eqn in eqns]
                results = _evaluate(inner, operands, batch, rewrites)
            else:
                results = _bind(eqns, operands, batch, rewrites)
        except _UnlikeError as error:
            raise UserError(
                f"the primitive '{name}' depends on the batch size in a way that cannot be written "
                f"for any size ({error}); rewrite that part of the network"
            ) from None
        values.update(zip(eqns[0].outvars, results, strict=True))
    return [value(each) for each in zip(*(each.jaxpr.outvars for each in jaxprs), strict=True)]


def _bind(
    eqns: Sequence[Any], operands: Sequence[Any], batch: Any, rewrites: Rewrites
) -> list[Any]:
    first = eqns[0]
    params = {key: _at([eqn.params[key] for eqn in eqns], batch) for key in first.params}
    known = not any(isinstance(operand, jax.core.Tracer) for operand in operands)
    fixed = all(params[key] is first.params[key] for key in params)

    with jax.ensure_compile_time_eval() if known and fixed else nullcontext():
        rewrite = rewrites.get(first.primitive.name)
        result = rewrite(*operands, **params) if rewrite else None
        if result is None:
            params = first.primitive.get_bind_params(params)
            result = first.primitive.bind(*operands, **params)
    return list(result) if first.primitive.multiple_results else [result]


def _at(values: Sequence[Any], batch: Any) -> Any:
    """A parameter at a batch size, from its values at each of `_SIZES`."""
    first = values[0]
    if _equal(values):
        return first
    if all(isinstance(value, int) for value in values):
        (a, b, c), (x, y, z) = values, _SIZES
        slope = (b - a) // (y - x)
        if a + slope * (y - x) == b and a + slope * (z - x) == c:
            return slope * batch + (a - slope * x)
    if isinstance(first, tuple) and len({len(value) for value in values}) == 1:
        return _like(first, (_at(parts, batch) for parts in zip(*values, strict=True)))
    if hasattr(first, "eqns"):
        raise _UnlikeError("in a function that it runs several times or in one of several cases")
    raise _UnlikeError(" or ".join(f"{value!s:.40}" for value in values))


def _like(model: tuple, parts: Iterable[Any]) -> tuple:
    return type(model)(*parts) if hasattr(model, "_fields") else tuple(parts)


def _equal(values: Sequence[Any]) -> bool:
    first = values[0]
    if hasattr(first, "eqns"):  # equal functions are different objects at each trace
        return len({str(value) for value in values}) == 1
    if callable(first):
        return True
    return all(value is first or value == first or value != value for value in values)  # or NaN


def _same(values: Sequence[Any]) -> Any:
    if not _equal(values):
        raise _UnlikeError(" or ".join(map(str, values)))
    return values[0]


def _closed(jaxpr: Any) -> Any:
    """A jaxpr with its constants: some primitives carry one without."""
    return jaxpr if hasattr(jaxpr, "consts") else ClosedJaxpr(jaxpr, ())


class _UnlikeError(Exception):
    """Values at different batch sizes that no one expression gives."""
