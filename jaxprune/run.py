"""``python -m jaxprune.run``, the same as ``jaxprune run``."""

import sys

from jaxprune.commands.run.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
