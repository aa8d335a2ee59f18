"""Scores that are looked up if a candidate was scored before."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxprune.scoring.evaluation import Scores

MOST = 2**16
"""Candidates that are remembered."""


class Remembering:
    """Scores each candidate once.

    Searches come back to networks that they know: after its first layers, two episodes are often
    the same. Only for evaluators that score a candidate the same whatever is scored with it, such
    as `Evaluator`: then a search that is resumed, and remembers nothing, goes on bit for bit.

    Args:
      evaluate: masks [K, N] -> scores [K].
    """

    def __init__(self, evaluate: Callable[[Any], Scores]):
        self._evaluate = evaluate
        self._known: dict[bytes, np.ndarray] = {}

    def __call__(self, masks: Any) -> Scores:
        """The scores of candidates, [..., N] with 0 = removed -> [...]."""
        masks = np.asarray(masks, np.float32)
        flat = masks.reshape(-1, masks.shape[-1])
        names = [hashlib.blake2b(mask, digest_size=16).digest() for mask in flat]
        found = {name: self._known[name] for name in names if name in self._known}
        new = {name: k for k, name in enumerate(names) if name not in found}
        if new:
            found |= zip(new, np.stack(self._evaluate(flat[list(new.values())]), 1), strict=True)
        if len(self._known) + len(new) > MOST:
            self._known.clear()
        self._known |= {name: found[name] for name in new}
        columns = np.stack([found[name] for name in names], 1)
        return Scores(*(column.reshape(masks.shape[:-1]) for column in columns))
