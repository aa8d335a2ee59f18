"""Primitives that leave JAX: prints, checks, and calls of Python."""

from jaxprune.dependency.rules.base import Rule, because, shape, shrink_whole

RULES: dict[str, Rule] = {}


def _relate_observer(table, eqn, inputs, reason):
    """It looks at values and returns none: a smaller network shows it smaller ones."""
    return []


for _name in ("debug_callback", "debug_print", "inspect_sharding", "check"):
    RULES[_name] = Rule(_relate_observer)


def _relate_callback(table, eqn, inputs, reason):
    """Python gets whole arrays, and returns whole ones, of which any position can be left out."""
    for axis in (axis for axes in inputs for axis in axes):
        table.freeze(axis, because(reason, "what Python does with them is not known"))
    return [tuple(table.fresh(size) for size in shape(out)) for out in eqn.outvars]


for _name in ("pure_callback", "io_callback"):
    RULES[_name] = Rule(_relate_callback, shrink=shrink_whole)
