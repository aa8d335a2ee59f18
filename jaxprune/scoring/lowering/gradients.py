"""Convolutions that are quick to train on a CPU.

XLA's CPU backend is slow at a convolution and at the gradients that JAX derives
from it, for three reasons (`experiments/results/convolution_gradients/cpu.md`):

- It has a fast routine for one layout only, `[images, *map, channels]` with kernels
  `[*window, channels, filters]`, and does not bring convolutions inside loops into that layout (JAX
  issue 12868). JAX writes gradients in other layouts. Here the tangents are written in those
  layouts whose transposes come out in the fast one.
- The gradient of a kernel reads all images at once, and slows down as soon as they no longer fit
  in a core's cache. Here it is computed for a few images at a time, in a loop, and summed.
- Results of less than 32 channels are computed by a slower routine, which spends its time on
  reading. Here two places of the map or more are computed at once, as channels of one result.

Convolutions in groups of channels are computed group by group, and the kernel's gradient of a
depthwise one position by position. All of this is written in ordinary JAX operations, so `jit`,
`vmap`, forward and reverse mode, derivatives of derivatives, `checkpoint` and `scan` work as they
do for any convolution.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import JaxprEqn

from jaxprune.scoring.lowering.convolutions import as_in, channels_last

CACHE = 2**20
"""Bytes of inputs and results that the gradient of a kernel reads at a time."""
WIDE = 32
"""Channels of a result from which on XLA's routine is quick."""


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
        result = _differentiable(_windows(eqn), _tangent_by_images)(x, kernel)
    elif groups == x.shape[-1]:
        result = _differentiable(_windows(eqn), _tangent_by_positions)(x, kernel)
    else:
        convolve = _differentiable(_windows(eqn), _tangent_by_images)
        parts = [
            jnp.moveaxis(operand.reshape(*operand.shape[:-1], groups, -1), -2, 0)
            for operand in (x, kernel)
        ]
        result = lax.map(lambda part: convolve(*part), tuple(parts))
        result = jnp.moveaxis(result, 0, -2)
        result = result.reshape(*result.shape[:-2], -1)
    return as_in(eqn, result)


Tangent = Callable[["Windows", Array, Array], Array]
"""The convolution of an equation as a function of its kernel, whose transpose is quick."""


class Windows(NamedTuple):
    """How a convolution reads its input, as `jax.lax.conv_general_dilated` names it."""

    window_strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    precision: Any
    preferred_element_type: Any


def _windows(eqn: JaxprEqn) -> Windows:
    aval: Any = eqn.outvars[0].aval
    named = {name: eqn.params[name] for name in Windows._fields[:-1]}
    return Windows(**named, preferred_element_type=aval.dtype)


def _convolve(
    windows: Windows,
    x: Array,
    kernel: Array,
    layouts: tuple[str, str, str] = ("NSC", "SIO", "NSC"),
) -> Array:
    """Convolves operands of any layout.

    Args:
      windows: how it reads its input.
      x: the input.
      kernel: the kernel.
      layouts: of the operands and the result, as in `("NHWC", "HWIO", "NHWC")`; S stands for all
        axes of the map.
    """
    of_x, of_kernel, of_result = (layout.replace("S", "DHW"[5 - x.ndim :]) for layout in layouts)
    return lax.conv_general_dilated(
        x,
        kernel,
        dimension_numbers=(of_x, of_kernel, of_result),
        feature_group_count=x.shape[of_x.index("C")] // kernel.shape[of_kernel.index("I")],
        **windows._asdict(),
    )


def _differentiable(windows: Windows, tangent: Tangent) -> Callable[[Array, Array], Array]:
    """The convolution of `[images, *map, channels]` with `[*window, channels / groups, filters]`.

    Args:
      windows: how it reads its input.
      tangent: what is differentiated in place of it with respect to the kernel.
    """

    @jax.custom_jvp
    def convolve(x: Array, kernel: Array) -> Array:
        return _convolve_in_blocks(windows, x, kernel)

    def jvp(primals: Any, tangents: Any) -> tuple[Array, Any]:
        (x, kernel), (of_x, of_kernel) = primals, tangents
        parts = []
        if not isinstance(of_x, SymbolicZero):
            parts.append(_tangent_of_input(windows, of_x, kernel))
        if not isinstance(of_kernel, SymbolicZero):
            parts.append(tangent(windows, x, of_kernel))
        return convolve(x, kernel), sum(parts[1:], start=parts[0])

    convolve.defjvp(jvp, symbolic_zeros=True)
    return convolve


def _tangent_of_input(windows: Windows, x: Array, kernel: Array) -> Array:
    """The convolution as a function of its input, whose transpose is quick."""
    swapped = jnp.swapaxes(kernel, -1, -2)
    plain = functools.partial(_convolve, windows, layouts=("NSC", "SOI", "NSC"))
    alike = x.dtype == kernel.dtype == windows.preferred_element_type
    whole = x.shape[-1] == kernel.shape[-2]  # no groups
    size = _block(windows, kernel.shape[-3], x.shape[-1], x.shape[-2]) if alike and whole else 1
    if size == 1:
        return plain(x, swapped)
    # Its transpose is a convolution with the kernel turned round, and narrow where the input was.
    padding = tuple(
        (length - 1 - low, length - 1 - high)
        for length, (low, high) in zip(kernel.shape, windows.padding, strict=False)
    )
    back, result = windows._replace(padding=padding), jax.eval_shape(plain, x, swapped)
    turned = jnp.flip(swapped, range(kernel.ndim - 2))
    backwards = functools.partial(_convolve_in_blocks, back, kernel=turned)
    return jax.linear_transpose(backwards, result)(x)[0]


