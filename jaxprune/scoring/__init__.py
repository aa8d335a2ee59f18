"""How good many candidate networks are, quickly.

    masked = jaxprune.masked(apply, structure)
    scores = scoring.evaluate(masked, params, masks, x, y)   # masks [K, size] -> Scores, [K] each

`evaluation` scores K masks in one compiled call, `own_widths` each at its own widths on a CPU.
Under both lie `lowering` (the same function without XLA's slow paths), `memory`, `devices` and
`threads`.
"""

from typing import TYPE_CHECKING

from jaxprune.lazy import submodules
from jaxprune.scoring.evaluation import Scores, evaluate

__all__ = ["Scores", "evaluate"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
