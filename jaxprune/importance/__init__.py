"""How much each channel matters: one score per channel, larger meaning keep.

Every criterion scores the channels of groups, not the filters of layers: what several layers
produce together stays or goes as one, and each docstring says how their parts are put together.
All return float32 [num_channels], group after group; `structure.unflatten` gives them by group.

    scores = importance.l1(structure, params)
    scores = importance.taylor(structure, params, gradients)

For a criterion of one's own, `producing_kernels` gives the weights and `over_producers` adds values
of their shapes up for each channel.
"""

from typing import TYPE_CHECKING

from jaxprune.importance.criteria import NAMES, Criterion, check, checked, get, score
from jaxprune.importance.curvature import grasp, obd
from jaxprune.importance.lookahead import lookahead
from jaxprune.importance.reconstruction import reconstruction
from jaxprune.importance.sensitivity import activation, snip, taylor, taylor_activation
from jaxprune.importance.weights import (
    batch_norm_scale,
    fpgm,
    l1,
    l2,
    lamp,
    over_producers,
    producing_kernels,
    random,
    reading_axes,
)
from jaxprune.lazy import submodules

__all__ = [
    "NAMES",
    "Criterion",
    "activation",
    "batch_norm_scale",
    "check",
    "checked",
    "fpgm",
    "get",
    "grasp",
    "l1",
    "l2",
    "lamp",
    "lookahead",
    "obd",
    "over_producers",
    "producing_kernels",
    "random",
    "reading_axes",
    "reconstruction",
    "score",
    "snip",
    "taylor",
    "taylor_activation",
]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
