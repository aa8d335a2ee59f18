"""A network as the command and the training loop see it: three functions of its variables."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

Variables = dict[str, Any]


class Network(NamedTuple):
    """A network as a few pure functions of its variables.

    Attributes:
        init: `init(key) -> variables`, a dict: "params" holds what is trained, other entries what a
            training step changes, such as "batch_stats" with BatchNorm.
        apply: `apply(variables, x) -> logits [B, classes]`, for inference.
        apply_train: `apply_train(variables, x) -> (logits, state)`, for training: BatchNorm
            normalises by the batch, and `state` holds the updated entries other than "params" (`{}`
            if there are none).
        name: What it is called: a bundled network's name, or module:function.
        module: The Flax module behind the functions, None where there is none.
        flat: Whether it takes flattened features `[B, H*W*C]` in place of images `[B, H, W, C]`.
        content: A hash of what the functions compute, where the name does not tell it.
    """

    init: Callable[[Array], Variables]
    apply: Callable[[Variables, Array], Array]
    apply_train: Callable[[Variables, Array], tuple[Array, Variables]]
    name: str = ""
    module: Any = None
    flat: bool = False
    content: str = ""
