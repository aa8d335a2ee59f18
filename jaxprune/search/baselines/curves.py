"""Sensitivity curves: the loss as one group becomes narrower and all others stay as they are.

Li et al. (ICLR 2017, sec. 3.2) look at such curves to decide by hand how much of each layer goes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from jaxprune.search.baselines import candidates, widths
from jaxprune.search.baselines.widths import Space
from jaxprune.search.problem import Archive, Problem


class Curves(NamedTuple):
    """The loss that each group's width gives.

    Attributes:
        losses: for each choice of a `Space` float64 `[W]`, in nats, at its W allowed widths, from
            the greatest to the least. Between widths that were scored it is interpolated.
        archive: what was known before, and the networks that were scored for this.
    """

    losses: tuple[np.ndarray, ...]
    archive: Archive


def scored_widths(allowed: np.ndarray, points: int) -> np.ndarray:
    """At which of the allowed widths a curve is scored, ascending, at most `points` + 1.

    The fractions kept are the squares of equally spaced numbers: where few channels are left,
    one more or less matters most.
    """
    wanted = np.linspace(0, 1, points + 1) ** 2 * allowed.max()
    nearest = np.abs(allowed[None] - wanted[:, None]).argmin(1)
    return np.unique([*allowed[nearest], allowed.min(), allowed.max()])


def measure(
    problem: Problem, space: Space, base: np.ndarray, points: int, archive: Archive
) -> Curves:
    """Scores every group at several widths, the others at those of `base`, in one batch.

    Args:
        problem: what scores candidates; the loss is that on the batch of the training split.
        space: the groups and their widths.
        base: int `[C]`, widths.
        points: how many widths of each group are scored besides the greatest, at least 1.
        archive: where the scored networks are appended, without a validation score.
    """
    at = [scored_widths(choice.widths, points) for choice in space.choices]
    tries = [
        np.where(np.arange(len(base)) == c, width, base)
        for c, several in enumerate(at)
        for width in several
    ]
    found = candidates.extend(archive, problem, widths.masks(space, tries), many=True, probes=True)
    ends = np.cumsum([len(several) for several in at])[:-1]
    losses = np.split(found.loss[len(archive.loss) :].astype(np.float64), ends)
    return Curves(
        tuple(
            np.interp(choice.widths, several, loss)
            for choice, several, loss in zip(space.choices, at, losses, strict=True)
        ),
        found,
    )


def next_base(problem: Problem, space: Space, archive: Archive, bases: np.ndarray) -> np.ndarray:
    """The widths that curves are measured around next, int `[C]`.

    First all groups are at their greatest widths, which tells little about networks that are much
    smaller; so uniform pruning to the budget comes second. Then it is the network of least loss
    that was found and is not a base yet.

    Args:
        problem: the budgets.
        space: the groups.
        archive: what was scored so far.
        bases: int `[n, C]`, the widths that curves were measured around before.
    """
    if len(bases) == 0:
        return space.greatest
    if len(bases) == 1:
        return widths.of_masks(
            space, [widths.in_proportion(problem, space, np.ones(len(bases[0])))]
        )[0]
    chosen = np.flatnonzero((archive.cost <= problem.budget) & ~np.isnan(archive.validation))
    order = chosen[np.argsort(archive.loss[chosen], kind="stable")]
    found = widths.of_masks(space, archive.masks[order])
    new = ~(found[:, None] == bases).all(-1).any(-1)
    return found[int(new.argmax())]


class State(NamedTuple):
    """The state of a search that measures curves again and again.

    Attributes:
        archive: the candidates found so far, those that the curves were measured with included.
        iteration: number of updates made, int32 `[]`.
        bases: the widths that curves were measured around, int32 `[iteration, C]`.
    """

    archive: Archive
    iteration: np.int32
    bases: np.ndarray


def init(config: Any, problem: Problem, key: Array) -> State:
    """The state before any candidate was evaluated; nothing is random."""
    del config, key
    none = np.zeros((0, len(widths.space(problem).choices)), np.int32)
    return State(candidates.empty(problem.structure.num_channels), np.int32(0), none)


def finished(config: Any, state: State) -> bool:
    """Whether the curves were measured as often as `config.iterations` asks."""
    return int(state.iteration) >= config.iterations


def update(
    suggest: Callable[[Any, Problem, Space, Curves, np.ndarray], np.ndarray],
    config: Any,
    problem: Problem,
    state: State,
) -> tuple[State, dict[str, float]]:
    """Measures the curves and tries what they suggest.

    Args:
        suggest: `(config, problem, space, curves, base)` -> masks `[K, N]` within the budget, K
            always the same, so that nothing is compiled anew.
        config: the settings, with `iterations` and `points`.
        problem: what to prune and to which budget.
        state: the state after the previous update.
    """
    space = widths.space(problem)
    base = next_base(problem, space, state.archive, state.bases)
    measured = measure(problem, space, base, config.points, state.archive)
    masks = suggest(config, problem, space, measured, base)
    archive = candidates.extend(measured.archive, problem, masks, many=True)
    bases = np.concatenate([state.bases, base[None].astype(np.int32)])
    state = State(archive, np.int32(state.iteration + 1), bases)
    return state, candidates.metrics(archive, problem.budget, int(state.iteration))


def convex(positions: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The greatest convex curve below the points, at the same positions (which ascend), `[W]`."""
    hull: list[int] = []
    for new in range(len(positions)):
        while len(hull) > 1:
            first, last = hull[-2:]
            rise = (values[new] - values[first]) * (positions[last] - positions[first])
            if (values[last] - values[first]) * (positions[new] - positions[first]) < rise:
                break
            hull.pop()
        hull.append(new)
    return np.interp(positions, positions[hull], values[hull])
