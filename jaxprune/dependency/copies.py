"""A copy for each use of what is made of nothing.

Zeros that start two states of a loop, or one captured constant that is added in two places, say
nothing about which channels go together. Seen as one value they would tie both places to each
other, so each use gets a value of its own before a program is analysed. A compiler merges them.
"""

from collections.abc import Sequence
from typing import Any

from jax.extend.core import JaxprEqn, Literal, Var

from jaxprune.dependency.rules import elementwise
from jaxprune.dependency.rules.base import shape

_MOVES = {"reshape", "transpose", "squeeze", "expand_dims", "rev", "slice", "pad", "concatenate"}
_CHEAP = set(elementwise.RULES) | _MOVES


def with_copies(jaxpr: Any, consts: Sequence[Any]) -> tuple[Any, tuple[Any, ...]]:
    """An equivalent jaxpr in which no two equations use the same value made of nothing.

    These are broadcasts to new positions, what is computed position by position from broadcast
    scalars alone, and captured constants.

    Args:
      jaxpr: a jaxpr without constants.
      consts: the values of its captured constants.

    Returns:
      The jaxpr and the values of its constants, some of them several times.
    """
    made: dict[Any, JaxprEqn] = {}
    from_scalars: set[Any] = set()
    used: set[Any] = set()
    eqns: list[JaxprEqn] = []
    constvars, values = list(jaxpr.constvars), list(consts)
    value_of = dict(zip(constvars, values, strict=True))

    def own(var: Any) -> Any:
        """The variable for another use."""
        if isinstance(var, Literal) or not (var in made or var in value_of) or not shape(var):
            return var
        if var not in used:
            used.add(var)
            return var
        copy = Var(var.aval)
        if var in value_of:
            constvars.append(copy)
            values.append(value_of[var])
        else:
            operands = [own(v) for v in made[var].invars]
            eqns.append(made[var].replace(invars=operands, outvars=[copy]))
        return copy

    for eqn in jaxpr.eqns:
        operands = [own(v) for v in eqn.invars]
        eqns.append(eqn.replace(invars=operands) if operands != eqn.invars else eqn)
        broadcasts, name = _makes_positions(eqn), eqn.primitive.name
        if name in _CHEAP or broadcasts:
            scalars = all(
                not shape(v) or (not isinstance(v, Literal) and v in from_scalars)
                for v in eqn.invars
            )
            if scalars:
                from_scalars.update(eqn.outvars)
            if scalars or broadcasts:
                made[eqn.outvars[0]] = eqn
    outvars = [own(v) for v in jaxpr.outvars]
    if len(eqns) == len(jaxpr.eqns) and len(values) == len(consts):
        return jaxpr, tuple(consts)
    return jaxpr.replace(eqns=eqns, constvars=constvars, outvars=outvars), tuple(values)


def _makes_positions(eqn: JaxprEqn) -> bool:
    if eqn.primitive.name != "broadcast_in_dim":
        return False
    places = zip(eqn.params["broadcast_dimensions"], shape(eqn.invars[0]), strict=False)
    before = {int(d): size for d, size in places}
    return any(before.get(d, 1) != size for d, size in enumerate(shape(eqn.outvars[0])))
