"""Who decides which channels stay.

A search is given a `problem.Problem` (what masks cost and how good they are) and returns a
`problem.SearchResult`. `envs` turn the decision into steps, `agents` learn to take them, and
`baselines` do without; `methods` knows all of them by name.
"""

from typing import TYPE_CHECKING

from jaxprune.lazy import submodules

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
