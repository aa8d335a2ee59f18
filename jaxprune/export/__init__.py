"""Compact networks for use elsewhere: a folder, StableHLO, ONNX."""

from jaxprune.export.folder import LoadedNetwork, load, save
from jaxprune.export.interchange import onnx
from jaxprune.export.program import stablehlo

__all__ = ["LoadedNetwork", "load", "onnx", "save", "stablehlo"]
