"""Convolutions whose kernels have quick gradients on a CPU.

XLA computes the gradient of a convolution's kernel well while the images that it reads, and the
gradients of its results, stay in a core's cache, and up to six times slower beyond
(`experiments/results/kernel_gradients/cpu.md`). `in_groups` takes a few images at a time and adds
up. Inside a loop XLA is slower by another factor of 20 and more whatever the size (JAX issue
12868); there `by_patches` multiplies matrices instead.

Only the derivative with respect to the kernel changes. Both ways are written as linear functions of
the kernel's tangent in ordinary JAX, so `jit`, `vmap`, forward and reverse mode, derivatives of
derivatives and `checkpoint` work as for the convolution itself.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import JaxprEqn

from jaxprune.scoring.lowering.convolutions import as_in, channels_last, ordinary

CACHE = 2**21
"""Bytes of images and results that a group may have."""

MOST_GROUPS = 64
"""More would only make programs large."""

Tangent = Callable[[Array, Array], Array]
"""`(x, kernel's tangent) -> tangent of the result`."""


def quicker(eqn: JaxprEqn) -> Callable[..., Array] | None:
    """`in_groups` where XLA's gradient of the kernel would not stay in the cache."""
    size = group_size(eqn)
    return None if size is None else partial(in_groups, size)


def quicker_in_loops(eqn: JaxprEqn) -> Callable[..., Array] | None:
    """`by_patches` for a convolution that a loop repeats."""
    return None if ordinary(eqn) is None else by_patches


def group_size(eqn: JaxprEqn) -> int | None:
    """How many images the gradient of a convolution's kernel should take at a time.

    Returns:
      At least 1 and at most half of the images; None if all at once is as quick, and for anything
      that is not a convolution of one or two dimensions: XLA computes those of three otherwise.
    """
    if eqn.primitive.name != "conv_general_dilated" or eqn.params["batch_group_count"] != 1:
        return None
    avals: list[Any] = [atom.aval for atom in (*eqn.invars, *eqn.outvars)]
    x, kernel, result = avals
    images = x.shape[eqn.params["dimension_numbers"].lhs_spec[0]]
    if x.ndim > 4 or images < 2 or not jnp.issubdtype(result.dtype, jnp.floating):
        return None
    of_image = max(1, (_bytes(x) + _bytes(result)) // images)
    # Each group writes the gradient of a whole kernel: it should have more to read than that.
    size = max(CACHE, _bytes(kernel)) // of_image
    groups = min(MOST_GROUPS, math.ceil(images / max(1, size)))
    return math.ceil(images / groups) if groups > 1 else None


def _bytes(aval: Any) -> int:
    return math.prod(aval.shape) * aval.dtype.itemsize


def in_groups(size: int, eqn: JaxprEqn, x: Array, kernel: Array) -> Array:
    """A convolution; the gradient of its kernel is that of groups of images, added up.

    Args:
      size: images of a group; the last one may have fewer.
      eqn: a convolution with `batch_group_count` 1.
      x: the input, in the equation's layout.
      kernel: the kernel, in the equation's layout.

    Returns:
      The result, in the equation's layout.
    """
    numbers = eqn.params["dimension_numbers"]
    axis = numbers.lhs_spec[0]

    def tangent(x: Array, kernel: Array) -> Array:
        starts = range(0, x.shape[axis], size)
        ends = (*starts[1:], x.shape[axis])
        groups = (
            lax.slice_in_dim(x, *bounds, axis=axis) for bounds in zip(starts, ends, strict=True)
        )
        return lax.concatenate([_convolve(eqn, x, kernel) for x in groups], numbers.out_spec[0])

    return _with_tangent(eqn, tangent)(x, kernel)


def by_patches(eqn: JaxprEqn, x: Array, kernel: Array) -> Array:
    """A convolution; the gradient of its kernel is a sum of matrix products, one for each image.

    Args:
      eqn: an `ordinary` convolution.
      x: the input, in the equation's layout.
      kernel: the kernel, in the equation's layout.

    Returns:
      The result, in the equation's layout.
    """

    def tangent(x: Array, kernel: Array) -> Array:
        x, kernel = channels_last(eqn, x, kernel)
        result: Any = eqn.outvars[0].aval

        @partial(jax.checkpoint, prevent_cse=False)  # so that the patches are not kept
        def product(image: Array, kernel: Array) -> Array:
            return jnp.dot(
                _patches(eqn, image),
                kernel.reshape(-1, kernel.shape[-1]),
                precision=eqn.params["precision"],
                preferred_element_type=result.dtype,
            )

        _, products = lax.scan(lambda done, image: (done, product(image, kernel)), None, x)
        spec = eqn.params["dimension_numbers"].out_spec
        outputs = [result.shape[axis] for axis in spec[2:]]
        return as_in(eqn, products.reshape(len(x), *outputs, kernel.shape[-1]))

    return _with_tangent(eqn, tangent)(x, kernel)


def _patches(eqn: JaxprEqn, image: Array) -> Array:
    """What each output reads of an image `[*map, C]`: `[outputs, positions * C]`."""
    dimensions = ordinary(eqn)
    assert dimensions is not None
    padding = [(before, after, 0) for before, after in eqn.params["padding"]]
    image = lax.pad(image, jnp.zeros((), image.dtype), [*padding, (0, 0, 0)])
    columns = [
        image[
            tuple(
                slice(first, first + (d.outputs - 1) * d.stride + 1, d.stride)
                for d, place in zip(dimensions, position, strict=True)
                for first in [place * d.dilation]
            )
        ]
        for position in itertools.product(*(range(d.kernel) for d in dimensions))
    ]
    together = jnp.concatenate(columns, axis=-1)
    return together.reshape(-1, together.shape[-1])


def _convolve(eqn: JaxprEqn, x: Array, kernel: Array) -> Array:
    return eqn.primitive.bind(x, kernel, **eqn.params)


def _with_tangent(eqn: JaxprEqn, tangent: Tangent) -> Callable[[Array, Array], Array]:
    """The convolution, differentiated with respect to its kernel as `tangent` is."""

    @jax.custom_jvp
    def convolve(x: Array, kernel: Array) -> Array:
        return _convolve(eqn, x, kernel)

    def jvp(primals: Any, tangents: Any) -> tuple[Array, Any]:
        x, kernel = primals
        of_x, of_kernel = tangents
        parts = []
        if not isinstance(of_x, SymbolicZero):
            parts.append(_convolve(eqn, of_x, kernel))
        if not isinstance(of_kernel, SymbolicZero):
            parts.append(tangent(x, of_kernel))
        return convolve(x, kernel), sum(parts[1:], start=parts[0])

    convolve.defjvp(jvp, symbolic_zeros=True)
    return convolve
