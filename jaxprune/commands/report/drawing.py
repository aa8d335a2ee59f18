"""Drawings of a network as SVG: its layers to scale, and where its groups sit."""

import math
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np
from markupsafe import Markup

from jaxprune.commands.report.architecture import Architecture

WIDTH = 960.0
"""Units that the columns of a drawing may take; a unit is a pixel at most."""

TALLEST = 150.0
"""The height of the widest layer."""

THINNEST = 5.0
"""The width of a layer whose output is no map."""

GAP = 7.0


def layers(network: Architecture) -> Markup:
    """The layers before and after, as blocks to one scale.

    The height of a block is its number of output channels, its width the side of its output map.
    """
    columns = [_input(network)] + [
        (layer.path, max(layer.spatial), len(layer.kept_outputs), int(layer.kept_outputs.sum()))
        for layer in network.layers
    ]
    tall = TALLEST / max(before for _, _, before, _ in columns)
    sides = sum(side for _, side, _, _ in columns if side > 1)
    room = WIDTH - len(columns) * (GAP + THINNEST)
    wide = min(100 / max(side for _, side, _, _ in columns), max(room, 0.2 * WIDTH) / max(sides, 1))
    widths = [max(THINNEST, wide * side) for _, side, _, _ in columns]
    # Columns stand apart as far as their numbers need.
    pitches = [max(block + GAP, 26 if len(columns) <= 30 else 14) for block in widths]
    left, total = 78.0, 78.0 + sum(pitches) + 30
    names = 12 + 5.2 * max(len(name) for name, *_ in columns)
    middles = (24 + TALLEST / 2, 24 + TALLEST * 1.5 + 34)
    bottom = 24 + 2 * TALLEST + 42
    svg = _svg(
        total, bottom + names, f"{len(network.layers)} layers before and after pruning, to scale"
    )
    for middle, word in zip(middles, ("before", "after"), strict=True):
        _text(svg, 0, middle + 4, word, "label")
    x = left
    for (name, side, before, after), block, pitch in zip(columns, widths, pitches, strict=True):
        place = x + (pitch - block) / 2
        for middle, count, kind in ((middles[0], before, "was"), (middles[1], after, "left")):
            if kind == "left":
                _block(svg, place, middle, block, tall * before, "gone")
            drawn = _block(svg, place, middle, block, tall * count, kind)
            SubElement(
                drawn, "title"
            ).text = f"{name}: {count} of {before} channels, map of side {side}"
            if len(columns) <= 30:
                top = middle - tall * before / 2 - 5
                _text(svg, x + pitch / 2, top, str(count), "count")
        _slanted(svg, x + pitch / 2, bottom, name)
        x += pitch
    return _markup(svg)


def groups(network: Architecture, widths: Mapping[str, int]) -> Markup:
    """A row for each group, a column for each layer: who makes its channels, and who reads them.

    Args:
        network: The network.
        widths: {group: channels that are left}.
    """
    labels = [f"{group.name}: {widths[group.name]} of {group.size}" for group in network.groups]
    columns = [layer.path for layer in network.layers]
    left = 12 + 6.2 * max(map(len, labels))
    pitch = 16.0 if len(columns) > 20 else 30.0
    names = 14 + 5.2 * max(map(len, columns))
    svg = _svg(
        left + pitch * len(columns) + names * math.cos(math.pi / 3),
        names + 18 * len(network.groups) + 6,
        "Which layers make and read the channels of each group",
    )
    for number, name in enumerate(columns):
        _slanted(svg, left + pitch * (number + 0.5), names - 8, name, up=True)
    for row, group in enumerate(network.groups):
        y = names + 18 * row + 6
        _text(svg, 0, y + 4, labels[row], "name")
        reach = [n for n, name in enumerate(columns) if name in {*group.layers, *group.consumers}]
        if reach:
            ends = [str(left + pitch * (end + 0.5)) for end in (reach[0], reach[-1])]
            SubElement(svg, "line", {"x1": ends[0], "x2": ends[1], "y1": str(y), "y2": str(y)}).set(
                "class", "thread"
            )
        for number, name in enumerate(columns):
            x = left + pitch * (number + 0.5)
            makes, reads = name in group.layers, name in group.consumers
            if reads:
                _dot(svg, x, y, 6, "reads", f"{name} reads {group.name}")
            if makes:
                _dot(svg, x, y, 4, "makes", f"{name} makes {group.name}")
    return _markup(svg)


def _input(network: Architecture) -> tuple[str, int, int, int]:
    """Name, side, and channels before and after of what the first layer reads."""
    height, width, channels = network.image_shape
    read = network.layers[0].kept_inputs if network.layers else np.ones(channels)
    if len(read) == height * width * channels:  # pixels in a row
        return "input", 1, len(read), int(read.sum())
    return "input", max(height, width), channels, channels


def _svg(width: float, height: float, title: str) -> Element:
    svg = Element(
        "svg",
        {
            "class": "drawing",
            "role": "img",
            "viewBox": f"0 0 {width:.0f} {height:.0f}",
            # Never so small that its letters cannot be read: its box scrolls instead.
            "style": f"width: {width:.0f}px; min-width: {0.75 * width:.0f}px",
        },
    )
    SubElement(svg, "title").text = title
    return svg


def _block(
    svg: Element, x: float, middle: float, width: float, height: float, kind: str
) -> Element:
    sizes: Sequence[tuple[str, float]] = (
        ("x", x),
        ("y", middle - height / 2),
        ("width", width),
        ("height", height),
    )
    return SubElement(svg, "rect", {"class": kind, **{name: f"{v:.2f}" for name, v in sizes}})


def _dot(svg: Element, x: float, y: float, radius: float, kind: str, title: str) -> None:
    dot = SubElement(
        svg, "circle", {"class": kind, "cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": str(radius)}
    )
    SubElement(dot, "title").text = title


def _text(svg: Element, x: float, y: float, text: str, kind: str) -> Element:
    element = SubElement(svg, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "class": kind})
    element.text = text
    return element


def _slanted(svg: Element, x: float, y: float, text: str, *, up: bool = False) -> None:
    element = _text(svg, x, y, text, "up" if up else "down")
    element.set("transform", f"rotate(-60 {x:.1f} {y:.1f})")


def _markup(svg: Element) -> Markup:
    """Names are escaped here: what remains is markup."""
    return Markup(ElementTree.tostring(svg, encoding="unicode"))
