"""Drawings of a network as SVG: its layers to scale, and where its groups sit."""

import math
from collections.abc import Mapping
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np
from markupsafe import Markup

from jaxprune.commands.report.architecture import Architecture

WIDTH = 960.0
"""Units that the columns of a drawing may take; a unit is at most a pixel."""

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
    # Columns are as far apart as their numbers need.
    pitches = [max(block + GAP, 26 if len(columns) <= 30 else 14) for block in widths]
    left, total = 78.0, 78.0 + sum(pitches) + 30
    names = 12 + 5.2 * max(len(name) for name, *_ in columns)
    middles = (24 + TALLEST / 2, 24 + TALLEST * 1.5 + 34)
    bottom = 24 + 2 * TALLEST + 42
    svg = _svg(
        total, bottom + names, f"{len(network.layers)} layers before and after pruning, to scale"
    )
    for middle, word in zip(middles, ("before", "after"), strict=True):
        _text(svg, "label", 0, middle + 4, word)
    x = left
    for (name, side, before, after), block, pitch in zip(columns, widths, pitches, strict=True):
        for middle, count, kind in ((middles[0], before, "was"), (middles[1], after, "left")):
            place = x + (pitch - block) / 2
            if kind == "left":
                _block(svg, "gone", place, middle, block, tall * before)
            title = f"{name}: {count} of {before} channels, map of side {side}"
            _block(svg, kind, place, middle, block, tall * count, title)
            if len(columns) <= 30:
                top = middle - tall * before / 2 - 5
                _text(svg, "count", x + pitch / 2, top, str(count))
        _text(svg, "down", x + pitch / 2, bottom, name, slanted=True)
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
    place = {name: left + pitch * (number + 0.5) for number, name in enumerate(columns)}
    for name, x in place.items():
        _text(svg, "up", x, names - 8, name, slanted=True)
    for row, group in enumerate(network.groups):
        y = names + 18 * row + 6
        _text(svg, "name", 0, y + 4, labels[row])
        reach = [x for name, x in place.items() if name in {*group.layers, *group.consumers}]
        if reach:
            _add(svg, "line", "thread", x1=reach[0], x2=reach[-1], y1=y, y2=y)
        for name, x in place.items():
            if name in group.consumers:
                _add(svg, "circle", "reads", f"{name} reads {group.name}", cx=x, cy=y, r=6)
            if name in group.layers:
                _add(svg, "circle", "makes", f"{name} makes {group.name}", cx=x, cy=y, r=4)
    return _markup(svg)


def _input(network: Architecture) -> tuple[str, int, int, int]:
    """Name, side, and channels before and after of what the first layer reads."""
    height, width, channels = network.image_shape
    read = network.layers[0].kept_inputs if network.layers else np.ones(channels)
    if len(read) == height * width * channels:  # pixels in a row
        return "input", 1, len(read), int(read.sum())
    return "input", max(height, width), channels, channels


def _svg(width: float, height: float, title: str) -> Element:
    # Never so small that its letters cannot be read: its box scrolls instead.
    style = f"width: {width:.0f}px; min-width: {0.75 * width:.0f}px"
    box = f"0 0 {width:.0f} {height:.0f}"
    svg = Element("svg", {"class": "drawing", "role": "img", "viewBox": box, "style": style})
    SubElement(svg, "title").text = title
    return svg


def _add(svg: Element, tag: str, kind: str, title: str | None = None, **sizes: float) -> Element:
    """Adds an element of a class of the page's style, with sizes to a hundredth."""
    numbers = {name: f"{size:.2f}" for name, size in sizes.items()}
    element = SubElement(svg, tag, {"class": kind, **numbers})
    if title is not None:
        SubElement(element, "title").text = title
    return element


def _block(
    svg: Element,
    kind: str,
    x: float,
    middle: float,
    width: float,
    height: float,
    title: str | None = None,
) -> None:
    _add(svg, "rect", kind, title, x=x, y=middle - height / 2, width=width, height=height)


def _text(svg: Element, kind: str, x: float, y: float, text: str, *, slanted: bool = False) -> None:
    element = _add(svg, "text", kind, x=x, y=y)
    element.text = text
    if slanted:
        element.set("transform", f"rotate(-60 {x:.1f} {y:.1f})")


def _markup(svg: Element) -> Markup:
    """Names are escaped here: what remains is markup."""
    return Markup(ElementTree.tostring(svg, encoding="unicode"))
