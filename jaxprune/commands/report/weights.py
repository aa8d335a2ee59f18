"""Pictures of weights: the filters of the first layer, and heat maps of all layers."""

import base64
from collections.abc import Mapping
from io import BytesIO
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from PIL import Image

from jaxprune.commands.report.architecture import Architecture, LayerChange

MOST_FILTERS = 60
"""Filters that are shown, of the kept and of the removed ones each."""

MOST_LAYERS = 12
FINEST = 192
"""Rows or columns of a heat map; larger matrices are averaged over blocks."""


class Picture(NamedTuple):
    """An image for a page: a data URI, and its size in pixels as shown."""

    source: str
    width: int
    height: int


class Filter(NamedTuple):
    """A filter of the first layer: its number in the dense network, and its picture."""

    number: int
    picture: Picture


class Filters(NamedTuple):
    """The filters of the first layer.

    Attributes:
        layer: The layer's path.
        kept: Those that stay, at most the first `MOST_FILTERS`.
        removed: Those that went, at most the first `MOST_FILTERS`.
        counts: How many stay, and how many went.
    """

    layer: str
    kept: list[Filter]
    removed: list[Filter]
    counts: tuple[int, int]


class HeatMap(NamedTuple):
    """The weights of a layer before and after, with one scale of colours.

    Attributes:
        layer: The layer's path.
        before: Mean magnitude for each pair of input (row) and output channel (column).
        after: The same after fine-tuning; what was removed is left blank.
        shape: (inputs, outputs).
        block: How many (inputs, outputs) make a point.
        largest: The value of the strongest colour.
    """

    layer: str
    before: Picture
    after: Picture
    shape: tuple[int, ...]
    block: tuple[int, ...]
    largest: float


def first_filters(network: Architecture, dense: Mapping[str, Any]) -> Filters | None:
    """The filters of the first layer, or None if they are no images.

    Filters of a convolution of one or three channels are shown as they are, others as the mean over
    their channels; the weights of a matrix product that reads the image are shown as an image.

    Args:
        network: What was kept.
        dense: The dense network's variables.
    """
    first = network.layers[0] if network.layers else None
    kernel = None if first is None else _kernel(dense, first.path)
    if first is None or kernel is None:
        return None
    if kernel.ndim == 2 and kernel.shape[0] == np.prod(network.image_shape):
        kernel = kernel.reshape(*network.image_shape, -1)
    if kernel.ndim != 4:
        return None
    if kernel.shape[2] not in (1, 3):
        kernel = kernel.mean(2, keepdims=True)
    scale = float(np.abs(kernel).max()) or 1.0
    grey = np.round(127.5 + 127.5 * kernel / scale).astype(np.uint8)
    if grey.shape[2] == 1:
        grey = grey[:, :, 0]

    def shown(chosen: np.ndarray) -> list[Filter]:
        numbers = np.flatnonzero(chosen)[:MOST_FILTERS].tolist()
        return [Filter(number, _picture(grey[..., number], size=44)) for number in numbers]

    kept = first.kept_outputs
    return Filters(first.path, shown(kept), shown(~kept), (int(kept.sum()), int((~kept).sum())))


def heat_maps(
    network: Architecture, dense: Mapping[str, Any], pruned: Mapping[str, Any]
) -> list[HeatMap]:
    """Heat maps of the layers; of many, the `MOST_LAYERS` that had the most weights.

    After Figures 12 and 13 of ACNN (Mathematics 2023), which show a layer's weights before and
    after; here their magnitudes, averaged over the window of a convolution.

    Args:
        network: What was kept.
        dense: The dense network's variables.
        pruned: The small network's, fine-tuned.
    """
    largest = sorted(network.layers, key=lambda layer: -layer.params[0])[:MOST_LAYERS]
    found = []
    for layer in network.layers:
        before, after = _kernel(dense, layer.path), _kernel(pruned, layer.path)
        if layer in largest and before is not None and after is not None:
            found.append(_heat_map(layer, before, after))
    return found


def _heat_map(layer: LayerChange, before: np.ndarray, after: np.ndarray) -> HeatMap:
    whole = _magnitudes(before)
    left = np.full(whole.shape, np.nan)
    left[np.ix_(layer.kept_inputs, layer.kept_outputs)] = _magnitudes(after)
    block = tuple(-(-size // FINEST) for size in whole.shape)
    coarse = [_averaged(matrix, *block) for matrix in (whole, left)]
    top = float(np.nanmax(coarse)) or 1.0
    before_map, after_map = (_picture(_colours(values / top), size=220) for values in coarse)
    return HeatMap(layer.path, before_map, after_map, whole.shape, block, top)


def _kernel(variables: Mapping[str, Any], path: str) -> np.ndarray | None:
    """A layer's kernel, or None if there is none at its path."""
    found: Any = variables.get("params", variables)
    for name in (*path.split("/"), "kernel"):
        if not isinstance(found, Mapping) or name not in found:
            return None
        found = found[name]
    return np.asarray(found, np.float32)


def _magnitudes(kernel: np.ndarray) -> np.ndarray:
    """`[..., inputs, outputs]` -> `[inputs, outputs]`."""
    return np.abs(kernel).reshape(-1, *kernel.shape[-2:]).mean(0)


def _averaged(matrix: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Means over blocks of what is there; NaN where nothing is."""
    height, width = matrix.shape
    missing = ((0, -height % rows), (0, -width % columns))
    padded = np.pad(matrix.astype(float), missing, constant_values=np.nan)
    blocks = padded.reshape(-(-height // rows), rows, -(-width // columns), columns)
    return np.ma.masked_invalid(blocks).mean((1, 3)).filled(np.nan)


def _colours(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] -> uint8 `[..., 4]`, NaN transparent."""
    colours = matplotlib.colormaps["viridis"](np.nan_to_num(values))
    colours[..., 3] = np.isfinite(values)
    return np.round(255 * colours).astype(np.uint8)


def _picture(pixels: np.ndarray, size: int) -> Picture:
    """uint8 `[H, W]`, `[H, W, 3]` or `[H, W, 4]` as a PNG; its longer side is shown as `size`."""
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    height, width = pixels.shape[:2]
    scale = size / max(height, width)
    return Picture(source, max(round(width * scale), 4), max(round(height * scale), 4))
