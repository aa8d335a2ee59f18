"""Convolutions whose derivatives are quick on a CPU.

XLA's CPU backend is slow at the gradients that JAX derives from a convolution, for two reasons
(`experiments/results/convolution_gradients/cpu.md`):

- It has a fast routine for one layout only, `[images, *map, channels]` with kernels
  `[*window, channels, filters]`, and does not bring convolutions inside loops into that layout (JAX
  issue 12868). JAX writes gradients in other layouts. Here the tangents are written in those
  layouts whose transposes come out in the fast one.
- The gradient of a kernel reads all images at once, and slows down as soon as they no longer fit
  in a core's cache. Here it is computed for a few images at a time, in a loop, and summed.

Convolutions in groups of channels are computed group by group, and the kernel's gradient of a
depthwise one position by position. All of this is written in ordinary JAX operations, so `jit`,
`vmap`, forward and reverse mode, derivatives of derivatives, `checkpoint` and `scan` work as they
do for any convolution.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import JaxprEqn

from jaxprune.scoring.lowering.convolutions import as_in, channels_last

CACHE = 2**20
"""Bytes of inputs and results that the gradient of a kernel reads at a time."""


def quicker(eqn: JaxprEqn) -> Callable[..., Array] | None:
    """`convolution` for every convolution of floating-point numbers in one to three dimensions."""
    if eqn.primitive.name != "conv_general_dilated" or eqn.params["batch_group_count"] != 1:
        return None
    aval: Any = eqn.outvars[0].aval
    suits = 3 <= len(aval.shape) <= 5 and aval.size > 0 and jnp.issubdtype(aval.dtype, jnp.floating)
    return convolution if suits else None


def convolution(eqn: JaxprEqn, x: Array, kernel: Array) -> Array:
    """A convolution with quick derivatives.

    Args:
      eqn: a convolution with `batch_group_count` 1.
      x: the input, in the equation's layout.
      kernel: the kernel, in the equation's layout.

    Returns:
      The result, in the equation's layout.
    """
    x, kernel = channels_last(eqn, x, kernel)
    groups = eqn.params["feature_group_count"]
    if groups == 1:
        result = _differentiable(eqn, _tangent_by_images)(x, kernel)
    elif groups == x.shape[-1]:
        result = _differentiable(eqn, _tangent_by_positions)(x, kernel)
    else:
        convolve = _differentiable(eqn, _tangent_by_images)
        parts = [
            jnp.moveaxis(operand.reshape(*operand.shape[:-1], groups, -1), -2, 0)
            for operand in (x, kernel)
        ]
        result = lax.map(lambda part: convolve(*part), tuple(parts))
        result = jnp.moveaxis(result, 0, -2)
        result = result.reshape(*result.shape[:-2], -1)
    return as_in(eqn, result)


Tangent = Callable[[JaxprEqn, Array, Array], Array]
"""The convolution of an equation as a function of its kernel, whose transpose is quick."""


def _convolve(
    eqn: JaxprEqn, x: Array, kernel: Array, layouts: tuple[str, str, str] = ("NSC", "SIO", "NSC")
) -> Array:
    """Convolves as an equation does, but for operands of other layouts.

    Args:
      eqn: a convolution.
      x: the input.
      kernel: the kernel.
      layouts: of the operands and the result, as in `("NHWC", "HWIO", "NHWC")`; S stands for all
        axes of the map.
    """
    of_x, of_kernel, of_result = (layout.replace("S", "DHW"[5 - x.ndim :]) for layout in layouts)
    aval: Any = eqn.outvars[0].aval
    keep = ("window_strides", "padding", "lhs_dilation", "rhs_dilation", "precision")
    return lax.conv_general_dilated(
        x,
        kernel,
        dimension_numbers=(of_x, of_kernel, of_result),
        feature_group_count=x.shape[of_x.index("C")] // kernel.shape[of_kernel.index("I")],
        preferred_element_type=aval.dtype,
        **{name: eqn.params[name] for name in keep},
    )


def _differentiable(eqn: JaxprEqn, tangent: Tangent) -> Callable[[Array, Array], Array]:
    """The convolution of `[images, *map, channels]` with `[*window, channels / groups, filters]`.

    Args:
      eqn: the convolution.
      tangent: what is differentiated in place of it with respect to the kernel.
    """

    @jax.custom_jvp
    def convolve(x: Array, kernel: Array) -> Array:
        return _convolve(eqn, x, kernel)

    def jvp(primals: Any, tangents: Any) -> tuple[Array, Any]:
        (x, kernel), (of_x, of_kernel) = primals, tangents
        parts = []
        if not isinstance(of_x, SymbolicZero):
            swapped = jnp.swapaxes(kernel, -1, -2)
            parts.append(_convolve(eqn, of_x, swapped, ("NSC", "SOI", "NSC")))
        if not isinstance(of_kernel, SymbolicZero):
            parts.append(tangent(eqn, x, of_kernel))
        return convolve(x, kernel), sum(parts[1:], start=parts[0])

    convolve.defjvp(jvp, symbolic_zeros=True)
    return convolve


# -- convolutions without groups ------------------------------------------------------------------


def _tangent_by_images(eqn: JaxprEqn, x: Array, kernel: Array) -> Array:
    """Convolves some images after the other."""
    size, count = _images_at_once(eqn, x, kernel), len(x)

    # Checkpointed, so that x itself is kept for the way back, and not a copy in another layout.
    # Sliced, as XLA would compute images that are reshaped for the loop once more in that shape.
    @functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=1)
    def some(first: Array | int, size: int) -> Array:
        part = lax.dynamic_slice_in_dim(x, first, size)
        return _tangent_of_some(eqn, part, kernel)

    if size >= count:
        return some(0, count)
    whole = count // size * size
    results = lax.map(lambda first: some(first, size), jnp.arange(0, whole, size))
    results = results.reshape(whole, *results.shape[2:])
    return results if whole == count else jnp.concatenate([results, some(whole, count - whole)])


def _tangent_of_some(eqn: JaxprEqn, x: Array, kernel: Array) -> Array:
    """Convolves in layouts of which JAX makes XLA's for the gradient of the kernel."""
    by_channel, of_channel = jnp.swapaxes(x, 0, -1), jnp.moveaxis(kernel, -2, 0)
    return jnp.moveaxis(_convolve(eqn, by_channel, of_channel, ("CSN", "ISO", "SNC")), -2, 0)


