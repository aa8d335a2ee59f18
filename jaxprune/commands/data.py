"""`jaxprune data prepare <dataset>`: prepares a dataset without TensorFlow."""

import argparse
import sys
from collections.abc import Sequence

from jaxprune.commands.console import ended
from jaxprune.training.data.prepare import NAMES, prepare


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 2 if what was typed cannot work."""
    parser = argparse.ArgumentParser(prog="jaxprune data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "prepare", help="download and prepare a dataset", description="Prepares a dataset."
    )
    command.add_argument("name", choices=NAMES, help="the dataset")
    command.add_argument(
        "--data-dir",
        help="folder of the prepared datasets (default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)",
    )
    command.add_argument("--raw", help="folder with the original files, instead of a download")
    options = parser.parse_args(arguments)

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def prepared() -> None:
        print(prepare(options.name, options.data_dir, raw=options.raw, report=report))

    return ended(prepared)


if __name__ == "__main__":
    sys.exit(main())
