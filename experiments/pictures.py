"""The pictures of the README: a run in a terminal, and the top of its report in a browser.

    pip install pyte playwright                     # and a Chromium: `playwright install chromium`
    python experiments/pictures.py --folder /tmp/pictures
    python experiments/pictures.py --folder /tmp/pictures --browser /usr/bin/chromium

Runs `python -m jaxprune.run --method mcts --preset quick` in a terminal of its own, records what
the terminal showed at the end, and writes `terminal.svg` and `report.png` to
`jaxprune/commands/docs/pictures`.
"""

import argparse
import fcntl
import os
import pty
import re
import struct
import sys
import termios
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.style import Style
from rich.text import Text

PICTURES = Path(__file__).parents[1] / "jaxprune" / "commands" / "docs" / "pictures"
COMMAND = ("python", "-m", "jaxprune.run", "--method", "mcts", "--preset", "quick")
COLUMNS, LINES = 92, 34
KEPT = 200  # lines of the recorded terminal: what scrolled away is in the picture, too
PAGE = {"width": 1100, "height": 1265}
FONTS = "ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace"


def record(command: tuple[str, ...], folder: Path) -> bytes:
    """Runs a command in a terminal, in a folder; returns everything that it wrote there."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        shown = {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(LINES)}
        environment = {name: value for name, value in os.environ.items() if name != "CI"}
        os.execve(sys.executable, [sys.executable, *command[1:]], {**environment, **shown})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    written = bytearray()
    while True:
        try:
            piece = os.read(terminal, 1 << 16)
        except OSError:  # how Linux says that the other side is closed
            break
        if not piece:
            break
        written += piece
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return bytes(written)


def drawn(written: bytes) -> str:
    """What a terminal shows after these bytes, as SVG without fonts from elsewhere."""
    import pyte

    screen = pyte.Screen(COLUMNS, KEPT)
    pyte.ByteStream(screen).feed(written)
    lines = [_line(screen.buffer[row]) for row in range(KEPT)]
    while lines and not lines[-1].plain.strip():
        lines.pop()
    with open(os.devnull, "w") as nowhere:
        console = Console(
            record=True, width=COLUMNS, file=nowhere, force_terminal=True, color_system="truecolor"
        )
        console.print(Text(f"$ {' '.join(COMMAND)}", Style(bold=True)))
        for line in lines:
            console.print(line, no_wrap=True, crop=True)
    svg = console.export_svg(title="jaxprune")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return svg.replace("Fira Code, monospace", FONTS).replace("Fira Code", "ui-monospace")


def _line(cells) -> Text:
    text = Text()
    for column in range(COLUMNS):
        cell = cells[column]
        text.append(cell.data, Style(color=_colour(cell.fg), bold=cell.bold))
    text.rstrip()
    return text


def _colour(name: str) -> str | None:
    if re.fullmatch("[0-9a-fA-F]{6}", name):
        return f"#{name}"
    return {"default": None, "brown": "yellow"}.get(name, name)


def photograph(page: Path, browser: str | None, picture: Path) -> None:
    """The top of a page as a browser shows it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = started.new_page(viewport=PAGE)
        tab.goto(page.resolve().as_uri())
        tab.screenshot(path=picture)
        started.close()
    Image.open(picture).quantize(128).save(picture, optimize=True)  # a third of the bytes


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("--folder", type=Path, required=True, help="an empty one, for the run")
    options.add_argument("--browser", help="a Chromium, instead of playwright's own")
    chosen = options.parse_args()
    folder = chosen.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        sys.exit(f"--folder {folder} is not empty: choose another one")
    (PICTURES / "terminal.svg").write_text(drawn(record(COMMAND, folder)))
    (report,) = folder.glob("runs/*/report.html")
    photograph(report, chosen.browser, PICTURES / "report.png")


if __name__ == "__main__":
    main()
