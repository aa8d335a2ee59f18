"""Descriptions of the layers: channels, window, output map, and cost."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from jaxprune.dependency.atoms import Axis
from jaxprune.dependency.dtypes import is_inexact
from jaxprune.dependency.groups import Layer
from jaxprune.dependency.program import CONSTANT, Program, Step
from jaxprune.dependency.rules.base import shape

MULTIPLICATIONS = ("dot_general", "ragged_dot_general", "conv_general_dilated")
"""The primitives that multiply and add."""


def describe_layers(
    program: Program,
    names: Sequence[str],
    num_params: Sequence[int],
    batch: int,
    group_of: Callable[[Sequence[Axis]], int | None],
) -> tuple[Layer, ...]:
    """Describes the layers of an analysed program in the order in which it computes them.

    Args:
      program: the analysed function.
      names: for each parameter leaf the path of its layer.
      num_params: for each parameter leaf how many parameters it counts for.
      batch: how many examples the inputs hold.
      group_of: finds the group that positions of the given axes belong to, or None.

    Returns:
      A layer for every parameter that is the kernel of a convolution or of a matrix product.
    """
    found: dict[int, Layer] = {}
    macs: dict[int, float] = {}
    for step, times in program.walk():
        operand = _kernel_operand(step)
        if operand is None:
            continue
        leaf = step.origins[operand]
        assert leaf is not None
        if leaf not in found:
            name, eqn = names[leaf], step.eqn
            convolution = step.name == "conv_general_dilated"
            found[leaf] = Layer(
                path=name,
                group=group_of(_outputs(step, operand)),
                **(_convolution(eqn) if convolution else _matrix_product(eqn, operand, batch)),
                macs=0,
                params=sum(n for n, other in zip(num_params, names, strict=True) if other == name),
            )
        axes = multiplied_axes(step)
        macs[leaf] = macs.get(leaf, 0.0) + times / batch * math.prod(map(len, axes))
    return tuple(layer._replace(macs=round(macs[leaf])) for leaf, layer in found.items())


def multiplied_integers(program: Program) -> set[int]:
    """The parameter leaves of integers that layers calculate with: kernels and embeddings.

    That is a matrix at least, which is multiplied, turned into real numbers, or looked up by data.
    Other integers count steps, or are indices.
    """
    found: set[int] = set()
    for step, _ in program.walk():
        for origin, var in zip(step.origins, step.eqn.invars, strict=True):
            if origin is None or origin == CONSTANT or len(shape(var)) < 2:
                continue
            dtype: Any = getattr(var.aval, "dtype", None)
            if jnp.issubdtype(dtype, jnp.integer) and _calculates_with(step, var):
                found.add(origin)
    return found


def _calculates_with(step: Step, operand: Any) -> bool:
    """Whether a step takes an operand for numbers, not for indices."""
    if step.name == "gather":
        return operand is step.eqn.invars[0] and not step.from_params[1]
    real = step.name == "convert_element_type" and is_inexact(step.eqn.params["new_dtype"])
    return real or step.name in MULTIPLICATIONS


def multiplied_axes(step: Step) -> list[Axis]:
    """The axes whose sizes multiply to the multiply-adds of a step."""
    kernel = step.inputs[1]
    if step.name == "conv_general_dilated":
        spec = step.eqn.params["dimension_numbers"]
        return [*step.outputs[0], *(kernel[d] for d in spec.rhs_spec[1:])]
    (_, contracted), _ = _product_numbers(step.eqn)
    return [*step.outputs[0], *(kernel[d] for d in contracted)]


def _product_numbers(eqn: JaxprEqn) -> Any:
    """The contracted axes and the batch axes of a matrix product's operands."""
    ragged = eqn.params.get("ragged_dot_dimension_numbers")
    return eqn.params["dimension_numbers"] if ragged is None else ragged.dot_dimension_numbers


def _kernel_operand(step: Step) -> int | None:
    """Which operand of a multiplication with data is made from a parameter, if one is."""
    if step.name not in MULTIPLICATIONS or all(step.from_params):
        return None
    places = (1,) if step.name == "conv_general_dilated" else (0, 1)
    for place in places:
        origin = step.origins[place]
        if origin is not None and origin >= 0:
            return place
    return None


def _outputs(step: Step, operand: int) -> list[Axis]:
    """The axes of a kernel that its outputs are counted along."""
    kernel = step.inputs[operand]
    if step.name == "conv_general_dilated":
        return [kernel[step.eqn.params["dimension_numbers"].rhs_spec[0]]]
    contracted = _product_numbers(step.eqn)[0][operand]
    return [axis for d, axis in enumerate(kernel) if d not in contracted]


def _convolution(eqn: JaxprEqn) -> dict[str, Any]:
    spec = eqn.params["dimension_numbers"]
    image, kernel = map(shape, eqn.invars)
    return {
        "inputs": image[spec.lhs_spec[1]],
        "outputs": kernel[spec.rhs_spec[0]],
        "kernel": tuple(kernel[d] for d in spec.rhs_spec[2:]),
        "stride": tuple(eqn.params["window_strides"]),
        "padding": tuple((low, high) for low, high in eqn.params["padding"]),
        "spatial": tuple(shape(eqn.outvars[0])[d] for d in spec.out_spec[2:]),
    }


def _matrix_product(eqn: JaxprEqn, operand: int, batch: int) -> dict[str, Any]:
    contracted, batched = _product_numbers(eqn)
    kernel, data = shape(eqn.invars[operand]), shape(eqn.invars[1 - operand])
    away = {*contracted[1 - operand], *batched[1 - operand]}
    return {
        "inputs": math.prod(kernel[d] for d in (*contracted[operand], *batched[operand])),
        "outputs": math.prod(n for d, n in enumerate(kernel) if d not in contracted[operand]),
        "kernel": (1,),
        "stride": (1,),
        "padding": ((0, 0),),
        "spatial": _of_one_example([n for d, n in enumerate(data) if d not in away], batch),
    }


def _of_one_example(extents: list[int], batch: int) -> tuple[int, ...]:
    """The sizes without the axis of examples, which is divided out where it was merged."""
    if batch in extents:
        extents.remove(batch)  # the first of this size
    elif math.prod(extents) % batch == 0:
        extents = [math.prod(extents) // batch]
    return tuple(extents) or (1,)
