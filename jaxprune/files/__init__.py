"""What lies on disk, whole or not at all.

`checkpoint` keeps pytrees of arrays, `run_folder` is the folder of a run with all that resuming
needs, and `interrupts` lets Ctrl-C wait until something is written.
"""