def _images_at_once(eqn: JaxprEqn, x: Array, kernel: Array) -> int:
    """How many images keep inputs and results within `CACHE`, or within the kernel's own size.

    Each time the gradient of the whole kernel is written: there should be as much to read. Up to
    half as many where that divides the images into equal parts.
    """
    result = jax.eval_shape(functools.partial(_convolve, eqn), x, kernel)
    of_image = (x.size + math.prod(result.shape)) / len(x) * x.dtype.itemsize
    most = max(1, int(max(CACHE, kernel.size * kernel.dtype.itemsize) / of_image))
    equal = (size for size in range(most, most // 2, -1) if len(x) % size == 0)
    return min(len(x), next(equal, most))


# -- depthwise convolutions -----------------------------------------------------------------------


def _tangent_by_positions(eqn: JaxprEqn, x: Array, kernel: Array) -> Array:
    """Adds up what each position of a depthwise kernel contributes."""
    aval: Any = eqn.outvars[0].aval
    outputs = [aval.shape[axis] for axis in eqn.params["dimension_numbers"].out_spec[2:]]
    strides, dilations = eqn.params["window_strides"], eqn.params["rhs_dilation"]
    around = [
        (before, after, dilation - 1)
        for (before, after), dilation in zip(
            eqn.params["padding"], eqn.params["lhs_dilation"], strict=True
        )
    ]
    x = jnp.repeat(x, kernel.shape[-1] // x.shape[-1], axis=-1)
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *around, (0, 0, 0)])
    parts = []
    for position in itertools.product(*map(range, kernel.shape[:-2])):
        first = [place * dilation for place, dilation in zip(position, dilations, strict=True)]
        read = [
            slice(start, start + (size - 1) * stride + 1, stride)
            for start, size, stride in zip(first, outputs, strides, strict=True)
        ]
        parts.append(x[:, *read] * kernel[*position, 0])
    return functools.reduce(jnp.add, parts).astype(aval.dtype)
