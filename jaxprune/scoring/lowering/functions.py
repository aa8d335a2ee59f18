"""Functions whose slow operations are replaced, wherever in them they are."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from jaxprune.dependency.calls import scan_counts
from jaxprune.errors import UserError
from jaxprune.scoring.lowering import convolutions, gradients, pooling

SWITCH = "JAXPRUNE_LOWERING"
"""The environment variable that is "off" where nothing is to be replaced."""

Choice = Callable[[JaxprEqn], Callable[..., Any] | None]
"""What computes an equation's only result faster, called with the equation and its operands."""


def lower(
    fn: Callable[..., Any], *, differentiated: bool = False, backend: str | None = None
) -> Callable[..., Any]:
    """A function that computes the same, without the operations that the device is slow at.

    Convolutions of small maps, and those with kernels of one position, become matrix products,
    max-pooling becomes comparisons of slices. If asked for, other convolutions get quick
    derivatives.
    Results differ from `fn` in the order of float sums alone. Works under `jit`, `vmap`, `grad`
    and the like, and enters functions that `fn` calls through `jit`, `scan` and `checkpoint`;
    what is inside other calls, such as custom derivatives, stays as it is.

    Args:
      fn: a function of pytrees of arrays.
      differentiated: whether its derivatives should be fast, too.
      backend: what to make it fast on, such as "cpu"; by default where JAX computes.

    Returns:
      The function; `fn` itself on other backends than "cpu", and where the environment says
      JAXPRUNE_LOWERING=off.

    Raises:
      UserError: as `switched_on`.
    """
    choose = _quicker_derivatives if differentiated else _quicker
    return _replaced(fn, choose) if _slow(backend) else fn


def lower_known(fn: Callable[..., Any], *, backend: str | None = None) -> Callable[..., Any]:
    """A function whose convolutions of small maps are products with unrolled kernels.

    As `lower`, but nothing else is replaced, and kernels are unrolled however large they become.
    For a function that is cut into stages, which unroll a kernel once.
    """
    return _replaced(fn, convolutions.quicker_by_known) if _slow(backend) else fn


def switched_on() -> bool:
    """Whether operations are to be replaced, as the environment says.

    Raises:
      UserError: JAXPRUNE_LOWERING is something else than on or off.
    """
    wanted = os.environ.get(SWITCH, "on")
    if wanted not in ("on", "off"):
        raise UserError(f"{SWITCH}={wanted}: it can be on or off")
    return wanted == "on"


def _slow(backend: str | None) -> bool:
    return switched_on() and (backend or jax.default_backend()) == "cpu"


def _quicker(eqn: JaxprEqn) -> Callable[..., Any] | None:
    return convolutions.quicker(eqn) or pooling.quicker(eqn)


def _quicker_derivatives(eqn: JaxprEqn) -> Callable[..., Any] | None:
    return _quicker(eqn) or gradients.quicker(eqn)


def _replaced(fn: Callable[..., Any], choose: Choice) -> Callable[..., Any]:
    def lowered(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
        results = _evaluate(choose, closed, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return lowered


def _evaluate(choose: Choice, closed: ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
    """A jaxpr's results, slow operations replaced."""
    jaxpr = closed.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *args], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for eqn in jaxpr.eqns:
        results = _run(choose, eqn, [read(atom) for atom in eqn.invars])
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _run(choose: Choice, eqn: JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    quicker = choose(eqn)
    if quicker is not None:
        return [quicker(eqn, *operands)]
    run = _CALLS.get(eqn.primitive.name)
    if run is not None and any(_has_slow(choose, function) for function in _functions(eqn)):
        return run(choose, eqn, operands)
    results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return results if eqn.primitive.multiple_results else [results]


# -- functions that are called --------------------------------------------------------------------


def _inlined(choose: Choice, eqn: JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    return _evaluate(choose, eqn.params["jaxpr"], operands)


def _rematerialised(choose: Choice, eqn: JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    body = ClosedJaxpr(eqn.params["jaxpr"], ())
    again = jax.checkpoint(
        lambda *args: _evaluate(choose, body, args),
        prevent_cse=eqn.params["prevent_cse"],
        policy=eqn.params["policy"],
    )
    return again(*operands)


def _scanned(choose: Choice, eqn: JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    params = eqn.params
    constants, carried = scan_counts(eqn)
    known, carry = operands[:constants], operands[constants : constants + carried]

    def body(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        results = _evaluate(choose, params["jaxpr"], [*known, *carry, *x])
        return results[:carried], results[carried:]

    carry, stacked = lax.scan(
        body,
        carry,
        operands[constants + carried :],
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*carry, *stacked]


_CALLS: dict[str, Callable[[Choice, JaxprEqn, list[Any]], Sequence[Any]]] = {
    "jit": _inlined,
    "remat2": _rematerialised,
    "scan": _scanned,
}


def _functions(eqn: JaxprEqn) -> list[Jaxpr]:
    function = eqn.params["jaxpr"]
    return [function.jaxpr if isinstance(function, ClosedJaxpr) else function]


def _has_slow(choose: Choice, jaxpr: Jaxpr) -> bool:
    return any(
        choose(eqn) is not None
        or (
            eqn.primitive.name in _CALLS
            and any(_has_slow(choose, function) for function in _functions(eqn))
        )
        for eqn in jaxpr.eqns
    )
