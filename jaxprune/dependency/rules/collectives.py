"""Primitives by which devices exchange values inside `shard_map`.

Axes that are divided among devices are frozen where a function is mapped over them (`calls`), so
that all devices hold the same channels, and what they exchange can be smaller on all of them.
"""

from jaxprune.dependency.rules.base import Rule, because, frozen_axis, shape

RULES: dict[str, Rule] = {}


def _relate_reduction(table, eqn, inputs, reason):
    """Over named axes it keeps the shape; `vmap` has turned some into axes of each operand."""
    positional = {axis for axis in eqn.params["axes"] if isinstance(axis, int)}
    out = []
    for axes in inputs:
        for d in positional:
            table.freeze(axes[d], because(reason, "it runs across examples"))
        out.append(tuple(axis for d, axis in enumerate(axes) if d not in positional))
    return out


for _name in ("psum", "psum_invariant", "pmax", "pmin"):
    RULES[_name] = Rule(_relate_reduction)


def _relate_same(table, eqn, inputs, reason):
    return [tuple(axes) for axes in inputs]


UNCHANGED = ("pvary", "pbroadcast", "pcast", "reshard")
"""They say how a value lies on the devices, and leave it as it is."""

for _name in (*UNCHANGED, "ppermute"):
    RULES[_name] = Rule(_relate_same)


def _relate_number(table, eqn, inputs, reason):
    return [()]


RULES["axis_index"] = Rule(_relate_number)


def _relate_exchange(table, eqn, inputs, reason):
    """The axes that change their size, or are new, stay; the others pass through."""
    (axes,) = inputs
    sizes = shape(eqn.outvars[0])
    changed = {
        eqn.params[name]
        for name in ("all_gather_dimension", "scatter_dimension", "split_axis", "concat_axis")
        if name in eqn.params
    }
    reason = because(reason, "they are divided among devices")
    if not eqn.params.get("tiled", True):  # an axis appears, disappears, or moves
        for axis in axes:
            table.freeze(axis, reason)
        return [tuple(frozen_axis(table, size, reason) for size in sizes)]
    for d in changed:
        table.freeze(axes[d], reason)
    return [
        tuple(
            frozen_axis(table, size, reason) if d in changed else axis
            for d, (axis, size) in enumerate(zip(axes, sizes, strict=True))
        )
    ]


for _name in ("all_gather", "all_gather_invariant", "reduce_scatter", "all_to_all"):
    RULES[_name] = Rule(_relate_exchange)
