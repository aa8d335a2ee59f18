"""One small rule per primitive: how the positions of its operands' axes meet, and how it shrinks.

The table `RULES` is looked up by primitive name. To teach the package a new primitive, add a
function to one of the modules here; a primitive that has none freezes everything that it touches,
which is never wrong. `base` says what a rule consists of.
"""

from jaxprune.dependency.rules import (
    contractions,
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
}
"""What is known of each primitive, by its name."""
