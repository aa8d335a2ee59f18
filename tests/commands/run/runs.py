"""What tests of the command share: reading results, and stopping processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

import jaxprune


def read(path: Path):
    return json.loads(path.read_text())


def lasting(result):
    """A result without its times."""
    if isinstance(result, dict):
        return {
            name: lasting(value)
            for name, value in result.items()
            if name not in ("latency_ms", "seconds")
        }
    return result


def assert_alike(one: Path, other: Path):
    """Two finished runs have the same result, times aside, and the same network, bit for bit."""
    assert lasting(read(one / "result.json")) == lasting(read(other / "result.json"))
    networks = (jaxprune.load(folder).params for folder in (one, other))
    for left, right in zip(*map(jax.tree.leaves, networks), strict=True):
        np.testing.assert_array_equal(left, right)


# A job in the background ignores Ctrl-C, and hands that on to what it starts.
COMMAND = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("jaxprune.run", run_name="__main__", alter_sys=True)
"""


# The disk is full once a file is there: whatever is written from then on fails.
FILLS_UP = """
import pathlib, resource, signal, sys, threading, time
def fill_up(milestone):
    while not milestone.exists():
        time.sleep(0.001)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
threading.Thread(target=fill_up, args=[pathlib.Path(sys.argv.pop(1))], daemon=True).start()
"""


def start(words, *, disk_full_at: Path | None = None):
    code, first = COMMAND, []
    if disk_full_at is not None:
        code, first = FILLS_UP + COMMAND, [str(disk_full_at)]
    environment = {**os.environ, "PYTHONPATH": ":".join(path for path in sys.path if path)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *first, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def stop_when(process, milestone: Path, how: signal.Signals) -> str:
    """Stops a process when a file appears, and returns what it said on stderr."""
    until = time.monotonic() + 120
    while not milestone.exists():
        assert process.poll() is None, f"ended before {milestone}: {process.stderr.read()}"
        assert time.monotonic() < until, f"{milestone} did not appear"
        time.sleep(0.005)
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    return errors
