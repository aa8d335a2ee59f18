"""Evolution of widths.

Regularised evolution ("Regularized Evolution for Image Classifier Architecture Search", Real et
al., AAAI 2019, algorithm 1): of a random sample of the population the best becomes a parent, its
mutated child joins the population, and the oldest member leaves it, however good. A network here is
the widths of its groups, of which each keeps its most important channels.

A mutation makes one group wider or narrower, sometimes two; then all groups grow or shrink in
proportion until the budget is just met, so that every network is within it.

Departures from the paper: a whole batch of children is born at once, so that they are scored
together. The population begins with uniform and global pruning and what sensitivity curves
suggest, and grows from mutations of its members until it is complete; a child that was scored
before is drawn anew a few times. Fitness is the loss on the batch of the training split.
"""

import functools
from dataclasses import dataclass

import jax
import numpy as np

from jaxprune.search.baselines import candidates, curves, proposals, sensitivity, widths
from jaxprune.search.baselines.magnitude import global_l1, uniform_l1
from jaxprune.search.baselines.proposals import State
from jaxprune.search.baselines.widths import Space
from jaxprune.search.problem import Archive, Problem
from jaxprune.search.ranges import AT_LEAST_ONE, POSITIVE, require

DRAWS = 8
"""How often a child is drawn at most until it is one that was not scored before."""


@dataclass(frozen=True)
class Config:
    """Settings of the evolution."""

    candidates: int = 256
    """Networks scored in all, those that the curves are measured with included."""

    batch: int = 16
    """Children of one generation, which are scored together."""

    population: int = 64
    """Members of the population; the paper's is 100 of 20,000 networks."""

    sample: int = 16
    """Members of the population that the parent is the best of; the paper's is 25."""

    step: float = 0.5
    """Standard deviation of the logarithm of the factor by which a mutation changes a width."""

    points: int = 8
    """Widths of each group that its sensitivity curve is scored at, for the first members; 0: the
    population begins without them."""

    def __post_init__(self) -> None:
        require(self, AT_LEAST_ONE, "candidates", "batch", "population", "sample")
        require(self, POSITIVE, "step")
        if self.points < 0:
            raise ValueError(f"points must not be negative, not {self.points}")


def finished(config: Config, state: State) -> bool:
    """Whether as many networks were scored as was asked."""
    return len(state.archive.cost) >= config.candidates


def update(config: Config, problem: Problem, state: State) -> tuple[State, dict[str, float]]:
    """One generation. The youngest of the archive within the budget are the population."""
    space = widths.space(problem)
    rng = np.random.default_rng([*np.asarray(jax.random.key_data(state.key)), int(state.iteration)])
    archive = state.archive
    first: list[np.ndarray] = []
    if not int(state.iteration):
        archive, first = _first(config, problem, space, archive)
    known = {mask.tobytes() for mask in archive.masks}
    parents = np.stack(first) if first else archive.masks[members(config, problem, archive)]
    children = first[: config.batch]
    while len(children) < config.batch:
        if first or len(parents) < config.population:
            parent = parents[rng.integers(len(parents))]
        else:
            parent = parents[_fittest(config, problem, archive, rng)]
        child = _child(config, problem, space, parent, rng, known)
        known.add(child.tobytes())
        children.append(child)
    archive = candidates.extend(archive, problem, np.stack(children), many=True)
    state = State(archive, np.int32(state.iteration + 1), state.key)
    return state, candidates.metrics(archive, problem.budget, int(state.iteration))


def members(config: Config, problem: Problem, archive: Archive) -> np.ndarray:
    """The population as indices of the archive, the oldest first, int `[at most population]`."""
    return np.flatnonzero(archive.cost <= problem.budget)[-config.population :]


def _first(
    config: Config, problem: Problem, space: Space, archive: Archive
) -> tuple[Archive, list[np.ndarray]]:
    """The first members of the population, and the archive with what measuring curves scored."""
    first = [np.asarray(uniform_l1(problem)), np.asarray(global_l1(problem))]
    if config.points:
        measured = curves.measure(problem, space, space.greatest, config.points, archive)
        archive = measured.archive
        first += list(sensitivity.answers(None, problem, space, measured, space.greatest))
    return archive, list({mask.tobytes(): mask for mask in first}.values())


def _fittest(config: Config, problem: Problem, archive: Archive, rng: np.random.Generator) -> int:
    """Which member is the parent: the one of least loss in a sample."""
    loss = archive.loss[members(config, problem, archive)]
    sample = rng.choice(len(loss), min(config.sample, len(loss)), replace=False)
    return int(sample[np.nan_to_num(loss[sample], nan=np.inf).argmin()])


def _child(
    config: Config,
    problem: Problem,
    space: Space,
    parent: np.ndarray,
    rng: np.random.Generator,
    known: set[bytes],
) -> np.ndarray:
    """A mutation of a parent, one that was not scored before unless all draws were."""
    parts = widths.of_masks(space, [parent])[0] / space.greatest
    for draw in range(DRAWS):
        chosen = rng.choice(len(parts), min(len(parts), 1 + (rng.random() < 0.5)), replace=False)
        factors = np.ones(len(parts))
        # Larger steps where smaller ones lead to nothing new.
        factors[chosen] = np.exp(rng.normal(0, config.step * (1 + draw / 2), len(chosen)))
        child = widths.in_proportion(problem, space, parts * factors)
        if child.tobytes() not in known:
            break
    return child


init = proposals.init
search = functools.partial(proposals.search, update, finished)
