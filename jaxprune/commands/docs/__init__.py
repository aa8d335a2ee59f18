"""How-to pages, and the API reference that is built from them and from the docstrings.

The pages are the Markdown files beside this module; they can be read as they are.
``jaxprune docs --out FOLDER`` makes a static site of them and of the public modules.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from jaxprune.lazy import submodules

__all__ = ["PAGES"]

ORDER = (
    "choose_a_method",
    "set_a_budget",
    "prune_your_own_model",
    "bring_your_own_task",
    "reproduce_a_table",
    "many_devices",
    "add_a_method",
    "add_a_primitive_rule",
    "architecture",
    "glossary",
)

PAGES: tuple[Path, ...] = tuple(Path(__file__).with_name(f"{name}.md") for name in ORDER)
"""The pages, in the order of reading."""

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
