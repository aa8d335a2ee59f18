"""The picture of the architecture page: the way from a network to a smaller one, room by room.

    python experiments/flow_picture.py

Writes `jaxprune/commands/docs/pictures/flow.svg`.
"""

from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

PICTURE = Path(__file__).parents[1] / "jaxprune" / "commands" / "docs" / "pictures" / "flow.svg"


class Box(NamedTuple):
    """A step: where it stands, the room it is in, and what it does there."""

    x: float
    y: float
    room: str
    step: str


BOXES = {
    "model": Box(0, 3, "networks", "adapters, bundled models"),
    "trained": Box(0, 2, "training", "fit the weights"),
    "structure": Box(1, 3, "dependency", "trace: groups of channels"),
    "worth": Box(1, 2, "importance", "what a channel is worth"),
    "costs": Box(2, 1, "costs", "budget and limits"),
    "search": Box(2, 2, "search", "an agent proposes masks"),
    "scores": Box(2, 3, "scoring", "evaluate all in one call"),
    "tuned": Box(3, 2, "training", "fine-tune the best"),
    "saved": Box(3, 1, "networks", "save and export"),
    "report": Box(3, 0, "commands", "report"),
}
ARROWS = [
    ("model", "trained", "apply, params"),
    ("model", "structure", "apply"),
    ("trained", "worth", "weights"),
    ("structure", "worth", "groups"),
    ("worth", "search", "order"),
    ("costs", "search", "cost(masks)"),
    ("search", "scores", "masks"),
    ("scores", "search", "scores"),
    ("search", "tuned", "candidates"),
    ("tuned", "saved", "compact network"),
    ("saved", "report", "result"),
]
WIDTH, HEIGHT, ACROSS, DOWN = 2.5, 0.66, 3.5, 1.15
INK, PAPER, LINE = "#1f2933", "#eef3f8", "#5b7083"


def place(box: Box) -> tuple[float, float]:
    """The middle of a box."""
    return box.x * ACROSS, box.y * DOWN


def draw() -> None:
    """Draws boxes and arrows, and writes the file."""
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "flow", "font.size": 9})
    figure, axes = plt.subplots(figsize=(11, 4.2))
    for box in BOXES.values():
        x, y = place(box)
        corner = (x - WIDTH / 2, y - HEIGHT / 2)
        style = "round,pad=0.02,rounding_size=0.08"
        axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, style, fc=PAPER, ec=LINE))
        axes.text(x, y + 0.12, box.room, ha="center", va="center", weight="bold", color=INK)
        axes.text(x, y - 0.14, box.step, ha="center", va="center", size=8, color=INK)
    both_ways = {(a, b) for a, b, _ in ARROWS if (b, a) in {(c, d) for c, d, _ in ARROWS}}
    for start, end, label in ARROWS:
        (x0, y0), (x1, y1) = place(BOXES[start]), place(BOXES[end])
        if x0 == x1:  # up or down; beside each other where there are two
            shift = 0.25 * (1 if y1 > y0 else -1) if (start, end) in both_ways else 0
            step = HEIGHT / 2 * (1 if y1 > y0 else -1)
            ends = ((x0 + shift, y0 + step * 1.08), (x1 + shift, y1 - step * 1.08))
            side = "right" if shift < 0 else "left"
            at = (x0 + shift + (-0.06 if shift < 0 else 0.06), (y0 + y1) / 2)
            axes.text(*at, label, ha=side, va="center", size=7.5, color=LINE)
        else:
            ends = ((x0 + WIDTH / 2 * 1.03, y0), (x1 - WIDTH / 2 * 1.03, y1))
            at = ((x0 + x1) / 2, (y0 + y1) / 2 + 0.09)
            axes.text(*at, label, ha="center", va="bottom", size=7.5, color=LINE)
        arrow = FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=9, color=LINE, lw=1)
        axes.add_patch(arrow)
    axes.set(xlim=(-1.4, 3 * ACROSS + 1.4), ylim=(-0.45, 3 * DOWN + 0.45))
    axes.axis("off")
    figure.savefig(PICTURE, bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    draw()
