"""How large the activations are that layers read, channel by channel."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from jaxprune.dependency.atoms import Axis
from jaxprune.dependency.groups import Structure
from jaxprune.dependency.masking import Masked, masked_by


def activity(fn: Callable[..., Any], structure: Structure, params: Any, *arguments: Any) -> Any:
    """The mean absolute value of what layers read of each channel.

    Wherever the function sums over an axis of channels, the absolute values of the operand are
    averaged over all its other axes. A channel's values there are added up over its positions and
    over everything that reads it.

    Args:
      fn: any function `fn(params, *arguments)` of the parameters that the structure describes. What
        its outputs do not depend on, or not differentiably, is not seen.
      structure: what `trace` returned.
      params: the dense parameters.
      *arguments: inputs.

    Returns:
      float32 [num_channels], at least 0.

    Raises:
      ValueError: the params do not fit the structure.
    """
    observed = masked_by(_Observed, fn, structure)

    def outputs(mask: Any) -> Any:
        leaves = jax.tree.leaves(observed(params, structure.unflatten(mask), *arguments))
        return sum(leaf.sum() for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating))

    return jax.grad(outputs)(jnp.ones(structure.num_channels))


class _Observed(Masked):
    """Masks of ones whose derivative is the size of what they are multiplied to."""

    def apply(self, value: Any, d: int, axis: Axis, eqn: JaxprEqn) -> Any:
        if not jnp.issubdtype(value.dtype, jnp.floating):
            return value
        return _note(value, self.of(axis), d)

    def rescale(self, value: Any, axis: Axis) -> Any:
        return value


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _note(value: Any, mask: Any, d: int) -> Any:
    """The value; in reverse mode its mean absolute size along axis d stands for the mask's part."""
    return value


def _forward(value: Any, mask: Any, d: int) -> tuple[Any, Any]:
    others = [axis for axis in range(value.ndim) if axis != d]
    return value, jnp.abs(value).mean(others).astype(mask.dtype)


def _backward(d: int, size: Any, cotangent: Any) -> tuple[Any, Any]:
    return cotangent, size


_note.defvjp(_forward, _backward)
