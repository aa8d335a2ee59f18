"""One small rule per primitive: how it relates the axes of its operands, and how it shrinks.

`RULES` is looked up by the primitive's name. To support a new primitive, add a function to one of
the modules here; a primitive without a rule freezes everything it touches, which is never wrong.
`base` defines what a rule consists of.
"""

from jaxprune.dependency.rules import (
    collectives,
    contractions,
    effects,
    elementwise,
    indexing,
    movement,
    reductions,
    windows,
)
from jaxprune.dependency.rules.base import Kept, Rule, bind, freeze_everything, take

__all__ = ["RULES", "Kept", "Rule", "bind", "freeze_everything", "take"]

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **contractions.RULES,
    **reductions.RULES,
    **windows.RULES,
    **movement.RULES,
    **indexing.RULES,
    **effects.RULES,
    **collectives.RULES,
}
"""{primitive name: rule}."""
