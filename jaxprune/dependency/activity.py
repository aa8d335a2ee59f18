"""Activations that layers read: the size of each channel, and second moments of channel pairs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from jaxprune.dependency.atoms import AtomTable, Axis
from jaxprune.dependency.dtypes import is_complex, is_inexact, wide
from jaxprune.dependency.groups import Structure
from jaxprune.dependency.masking import Masked, masked_by


def activity(fn: Callable[..., Any], structure: Structure, params: Any, *arguments: Any) -> Any:
    """The mean absolute activation of each channel, as the layers that read it see it.

    Wherever the function sums over an axis of channels, the absolute values of the operand are
    averaged over all other axes. The averages are added up over a channel's positions on the axis
    and over everything that reads the channel.

    Args:
      fn: any function `fn(params, *arguments)` of the parameters that the structure describes.
        Activations that its outputs do not depend on differentiably are not seen.
      structure: what `trace` returned.
      params: the dense parameters.
      *arguments: inputs.

    Returns:
      float32 [num_channels], at least 0.

    Raises:
      ValueError: the params do not fit the structure.
    """
    observed = masked_by(_Observed, fn, structure)

    def outputs(mask: Any, params: Any, arguments: Any) -> Any:
        return _total(observed(params, structure.unflatten(mask), *arguments))

    ones = np.ones(structure.num_channels, np.float32)
    return jax.jit(jax.grad(outputs))(ones, params, arguments)


def second_moments(
    fn: Callable[..., Any], structure: Structure, params: Any, *arguments: Any, centred: bool
) -> list[Any]:
    """The second moments of the activations of each group's channels, as layers read them.

    Wherever the function sums over an axis of channels, the product of two channels, `x_i x_j` or
    `(x_i - mean x_i) (x_j - mean x_j)`, is averaged over all other axes of the operand. The
    averages are added up over a channel's positions on the axis and over everything that reads the
    group. Positions that need several channels (heads times head dimension) are left out.

    Args:
      fn: any function `fn(params, *arguments)`, as for `activity`.
      structure: what `trace` returned.
      params: the dense parameters.
      *arguments: inputs.
      centred: whether the means are subtracted first, which gives covariances.

    Returns:
      float32 [size, size] for each group, zero where nothing was seen.

    Raises:
      ValueError: the params do not fit the structure.
    """
    taps = [np.zeros((group.size, group.size), np.float32) for group in structure.groups]

    def outputs(mask: Any, taps: Any, params: Any, arguments: Any) -> Any:
        def kind(structure: Structure, masks: Any, table: Any) -> _Paired:
            return _Paired(structure, masks, table, taps, centred)

        observed = masked_by(kind, fn, structure)
        return _total(observed(params, structure.unflatten(mask), *arguments))

    ones = np.ones(structure.num_channels, np.float32)
    return jax.jit(jax.grad(outputs, (0, 1)))(ones, taps, params, arguments)[1]


def _total(outputs: Any) -> Any:
    """The sum of all real and complex outputs, which makes the function differentiable."""
    leaves = [leaf for leaf in jax.tree.leaves(outputs) if is_inexact(leaf.dtype)]
    return sum(jnp.real(leaf.astype(wide(leaf.dtype)).sum()) for leaf in leaves)


class _Observed(Masked):
    """Masks of ones whose gradient is the mean absolute value of what they multiply."""

    def apply(self, value: Any, d: int, axis: Axis, eqn: JaxprEqn) -> Any:
        if not is_inexact(value.dtype):
            return value
        return _note(value, self.of(axis), d)

    def rescale(self, value: Any, axis: Axis) -> Any:
        return value


class _Paired(Masked):
    """Masks of ones, and for each group a matrix whose gradient is its second moments.

    Args:
      structure: the structure of the parameters.
      masks: the masks of its groups.
      table: atoms 1 to C are the structure's channels.
      taps: [size, size] for each group.
      centred: whether means are subtracted.
    """

    def __init__(
        self, structure: Structure, masks: Any, table: AtomTable, taps: list[Any], centred: bool
    ):
        super().__init__(structure, masks, table)
        self._taps = taps
        self._centred = centred

    @property
    def masks(self) -> Any:
        """The arrays that the evaluation depends on."""
        return super().masks, self._taps

    def given(self, masks: Any) -> "_Paired":
        """The same with other arrays."""
        other = super().given(masks[0])
        assert isinstance(other, _Paired)
        other._taps = masks[1]
        return other

    def apply(self, value: Any, d: int, axis: Axis, eqn: JaxprEqn) -> Any:
        if not is_inexact(value.dtype):
            return value
        entries = self._entries(axis)
        for tap, end in zip(self._taps, self._ends, strict=True):
            size = len(tap)
            positions = np.flatnonzero((entries > end - size) & (entries <= end))
            if len(positions) and len(positions) % size == 0:
                ordered = positions[np.argsort(entries[positions], kind="stable")]
                seen = jnp.moveaxis(value, d, -1)[..., ordered.reshape(size, -1)]
                seen = seen.reshape(-1, *seen.shape[-2:])
                parts = [seen.real, seen.imag] if is_complex(seen.dtype) else [seen]
                for part in parts:
                    part = part.astype(tap.dtype)
                    value = _pair(value, part - part.mean(0) if self._centred else part, tap)
        return value

    def rescale(self, value: Any, axis: Axis) -> Any:
        return value


@jax.custom_vjp
def _pair(value: Any, seen: Any, tap: Any) -> Any:
    """The value; the gradient of `tap` is the second moment of `seen` [rows, n, positions]."""
    return value


def _forward_pair(value: Any, seen: Any, tap: Any) -> tuple[Any, Any]:
    products = jnp.einsum("bip,bjp->ij", seen, seen, precision=jax.lax.Precision.HIGHEST)
    return value, products / len(seen)


def _backward_pair(moments: Any, cotangent: Any) -> tuple[Any, None, Any]:
    return cotangent, None, moments


_pair.defvjp(_forward_pair, _backward_pair)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _note(value: Any, mask: Any, d: int) -> Any:
    """The value; the gradient of `mask` is the mean absolute value along axis d."""
    return value


def _forward(value: Any, mask: Any, d: int) -> tuple[Any, Any]:
    others = [axis for axis in range(value.ndim) if axis != d]
    return value, jnp.abs(value.astype(wide(value.dtype))).mean(others).astype(mask.dtype)


def _backward(d: int, size: Any, cotangent: Any) -> tuple[Any, Any]:
    return cotangent, size


_note.defvjp(_forward, _backward)
