"""The templates of the report's pages, and how they are filled."""

import functools
from typing import Any

import jinja2

from jaxprune.commands.report import wording
from jaxprune.version import __version__

GENERATOR = "jaxprune"
"""What the pages name as their maker."""

FILTERS = ("amount", "asked", "budget", "change", "cost_name", "duration", "percent", "points")
"""The functions of `wording` that templates use."""


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxprune.commands.report"),
        # Names of costs, layers and folders are the user's.
        autoescape=lambda name: not str(name).endswith(".md"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({name: getattr(wording, name) for name in FILTERS})
    return environment


def render(name: str, **values: Any) -> str:
    """A page from its template.

    Args:
        name: The template's file.
        values: What it shows.
    """
    template = _environment().get_template(name)
    return template.render(generator=GENERATOR, version=__version__, costs=wording.COSTS, **values)
