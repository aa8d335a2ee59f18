"""An independent count of what a function costs: its jaxpr, at the shapes that it really has."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import jaxprs_in_params

from zoo.network import Network


def parameters(network: Network, variables: Any) -> int:
    """How many numbers training changes by a gradient."""
    trained = variables["params"] if network.stateful else variables
    return sum(leaf.size for leaf in jax.tree.leaves(trained))


def multiply_adds(function: Callable[..., Any], *arguments: Any) -> int:
    """Multiply-adds of all matrix products and convolutions of one call.

    A scan counts its body as often as it runs, a conditional its most expensive branch.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> int:
    return sum(_count_equation(eqn) for eqn in jaxpr.eqns)


def _count_equation(eqn: Any) -> int:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return eqn.outvars[0].aval.size * math.prod(eqn.invars[0].aval.shape[d] for d in contracted)
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval
        outputs = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        return eqn.outvars[0].aval.size * kernel.size // outputs
    if name == "scan":
        return params["length"] * _count(params["jaxpr"].jaxpr)
    if name == "cond":
        return max(_count(branch.jaxpr) for branch in params["branches"])
    if name == "while":
        raise NotImplementedError("how often a while loop runs is not known")
    return sum(_count(getattr(body, "jaxpr", body)) for body in jaxprs_in_params(params))
