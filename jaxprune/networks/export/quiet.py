"""A function without its prints and checks, which a saved program cannot hold."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import JaxprEqn, jaxpr_as_fun

from jaxprune.dependency.source import source_line
from jaxprune.errors import UserError

_OBSERVERS = {"debug_callback", "debug_print", "inspect_sharding", "check"}
_PYTHON = {"pure_callback", "io_callback"}


def quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function without `jax.debug` prints and callbacks, `checkify.check` and Equinox's errors.

    Raises:
        UserError: It calls Python for a value. (The returned function raises it.)
    """

    def without(*arguments: Any) -> Any:
        leaves = jax.tree.leaves(arguments)
        tree: Any = jax.tree.structure(arguments)

        def flat(*values: Any) -> Any:
            return function(*tree.unflatten(values))

        jaxpr, shapes = jax.make_jaxpr(flat, return_shape=True)(*leaves)
        silent = jaxpr.replace(jaxpr=_silent(jaxpr.jaxpr))
        for eqn in _equations(silent.jaxpr):
            if eqn.primitive.name in _PYTHON:
                raise UserError(
                    f"the network calls Python ('{eqn.primitive.name}' at "
                    f"{source_line(eqn.source_info, 'an unknown line')}), which a file cannot "
                    "hold; save a network without that call"
                )
        if not jaxpr.effects and silent.jaxpr is jaxpr.jaxpr:
            return function(*arguments)
        return jax.tree.unflatten(jax.tree.structure(shapes), jaxpr_as_fun(silent)(*leaves))

    return without


def _silent(jaxpr: Any) -> Any:
    """A jaxpr without prints and checks; the same one if it has none."""
    eqns = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _OBSERVERS:
            continue
        params = {name: _silent_parameter(value) for name, value in eqn.params.items()}
        if eqn.primitive.name == "cond":
            params["branches"] = _without_errors(params["branches"])
        if any(params[name] is not eqn.params[name] for name in params):
            inside = [body.effects for value in params.values() for body in _bodies(value)]
            effects = eqn.effects & frozenset().union(*inside)
            eqn = eqn.replace(params=params, effects=effects)
        eqns.append(eqn)
    if len(eqns) == len(jaxpr.eqns) and all(a is b for a, b in zip(eqns, jaxpr.eqns, strict=True)):
        return jaxpr
    effects = jaxpr.effects & frozenset().union(*(eqn.effects for eqn in eqns))
    return jaxpr.replace(eqns=eqns, effects=effects)


def _silent_parameter(value: Any) -> Any:
    if isinstance(value, tuple | list):
        parts = [_silent_parameter(part) for part in value]
        same = all(a is b for a, b in zip(parts, value, strict=True))
        return value if same or hasattr(value, "_fields") else type(value)(parts)
    if hasattr(value, "jaxpr") and hasattr(value, "consts"):
        silent = _silent(value.jaxpr)
        return value if silent is value.jaxpr else value.replace(jaxpr=silent)
    return _silent(value) if hasattr(value, "eqns") else value


def _without_errors(branches: Any) -> Any:
    """The branches of a condition, with the good one in place of those that raise an error.

    `equinox.error_if` has the error raised by a callback in one of two branches.
    """
    raising = [any(map(_raises, _equations(branch.jaxpr))) for branch in branches]
    if not any(raising) or all(raising):
        return branches
    good = branches[raising.index(False)]
    return tuple(good if bad else branch for branch, bad in zip(branches, raising, strict=True))


def _raises(eqn: JaxprEqn) -> bool:
    called = getattr(eqn.params.get("callback"), "callback_func", None)
    return getattr(called, "__module__", None) == "equinox._errors"


def _bodies(value: Any) -> Iterator[Any]:
    """The jaxprs in an equation's parameter."""
    if isinstance(value, tuple | list):
        for part in value:
            yield from _bodies(part)
    elif hasattr(value, "eqns"):
        yield value.jaxpr if hasattr(value, "consts") else value


def _equations(jaxpr: Any) -> Iterator[JaxprEqn]:
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for body in _bodies(value):
                yield from _equations(body)
