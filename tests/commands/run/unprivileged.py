"""Commands in a process of their own that obeys the permissions of files, also as root."""

import os
import subprocess
import sys

DROP = """
import ctypes, os, runpy, sys
if os.geteuid() == 0:
    libc = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: out of the bounding set
        if libc.prctl(24, capability, 0, 0, 0):
            sys.exit(77)
os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])
"""
CANNOT_DROP = 77


def run(words, folder):
    """A finished `python -m WORDS...` in a folder, and for nothing else than what it may touch."""
    path = ":".join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-c", DROP, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
