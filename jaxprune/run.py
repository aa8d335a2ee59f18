"""``python -m jaxprune.run``, the same as ``jaxprune run``."""

import sys

from jaxprune.commands import huge_pages
from jaxprune.commands.main import main

if __name__ == "__main__":
    huge_pages.begin_again()
    sys.exit(main(["run", *sys.argv[1:]]))
