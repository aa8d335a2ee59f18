"""Matplotlib figures as drawings inside an HTML page, in the page's own letters and colours."""

import itertools
import re
from io import StringIO

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from jaxprune.commands.report import figures

VARIABLES = {
    figures.INK: "ink",
    "#000000": "ink",
    figures.QUIET: "mark",
    figures.FAINT: "faint",
    figures.PAPER: "paper",
    figures.ACCENT: "accent",
    figures.STAR: "star",
    figures.BLUE: "blue",
    figures.PURPLE: "purple",
    figures.GREY: "grey",
    figures.GREEN: "green",
}
"""{colour of a figure: the variable of the page's style that stands for it, light or dark}."""

_PREAMBLE = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_OF_ITS_OWN = re.compile(r"<(metadata|style)\b.*?</\1>", re.DOTALL)
_NAMES = re.compile(r'( id="|url\(#|href="#)')
_SIZE = re.compile(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', re.DOTALL)
_FONT = re.compile(r"font: ([\d.]+px) [^;\"]*")  # of matplotlib 3.10, 3.11 writes the two apart
_FAMILY = re.compile(r"font-family: [^;\"]*;? ?")


def inline(figure: Figure, title: str, number: int) -> Markup:
    """A figure as an svg element.

    Args:
        figure: Drawn with the colours of `figures`.
        title: What it shows, for those who cannot see it.
        number: Tells the figures of a page apart: names inside of them must not meet.
    """
    stream = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "jaxprune"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = _OF_ITS_OWN.sub("", _PREAMBLE.sub("", stream.getvalue()))
    text = _NAMES.sub(rf"\1figure{number}-", text)
    text = _FAMILY.sub("", _FONT.sub(r"font-size: \1", text))
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    box = _SIZE.search(text)
    assert box is not None
    width = float(box[1].split()[2])
    opening = (
        f'<svg class="plot" role="img" viewBox="{box[1]}" style="max-width: {width * 4 / 3:.0f}px">'
        f"<title>{escape(title)}</title>"
    )
    return Markup(text[: box.start()] + opening + text[box.end() :])


class Drawer:
    """Makes the figures of one page, numbered."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def __call__(self, figure: Figure, title: str) -> Markup:
        """A figure as an svg element; see `inline`."""
        return inline(figure, title, next(self._numbers))
