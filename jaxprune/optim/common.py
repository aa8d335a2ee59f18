"""Argument checks, schedules, and updates that land on a target."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any

# optax's own words; it keeps them in a private module.
NO_PARAMS_MSG = (
    "You are using a transformation that requires the current value of "
    "parameters, but you are not passing `params` when calling `update`."
)


def check_non_negative(**values: Any) -> None:
    """Raises ValueError if one of the named numbers is known now and negative or NaN.

    Schedules and traced values are not known now. Arrays of several elements on a device are not
    checked either: fetching them would stall the device.
    """
    for name, value in values.items():
        for leaf in jax.tree.leaves(value):
            if callable(leaf) or isinstance(leaf, jax.core.Tracer):
                continue
            if isinstance(leaf, jax.Array) and leaf.size > 1:
                continue
            if not np.all(np.asarray(leaf) >= 0):
                raise ValueError(f"{name} must be non-negative, got {leaf}.")


def check_fraction(name: str, value: Any, *, or_one: bool = False) -> None:
    """Raises ValueError if a number known now is outside [0, 1), or [0, 1] with ``or_one``."""
    if isinstance(value, jax.core.Tracer) or 0.0 <= value < 1.0 or (or_one and value == 1.0):
        return
    raise ValueError(f"{name} must be in [0, 1{']' if or_one else ')'}, got {value}.")


def check_callable(name: str, value: Any) -> None:
    """Raises ValueError unless ``value`` is callable."""
    if not callable(value):
        raise ValueError(f"{name} must be a function, got {value!r}.")


def check_axis(operator: str, axis: int | Sequence[int], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns ``axis`` as a tuple of distinct non-negative ints, or raises ValueError."""
    rank = len(shape)
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    outside = [a for a in axes if not -rank <= a < rank]
    if outside:
        raise ValueError(
            f"{operator} got axis={axis}, but a leaf has shape {shape}. Keep leaves without these "
            "axes away from it with optax.masked or optax.multi_transform."
        )
    positive = tuple(a % rank for a in axes)
    if not positive or len(set(positive)) != len(positive):
        raise ValueError(f"{operator} needs one or more distinct axes, got axis={axis}.")
    return positive


def at_step(scalar_or_schedule: Any, count: jax.Array) -> Any:
    """The value of a schedule at ``count``; anything else as it is."""
    return scalar_or_schedule(count) if callable(scalar_or_schedule) else scalar_or_schedule


def wide_dtype(*arrays: Any) -> Any:
    """The dtype in which to compute with these arrays: their promotion, at least float32."""
    dtypes = map(jnp.result_type, arrays)
    # Floats of 8 bits and fewer are promoted to nothing implicitly.
    known = [d if d.itemsize > 1 else jnp.dtype(jnp.float32) for d in dtypes]
    return jnp.promote_types(jnp.result_type(*known), jnp.float32)


def map_params(f: Any, params: PyTree, *rest: PyTree) -> PyTree:
    """``jax.tree.map`` with ``None`` where a parameter is ``None``, as ``optax.apply_updates``."""
    return jax.tree.map(
        lambda p, *others: None if p is None else f(p, *others),
        params,
        *rest,
        is_leaf=lambda x: x is None,
    )


def check_params(params: PyTree | None) -> None:
    """Raises optax's error if ``params`` was not passed to ``update``."""
    if params is None:
        raise ValueError(NO_PARAMS_MSG)


def moved(params: PyTree, updates: PyTree) -> PyTree:
    """``params + updates``, leaf by leaf, in float32 at least."""

    def add(param, update):
        wide = wide_dtype(param, update)
        return jnp.asarray(param, wide) + jnp.asarray(update, wide)

    return map_params(add, params, updates)


def scaled(updates: PyTree, factor: jax.typing.ArrayLike) -> PyTree:
    """``factor * updates``, leaf by leaf, in float32 at least."""
    return jax.tree.map(lambda u: factor * jnp.asarray(u, wide_dtype(u)), updates)


def landing(params: PyTree, target: PyTree, updates: PyTree) -> PyTree:
    """The updates that take ``params`` to ``target`` through ``optax.apply_updates``.

    They have the wider dtype of parameter and incoming update, never one narrower than the
    parameter's: a bfloat16 update cannot cancel a float32 parameter. Zeros are exact, since
    ``p + (0 - p)`` is zero in every dtype; signs are kept, since rounding is monotone; other values
    land within two units in the last place of the larger of parameter and target.
    """

    def difference(param, goal, update):
        wide = wide_dtype(param, goal)
        goal = jnp.asarray(goal).astype(jnp.result_type(param)).astype(wide)
        return (goal - jnp.asarray(param, wide)).astype(jnp.result_type(param, update))

    return map_params(difference, params, target, updates)
