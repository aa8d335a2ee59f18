"""The cost of a network, how much of it may remain, and which channels to remove.

    costs.macs(structure, masks)                       # traceable; params and neurons likewise
    costs.exact(structure, masks, "macs")              # the same as an integer
    masks = costs.select(structure, scores, "macs", 0.5)
    small = costs.prune(apply, params, x, "macs", 0.5)

`budgets` parses the cost allowed ("30%", "0.5ms", "=200000"); `limits` restricts group widths.
"""

from typing import TYPE_CHECKING

from jaxprune.costs.counting import (
    NAMES,
    dense,
    exact,
    get,
    latencies,
    latency,
    macs,
    neurons,
    params,
    smallest,
    sparsity,
    times,
)
from jaxprune.costs.limits import Kept, Limits
from jaxprune.costs.pruning import prune
from jaxprune.costs.schedules import SCHEDULES, shares
from jaxprune.costs.selection import select
from jaxprune.lazy import submodules

__all__ = [
    "NAMES",
    "SCHEDULES",
    "Kept",
    "Limits",
    "dense",
    "exact",
    "get",
    "latencies",
    "latency",
    "macs",
    "neurons",
    "params",
    "prune",
    "select",
    "shares",
    "smallest",
    "sparsity",
    "times",
]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
