"""Compact networks for use elsewhere: a folder, StableHLO, ONNX."""

from typing import TYPE_CHECKING

from jaxprune.lazy import submodules
from jaxprune.networks.export.folder import LoadedNetwork, load, save
from jaxprune.networks.export.interchange import onnx
from jaxprune.networks.export.program import stablehlo

__all__ = ["LoadedNetwork", "load", "onnx", "save", "stablehlo"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
