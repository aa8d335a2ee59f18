"""``python -m jaxprune COMMAND``, the same as ``jaxprune COMMAND``."""

import sys

from jaxprune.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
