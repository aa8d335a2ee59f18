"""Everything on disk, written whole or not at all.

`checkpoint` stores pytrees of arrays in folders, `arrays` in single files, and `run_folder` is the
folder of a run with all that resuming needs. `trees` and `whole` are what these have in common;
`interrupts` makes Ctrl-C wait until something is written; `functions` finds functions in files of
the user's.
"""

from typing import TYPE_CHECKING

from jaxprune.lazy import submodules

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
