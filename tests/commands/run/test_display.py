"""What a person sees of a run: live on a terminal, plain lines in pipes and in CI."""

import os
import pty
import re
import subprocess
import sys

import pytest

PHASES = """
import time
from jaxprune.commands.run import display

with display.make() as shown:
    shown.begin("search", 10)
    shown.step(3, "best 70.31% in budget, 12 candidates/s, iteration 3, episode 120")
    time.sleep(0.3)
    shown.say("a line that stays")
    shown.end("20 candidates")
"""

ENVIRONMENT = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin", "COLUMNS": "80"}


def on_a_terminal(**environment):
    """What is shown on a terminal of 80 columns, as lines without colours."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PHASES], stdout=theirs, env=ENVIRONMENT | environment
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    return [line for line in re.split(r"[\r\n]+", text) if line.strip()]


def test_live_display_fits_a_terminal():
    lines = on_a_terminal(TERM="xterm")
    assert max(map(len, lines)) <= 80
    assert any("best 70.31% in budget, 12 candidates/s" in line for line in lines)
    assert "a line that stays" in [line.strip() for line in lines]
    last = lines[-1]
    assert "search" in last
    assert "100%" in last
    assert "20 candidates" in last


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": "xterm", "CI": "true"}])
def test_plain_lines_where_nobody_looks(environment):
    lines = [re.sub(r"^\[ *[0-9.]+ s\] ", "", line) for line in on_a_terminal(**environment)]
    assert lines == ["a line that stays", "search: 20 candidates"]
