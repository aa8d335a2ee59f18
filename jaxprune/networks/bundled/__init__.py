"""The bundled networks: ordinary Flax Linen modules without any code for pruning.

::

    network = bundled.build("vgg16", image_shape=(32, 32, 3))
    variables = network.init(jax.random.key(0))
    logits = network.apply(variables, x)
"""

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxprune.errors import UserError
from jaxprune.networks.bundled.cnn import CNN
from jaxprune.networks.bundled.ghost import Ghost
from jaxprune.networks.bundled.lenet import LeNet5
from jaxprune.networks.bundled.mlp import MLP
from jaxprune.networks.bundled.resnet import ResNet
from jaxprune.networks.bundled.vgg import STAGES, VGG
from jaxprune.networks.network import Network, Variables

__all__ = ["CNN", "MLP", "NAMES", "VGG", "Ghost", "LeNet5", "Network", "ResNet", "build"]


class _Entry(NamedTuple):
    """How to make a network: its module, kind of input and smallest image (height and width)."""

    module: Callable[[int], nn.Module]
    flat: bool = False
    smallest: int = 1


_ENTRIES: dict[str, _Entry] = {
    "cnn": _Entry(lambda n: CNN(num_classes=n), smallest=2),
    "lenet300": _Entry(lambda n: MLP((300, 100), n), flat=True),
    "lenet5": _Entry(LeNet5, smallest=16),
    "mlp": _Entry(lambda n: MLP((1024, 1024), n), flat=True),
    "vgg11": _Entry(lambda n: VGG(STAGES[11], n), smallest=32),
    "vgg16": _Entry(lambda n: VGG(STAGES[16], n), smallest=32),
    "vgg19": _Entry(lambda n: VGG(STAGES[19], n), smallest=32),
    "resnet18": _Entry(lambda n: ResNet(64, (2, 2, 2, 2), (64, 128, 256, 512), num_classes=n)),
    "resnet50": _Entry(lambda n: ResNet(64, (3, 4, 6, 3), (64, 128, 256, 512), True, n)),
    "resnet20": _Entry(lambda n: ResNet(16, (3, 3, 3), (16, 32, 64), num_classes=n)),
    "resnet56": _Entry(lambda n: ResNet(16, (9, 9, 9), (16, 32, 64), num_classes=n)),
    "ghost_vgg16": _Entry(lambda n: VGG(STAGES[16], n, ghost=2), smallest=32),
    "ghost_resnet20": _Entry(lambda n: ResNet(16, (3,) * 3, (16, 32, 64), num_classes=n, ghost=2)),
}

NAMES: tuple[str, ...] = tuple(_ENTRIES)
"""The names that `build` knows."""


def build(name: str, image_shape: tuple[int, int, int], num_classes: int = 10) -> Network:
    """Builds a bundled network for images of one shape.

    Args:
        name: One of `NAMES`.
        image_shape: `(height, width, channels)` of the images, in pixels.
        num_classes: Size of the output layer.

    Returns:
        The network. Nothing is computed before `init` is called.

    Raises:
        UserError: If the name is unknown, or the images are too small for the network.
    """
    if name not in _ENTRIES:
        raise UserError(f"unknown model {name!r}; the models are: {', '.join(NAMES)}")
    entry = _ENTRIES[name]
    height, width, _ = image_shape
    if min(height, width) < entry.smallest:
        size = f"{entry.smallest}x{entry.smallest}"
        small = [other for other in NAMES if _ENTRIES[other].smallest <= min(height, width)]
        raise UserError(
            f"model {name!r} needs images of at least {size} pixels, these have {height}x{width}; "
            f"models that fit: {', '.join(small)}"
        )
    module = entry.module(num_classes)
    input_shape = (1, prod(image_shape)) if entry.flat else (1, *image_shape)

    def init(key: Array) -> Variables:
        return dict(module.init(key, jnp.zeros(input_shape)))

    def apply(variables: Variables, x: Array) -> Array:
        logits: Any = module.apply(variables, x)
        return logits

    def apply_train(variables: Variables, x: Array) -> tuple[Array, Variables]:
        mutable = [collection for collection in variables if collection != "params"]
        logits, state = module.apply(variables, x, train=True, mutable=mutable)
        return logits, dict(state)

    return Network(jax.jit(init), apply, apply_train, name, module, entry.flat)
