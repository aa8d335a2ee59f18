"""Matrix products and convolutions: sums over axes that two operands share."""

from jaxprune.dependency.atoms import fixed_axis
from jaxprune.dependency.joints import split
from jaxprune.dependency.rules.base import Rule, because, bind, shape, unite_all

RULES: dict[str, Rule] = {}


def _relate_dot_general(table, eqn, inputs, reason):
    (contract_l, contract_r), (batch_l, batch_r) = eqn.params["dimension_numbers"]
    left, right = inputs
    for a, b in zip(contract_l, contract_r, strict=True):
        table.unite(left[a], right[b], reason)
    batch = [
        unite_all(table, [left[a], right[b]], reason) for a, b in zip(batch_l, batch_r, strict=True)
    ]
    free_l = [left[d] for d in range(len(left)) if d not in (*contract_l, *batch_l)]
    free_r = [right[d] for d in range(len(right)) if d not in (*contract_r, *batch_r)]
    return [(*batch, *free_l, *free_r)]


def _summed_dot_general(eqn):
    (contract_l, contract_r), _ = eqn.params["dimension_numbers"]
    return [((0, a), (1, b)) for a, b in zip(contract_l, contract_r, strict=True)]


RULES["dot_general"] = Rule(_relate_dot_general, _summed_dot_general)


def _relate_ragged_dot(table, eqn, inputs, reason):
    """A product with another kernel for each run of rows, as in mixtures of experts.

    Rows and kernels stay, since which row meets which kernel depends on data. Where the rows are
    what is summed over, as in the derivative with respect to the kernels, the result has a matrix
    for each run.
    """
    left, right, *lengths = inputs
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (contract_l, contract_r), (batch_l, batch_r) = numbers.dot_dimension_numbers
    rows = set(numbers.lhs_ragged_dimensions)
    if len(shape(eqn.invars[2])) > 1:  # each matrix of a batch has runs of its own
        rows |= set(range(len(left))) - set(contract_l)
    for axis in (axis for axes in lengths for axis in axes):
        table.freeze(axis, because(reason, "they are lengths of runs"))
    for axis in [
        *(left[d] for d in rows),
        *(right[d] for d in numbers.rhs_group_dimensions),
    ]:
        table.freeze(axis, because(reason, "which kernel a row meets depends on data"))
    for a, b in zip((*contract_l, *batch_l), (*contract_r, *batch_r), strict=True):
        table.unite(left[a], right[b], reason)
    free_l = [left[d] for d in range(len(left)) if d not in (*contract_l, *batch_l)]
    away = (*contract_r, *batch_r, *numbers.rhs_group_dimensions)
    free_r = [right[d] for d in range(len(right)) if d not in away]
    out = [*(left[d] for d in batch_l), *free_l, *free_r]
    size = shape(eqn.outvars[0])
    return [(*map(fixed_axis, size[: len(size) - len(out)]), *out)]


def _summed_ragged_dot(eqn):
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (contract_l, contract_r), _ = numbers.dot_dimension_numbers
    return [((0, a), (1, b)) for a, b in zip(contract_l, contract_r, strict=True)]


RULES["ragged_dot_general"] = Rule(_relate_ragged_dot, _summed_ragged_dot)


def _relate_convolution(table, eqn, inputs, reason):
    """Feature or batch groups split channels into two axes: the group, and the index within it.

    With feature groups, output (g, o) sums over inputs (g, i); a depthwise convolution has one
    input per group. With batch groups, which the derivative of the former has, output (n, (g, o))
    comes from examples (g, n).
    """
    image, kernel = inputs
    spec = eqn.params["dimension_numbers"]
    for d in spec.lhs_spec[2:]:
        table.freeze(image[d], because(reason, "a window slides over them"))
    for d in spec.rhs_spec[2:]:
        table.freeze(kernel[d], because(reason, "they are positions of a kernel's window"))
    batch, channels_in = image[spec.lhs_spec[0]], image[spec.lhs_spec[1]]
    channels_out = kernel[spec.rhs_spec[0]]
    feature_groups, batch_groups = (
        eqn.params["feature_group_count"],
        eqn.params["batch_group_count"],
    )
    if feature_groups > 1:
        group_in, channels_in = _in_groups(table, channels_in, feature_groups, reason)
        group_out, _ = _in_groups(table, channels_out, feature_groups, reason)
        table.unite(group_in, group_out, reason)
    if batch_groups > 1:
        group_in, batch = _in_groups(table, batch, batch_groups, reason)
        group_out, _ = _in_groups(table, channels_out, batch_groups, reason)
        table.unite(group_in, group_out, reason)
    table.unite(channels_in, kernel[spec.rhs_spec[1]], reason)
    out = [fixed_axis(size) for size in shape(eqn.outvars[0])]
    out[spec.out_spec[0]] = batch
    out[spec.out_spec[1]] = channels_out
    return [tuple(out)]


def _in_groups(table, axis, groups, reason):
    return split(table, axis, (groups, len(axis) // groups), reason)


def _summed_convolution(eqn):
    spec = eqn.params["dimension_numbers"]
    image, kernel = (0, spec.lhs_spec[1]), (1, spec.rhs_spec[1])
    if eqn.params["feature_group_count"] == 1:
        return [(image, kernel)]
    depthwise = shape(eqn.invars[1])[kernel[1]] == 1
    return [] if depthwise else [(image,)]


def _shrink_convolution(eqn, values, kept_inputs, kept_outputs):
    spec = eqn.params["dimension_numbers"]
    image, kernel = values
    examples = int(kept_outputs[0][spec.out_spec[0]].sum())
    return bind(
        eqn,
        values,
        feature_group_count=image.shape[spec.lhs_spec[1]] // kernel.shape[spec.rhs_spec[1]],
        batch_group_count=image.shape[spec.lhs_spec[0]] // examples,
    )


RULES["conv_general_dilated"] = Rule(
    _relate_convolution, _summed_convolution, shrink=_shrink_convolution
)
