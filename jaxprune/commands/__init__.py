"""What a person types and reads.

Each command is a module with `main(argv)`, which returns an exit code:

    run      from a dataset to a small network and its report
    report   a run, or several compared, as one HTML page
    export   a run's network in a form that other programs take
    bench    a run's dense network against its compact one on this device
    sweep    many runs, one after the other, and their table
    data     datasets, prepared without TensorFlow
    docs     how-to pages and API reference as a static site

`main` finds them by name, `console` says how they end, `config` and `presets` hold their settings.
"""

from typing import TYPE_CHECKING

from jaxprune.lazy import submodules

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
