"""The criteria by name, and one call for all of them."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxprune.dependency import Structure
from jaxprune.dependency.concrete import put
from jaxprune.errors import UserError
from jaxprune.importance.curvature import grasp, obd
from jaxprune.importance.lookahead import lookahead
from jaxprune.importance.reconstruction import reconstruction
from jaxprune.importance.sensitivity import activation, scalar, snip, taylor, taylor_activation
from jaxprune.importance.weights import batch_norm_scale, fpgm, l1, l2, lamp, random

Criterion = Callable[[Structure, Any], Any]
"""A user's own importance: `criterion(structure, params)` -> [num_channels], larger = keep."""

_CRITERIA: dict[str, Callable[..., Array]] = {
    "l1": l1,
    "l2": l2,
    "batch_norm_scale": batch_norm_scale,
    "fpgm": fpgm,
    "lamp": lamp,
    "lookahead": lookahead,
    "activation": activation,
    "reconstruction": reconstruction,
    "taylor": taylor,
    "taylor_activation": taylor_activation,
    "snip": snip,
    "grasp": grasp,
    "obd": obd,
    "random": random,
}

_OF_GRADIENTS = ("taylor", "snip")
_OF_LOSS = ("taylor_activation", "grasp", "obd")

NAMES: tuple[str, ...] = tuple(_CRITERIA)
"""The criteria that have a name."""


def get(name: str) -> Callable[..., Array]:
    """The criterion of that name; what it takes beside the structure, its docstring says.

    Raises:
      UserError: there is none.
    """
    if name not in _CRITERIA:
        raise UserError(
            f"unknown importance {name!r}; the criteria are: {', '.join(NAMES)}; or give a "
            "function of (structure, params)"
        )
    return _CRITERIA[name]


def score(
    criterion: str | Criterion,
    structure: Structure,
    apply: Callable[..., Any],
    params: Any,
    x: Any,
    *,
    loss: Callable[[Any], Array] | None = None,
    gradients: Any = None,
    key: Array | None = None,
) -> Array:
    """The importance of every channel by any criterion.

    Args:
      criterion: one of `NAMES`, or a function of (structure, params).
      structure: what `trace` returned.
      apply: `apply(params, x)`, in inference mode.
      params: the dense parameters.
      x: examples [B, ...], for criteria that look at data.
      loss: `loss(outputs) -> []`; needed by "taylor_activation", "grasp" and "obd", and by "taylor"
        and "snip" without gradients.
      gradients: for "taylor" and "snip", a tree like `params`; by default those of `loss` on `x`.
      key: needed by "random"; "obd" has a fixed one by default.

    Returns:
      float32 [num_channels].

    Raises:
      UserError: the name is unknown, something that the criterion needs is missing, or the scores
        have another shape or are not finite.
    """
    check(criterion, loss=loss, gradients=gradients, key=key)
    if callable(criterion):
        scores = criterion(structure, params)
    elif criterion == "random":
        assert key is not None
        scores = random(structure, key)
    elif criterion == "activation":
        scores = activation(structure, apply, params, x)
    elif criterion == "reconstruction":
        scores = reconstruction(structure, apply, params, x)
    elif criterion in _OF_GRADIENTS:
        if gradients is None:
            assert loss is not None
            gradients = _gradients(apply, params, x, loss)
        scores = get(criterion)(structure, params, gradients)
    elif criterion in _OF_LOSS:
        assert loss is not None
        options = {"key": key} if criterion == "obd" else {}
        scores = get(criterion)(structure, apply, params, x, loss, **options)
    else:
        scores = get(criterion)(structure, params)
    return checked(structure, scores)


def _gradients(apply: Callable[..., Any], params: Any, x: Any, loss: Callable[[Any], Array]) -> Any:
    def loss_of(params: Any, x: Any) -> Array:
        return scalar(loss(apply(params, x)))

    # Parameter trees may hold counters: they have no gradient, and no criterion asks for one.
    return jax.jit(jax.grad(loss_of, allow_int=True))(params, x)


def check(
    criterion: str | Criterion,
    *,
    loss: Callable[[Any], Array] | None = None,
    gradients: Any = None,
    key: Array | None = None,
) -> None:
    """Raises UserError unless `score` has what the criterion needs."""
    if callable(criterion):
        return
    get(criterion)
    missing = ""
    if criterion == "random" and key is None:
        missing = "key=jax.random.key(...)"
    elif criterion in _OF_GRADIENTS and loss is None and gradients is None:
        missing = "loss=... or gradients=..."
    elif criterion in _OF_LOSS and loss is None:
        missing = "loss=..."
    if missing:
        raise UserError(f"importance {criterion!r} needs {missing}")


def checked(structure: Structure, scores: Any) -> Array:
    """Scores, concrete ones, as float32 [num_channels].

    Raises:
      UserError: they have another shape or are not finite.
    """
    if isinstance(scores, Mapping):
        raise UserError(
            "the importance is a dict; give one array over all channels, as structure.flatten "
            "makes it of a dict"
        )
    known = np.asarray(scores, np.float32)
    if known.shape != (structure.num_channels,):
        raise UserError(
            f"the importance has shape {known.shape} instead of ({structure.num_channels},), one "
            "score for each channel of the structure, group after group"
        )
    finite = np.isfinite(known)
    if not finite.all():
        group = structure.groups[structure.group_index[int(finite.argmin())]]
        raise UserError(
            f"the importance of group '{group.name}' is not finite; look for inf or NaN in its "
            "parameters"
        )
    unchanged = isinstance(scores, jax.Array) and scores.dtype == np.float32
    return scores if unchanged else put(known)
