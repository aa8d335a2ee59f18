"""How networks come in and go out.

`adapters` turn a Flax, Equinox or Haiku network into a function of its parameters, `bundled` has
networks to begin with, `export` writes a compact network as a folder, StableHLO or ONNX, and
`narrow` gives a Flax module at its widths.
"""

from jaxprune.networks.adapters import from_equinox, from_haiku, from_linen, from_nnx
from jaxprune.networks.export import LoadedNetwork, load, save
from jaxprune.networks.narrow import linen_module, nnx_module

__all__ = [
    "LoadedNetwork",
    "from_equinox",
    "from_haiku",
    "from_linen",
    "from_nnx",
    "linen_module",
    "load",
    "nnx_module",
    "save",
]
