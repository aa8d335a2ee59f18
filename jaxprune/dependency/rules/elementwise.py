"""Elementwise primitives: they unite the positions of their operands one by one."""

# ruff: noqa: SIM905 - names of primitives read better as words than as a list of strings

from jaxprune.dependency.rules.base import Rule, shape, unite_all

RULES: dict[str, Rule] = {}


def _relate_elementwise(table, eqn, inputs, reason):
    """Axes of the same size are united; scalars and axes of size one broadcast."""
    outputs = []
    for out in eqn.outvars:
        axes = []
        for d, size in enumerate(shape(out)):
            operands = [axes_[d] for axes_ in inputs if len(axes_) > d and len(axes_[d]) == size]
            axes.append(unite_all(table, operands, reason) if operands else table.fresh(size))
        outputs.append(tuple(axes))
    return outputs


def _relate_each(table, eqn, inputs, reason):
    """Output i is input i: `device_put`, `optimization_barrier`."""
    return [tuple(axes) for axes in inputs]


for _name in """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
    bitcast_convert_type cbrt ceil clamp clz complex conj convert_element_type copy copy_p cos cosh
    digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igammac imag integer_pow
    is_finite le le_to lgamma log log1p log2 logistic lt lt_to max min mul name ne neg nextafter not
    one_minus_square or polygamma population_count pow real reduce_precision rem round rsqrt
    select_n sharding_constraint shift_left shift_right_arithmetic shift_right_logical sign sin sinh
    sqrt square stop_gradient sub tan tanh xor zeta
""".split():
    RULES[_name] = Rule(_relate_elementwise)
for _name in ("device_put", "optimization_barrier"):
    RULES[_name] = Rule(_relate_each)
