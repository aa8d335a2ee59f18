"""The Pareto front: what no other candidate beats in both cost and accuracy."""

from typing import Any

import numpy as np


def front(cost: Any, accuracy: Any) -> np.ndarray:
    """The candidates that none other beats: none is as cheap and as accurate and better in one.

    Args:
        cost: `[n]`, lower is better.
        accuracy: `[n]`, higher is better. Candidates with a NaN in either take no part.

    Returns:
        int `[m]`: their indices, by rising cost; of equal candidates the first.
    """
    cost, accuracy = np.asarray(cost, float), np.asarray(accuracy, float)
    known = np.flatnonzero(np.isfinite(cost) & np.isfinite(accuracy))
    # By cost, among equals the most accurate first: who raises the accuracy is on the front.
    order = known[np.lexsort((-accuracy[known], cost[known]))]
    ahead = np.maximum.accumulate(np.append(-np.inf, accuracy[order]))[:-1]
    return order[accuracy[order] > ahead]
