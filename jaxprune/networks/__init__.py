"""How networks come in and go out.

`adapters` turns Flax, Equinox and Haiku networks into functions of their parameters, `bundled` has
ready-made networks, `export` writes a compact network as a folder, StableHLO or ONNX, and `narrow`
makes Flax modules of its widths. The last three need Flax and are loaded on first use.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from jaxprune.networks.adapters import from_equinox, from_haiku, from_linen, from_nnx

if TYPE_CHECKING:
    from jaxprune.networks import bundled, export, narrow

__all__ = [
    "bundled",
    "export",
    "from_equinox",
    "from_haiku",
    "from_linen",
    "from_nnx",
    "narrow",
]


def __getattr__(name: str) -> ModuleType:
    if name in ("bundled", "export", "narrow"):
        return import_module(f"jaxprune.networks.{name}")
    raise AttributeError(f"module 'jaxprune.networks' has no attribute {name!r}")
