"""Large pages of memory for the process of a command, which make training on a CPU quicker.

XLA asks for some hundred megabytes anew in each training step, and Linux hands them out and maps
them in pages of 4 KiB. In pages of 2 MiB a step of ResNet-20 takes a sixth less
(`experiments/results/huge_pages/cpu.md`). Most distributions give them only to who asks, and glibc
asks where an environment variable says so that it reads once, when a process begins: so a command
that trains begins again, with the variable, before it has imported anything large.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

TUNABLES = "GLIBC_TUNABLES"
HUGE_PAGES = "glibc.malloc.hugetlb"
SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
ON_REQUEST = "[madvise]"
"""What the switch says where huge pages go to those who ask for them."""
GLIBC = (2, 35)
"""The first version that can ask."""


def begin_again() -> None:
    """Starts this process again with huge pages, if it lacks them and can have them.

    For a program's first lines: it has the same number, arguments and standard streams afterwards.
    Who has set ``glibc.malloc.hugetlb`` in ``GLIBC_TUNABLES``, to 0 for example, is left alone.
    """
    environment = asking(os.environ)
    if environment is None or not on_request():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(sys.executable, sys.orig_argv, environment)
    except OSError:  # then with small pages
        return


def asking(environment: Mapping[str, str]) -> dict[str, str] | None:
    """An environment in which glibc asks for huge pages; None if its user has decided."""
    before = environment.get(TUNABLES, "")
    if HUGE_PAGES in before:
        return None
    tunables = ":".join(filter(None, [before, f"{HUGE_PAGES}=1"]))
    return {**environment, TUNABLES: tunables}


def on_request() -> bool:
    """Whether this system gives huge pages to those who ask, and its C library can."""
    if not sys.platform.startswith("linux") or not sys.executable:
        return False
    try:
        library, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        numbers = tuple(int(number) for number in version.split(".")[:2])
        return library == "glibc" and numbers >= GLIBC and ON_REQUEST in SWITCH.read_text()
    except (OSError, ValueError):  # another C library, or a container without the switch
        return False
