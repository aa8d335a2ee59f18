"""How networks come in and go out.

`adapters` turns Flax, Equinox, Haiku and Keras networks into functions of their parameters,
`bundled` has ready-made networks, `export` writes a compact network as a folder, StableHLO or ONNX,
`narrow` and `narrow_keras` make Flax modules and Keras models of its widths, and `own` is what
users bring to the command. All but the adapters are loaded on first use.
"""

from typing import TYPE_CHECKING

from jaxprune.lazy import submodules
from jaxprune.networks.adapters import (
    from_equinox,
    from_haiku,
    from_keras,
    from_linen,
    from_nnx,
)

if TYPE_CHECKING:
    from jaxprune.networks import bundled, export, narrow

__all__ = [
    "bundled",
    "export",
    "from_equinox",
    "from_haiku",
    "from_keras",
    "from_linen",
    "from_nnx",
    "narrow",
]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
