"""Reductions of one operand: sums, products, extrema, running ones, sorting, transforms."""

import jax.numpy as jnp
import numpy as np

from jaxprune.dependency.atoms import fixed_axis
from jaxprune.dependency.dtypes import is_inexact
from jaxprune.dependency.rules.base import Rule, because, frozen_axis, shape, unite_all

RULES: dict[str, Rule] = {}


def _lowest(dtype):
    if is_inexact(dtype):
        return -np.inf if _has_infinity(dtype) else jnp.finfo(dtype).min
    return False if jnp.issubdtype(dtype, jnp.bool_) else jnp.iinfo(dtype).min


def _highest(dtype):
    if is_inexact(dtype):
        return np.inf if _has_infinity(dtype) else jnp.finfo(dtype).max
    return True if jnp.issubdtype(dtype, jnp.bool_) else jnp.iinfo(dtype).max


def _has_infinity(dtype):
    """False for most types of 8 bits or fewer, which make NaN of it, or their largest number."""
    return bool(np.isinf(np.asarray(np.inf).astype(dtype).astype(np.float32)))


def _one(dtype):
    return 1


_NEUTRAL = {
    "sum": None,
    "prod": _one,
    "max": _lowest,
    "min": _highest,
    "and": _highest,
    "or": None,
    "xor": None,
}


def _relate_reduction(table, eqn, inputs, reason):
    kept = [d for d in range(len(inputs[0])) if d not in eqn.params["axes"]]
    return [tuple(inputs[0][d] for d in kept)]


def _summed_reduction(eqn):
    return [((0, axis),) for axis in eqn.params["axes"]]


for _name, _neutral in _NEUTRAL.items():
    RULES[f"reduce_{_name}"] = Rule(_relate_reduction, _summed_reduction, _neutral)


def _relate_index_of_extremum(table, eqn, inputs, reason):
    for d in eqn.params["axes"]:
        table.freeze(inputs[0][d], because(reason, "it counts positions"))
    return _relate_reduction(table, eqn, inputs, reason)


for _name in ("argmax", "argmin"):
    RULES[_name] = Rule(_relate_index_of_extremum)


def _relate_running_sum(table, eqn, inputs, reason):
    return [inputs[0]]


RULES["cumsum"] = Rule(_relate_running_sum, lambda eqn: [((0, eqn.params["axis"]),)])


def _relate_running(table, eqn, inputs, reason):
    table.freeze(inputs[0][eqn.params["axis"]], because(reason, "a running reduction"))
    return [inputs[0]]


for _name in ("cumprod", "cummax", "cummin", "cumlogsumexp"):
    RULES[_name] = Rule(_relate_running)


def _relate_sort(table, eqn, inputs, reason):
    d = eqn.params["dimension"]
    for axes in inputs:
        table.freeze(axes[d], because(reason, "it orders positions"))
    joint = [unite_all(table, list(axes), reason) for axes in zip(*inputs, strict=True)]
    return [tuple(joint) for _ in eqn.outvars]


def _relate_top_k(table, eqn, inputs, reason):
    *rest, last = inputs[0]
    table.freeze(last, because(reason, "it orders positions"))
    return [(*rest, fixed_axis(shape(out)[-1])) for out in eqn.outvars]


def _relate_fft(table, eqn, inputs, reason):
    """The transformed axes, the last ones, stay; a real transform changes the size of the last."""
    (axes,) = inputs
    others = len(axes) - len(eqn.params["fft_lengths"])
    reason = because(reason, "it mixes positions")
    for axis in axes[others:]:
        table.freeze(axis, reason)
    transformed = [frozen_axis(table, n, reason) for n in shape(eqn.outvars[0])[others:]]
    return [(*axes[:others], *transformed)]


RULES["fft"] = Rule(_relate_fft)
RULES["sort"] = Rule(_relate_sort)
RULES["top_k"] = Rule(_relate_top_k)