# -- narrow results -------------------------------------------------------------------------------


def _convolve_in_blocks(windows: Windows, x: Array, kernel: Array) -> Array:
    """Convolves several places of the map's last axis at once if one of them has few channels."""
    if x.shape[-1] != kernel.shape[-2]:  # groups
        return _convolve(windows, x, kernel)
    (before, after), wide = windows.padding[-1], kernel.shape[-3]
    outputs = x.shape[-2] + before + after - wide + 1
    size = _block(windows, wide, kernel.shape[-1], outputs)
    if size == 1:
        return _convolve(windows, x, kernel)
    result = _convolve(_of_blocks(windows, size), x, _kernel_of_blocks(kernel, size))
    return result.reshape(*result.shape[:-2], outputs, kernel.shape[-1])


def _block(windows: Windows, wide: int, channels: int, outputs: int) -> int:
    """How many places of the last axis are computed at once, 1 where that is not quicker.

    Two where the channels are half of `WIDE` at most, or the kernel is so wide that another place
    adds little. More if that makes exactly `WIDE` of them and no more than doubles the kernel.
    """
    if any(n != 1 for n in (*windows.window_strides, *windows.lhs_dilation, *windows.rhs_dilation)):
        return 1
    if wide == 1 or channels >= WIDE or (2 * channels > WIDE and wide < 5):
        return 1
    exact = WIDE // channels
    sizes = [exact] if WIDE % channels == 0 and exact <= wide + 1 else []
    return next((size for size in [*sizes, 2] if outputs % size == 0), 1)


def _of_blocks(windows: Windows, size: int) -> Windows:
    return windows._replace(window_strides=(*windows.window_strides[:-1], size))


def _kernel_of_blocks(kernel: Array, size: int) -> Array:
    """The kernel of `size` places at once: `[*window, wide + size - 1, C, size * D]`."""
    around = [(0, 0, 0)] * (kernel.ndim - 3)
    places = [
        lax.pad(
            kernel,
            jnp.zeros((), kernel.dtype),
            [*around, (place, size - 1 - place, 0), (0, 0, 0), (0, 0, 0)],
        )
        for place in range(size)
    ]
    return jnp.concatenate(places, axis=-1)


# -- convolutions without groups ------------------------------------------------------------------


def _tangent_by_images(windows: Windows, x: Array, kernel: Array) -> Array:
    """Convolves some images after the other."""
    size, count = _images_at_once(windows, x, kernel), len(x)

    # Checkpointed, so that x itself is kept for the way back, and not a copy in another layout.
    # Sliced, as XLA would compute images that are reshaped for the loop once more in that shape.
    @functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=1)
    def some(first: Array | int, size: int) -> Array:
        part = lax.dynamic_slice_in_dim(x, first, size)
        return _tangent_of_some(windows, part, kernel)

    if size >= count:
        return some(0, count)
    whole = count // size * size
    results = lax.map(lambda first: some(first, size), jnp.arange(0, whole, size))
    results = results.reshape(whole, *results.shape[2:])
    return results if whole == count else jnp.concatenate([results, some(whole, count - whole)])


def _tangent_of_some(windows: Windows, x: Array, kernel: Array) -> Array:
    """Convolves in layouts of which JAX makes XLA's for the gradient of the kernel."""
    result = jax.eval_shape(functools.partial(_convolve, windows), x, kernel).shape
    size = _block(windows, kernel.shape[-3], kernel.shape[-1], result[-2])
    if size > 1:
        windows, kernel = _of_blocks(windows, size), _kernel_of_blocks(kernel, size)
    by_channel, of_channel = jnp.swapaxes(x, 0, -1), jnp.moveaxis(kernel, -2, 0)
    found = _convolve(windows, by_channel, of_channel, ("CSN", "ISO", "SNC"))
    return jnp.moveaxis(found, -2, 0).reshape(result)


def _images_at_once(windows: Windows, x: Array, kernel: Array) -> int:
    """How many images keep inputs and results within `CACHE`, or within the kernel's own size.

    Each time the gradient of the whole kernel is written: there should be as much to read. Up to
    half as many where that divides the images into equal parts.
    """
    result = jax.eval_shape(functools.partial(_convolve, windows), x, kernel)
    of_image = (x.size + math.prod(result.shape)) / len(x) * x.dtype.itemsize
    most = max(1, int(max(CACHE, kernel.size * kernel.dtype.itemsize) / of_image))
    equal = (size for size in range(most, most // 2, -1) if len(x) % size == 0)
    return min(len(x), next(equal, most))


# -- depthwise convolutions -----------------------------------------------------------------------


def _tangent_by_positions(windows: Windows, x: Array, kernel: Array) -> Array:
    """Adds up what each position of a depthwise kernel contributes."""
    result = jax.eval_shape(functools.partial(_convolve, windows), x, kernel)
    outputs, strides, dilations = result.shape[1:-1], windows.window_strides, windows.rhs_dilation
    around = [
        (before, after, dilation - 1)
        for (before, after), dilation in zip(windows.padding, windows.lhs_dilation, strict=True)
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
    return functools.reduce(jnp.add, parts).astype(result.dtype)
