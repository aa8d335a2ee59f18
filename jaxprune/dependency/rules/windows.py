"""Windows that slide over positions: pooling and its derivatives."""

# ruff: noqa: SIM905 - names of primitives read better as words than as a list of strings

from jaxprune.dependency.atoms import fixed_axis
from jaxprune.dependency.rules.base import Rule, because, shape, unite_all

RULES: dict[str, Rule] = {}


def _relate_window(table, eqn, inputs, reason):
    """Axes with a window of one pass through, the others are frozen."""
    window = eqn.params["window_dimensions"]
    out = []
    for d, size in enumerate(shape(eqn.outvars[0])):
        operands = [axes[d] for axes in inputs if len(axes) > d]
        if window[d] == 1 and all(len(axis) == size for axis in operands):
            out.append(unite_all(table, operands, reason))
            continue
        for axis in operands:
            table.freeze(axis, because(reason, "a window slides over them"))
        out.append(fixed_axis(size))
    return [tuple(out) for _ in eqn.outvars]


for _name in """reduce_window reduce_window_max reduce_window_min reduce_window_sum
    select_and_scatter_add select_and_gather_add""".split():
    RULES[_name] = Rule(_relate_window)
