"""Scores of candidates at a cost that follows what remains of the network.

Candidates are evaluated each in the pieces of `stages` at its own rounded widths. The pieces are
dispatched from the host, by several threads, which do not wait for them. What two consecutive
candidates have in common is computed once: they are sorted, so that those which agree on the first
groups follow each other.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune import threads
from jaxprune.bucketed.candidates import Candidate, Choices, read
from jaxprune.bucketed.operands import work
from jaxprune.bucketed.plans import Plan, Planner
from jaxprune.bucketed.positions import Positions
from jaxprune.bucketed.stages import Stages, run, stages
from jaxprune.dependency import Structure, masked
from jaxprune.dependency.joints import slots
from jaxprune.evaluate import Scores, evaluate

SEARCHING = 40_000_000
COMPILING = 2_000_000_000
"""Multiply-adds in the time that the pieces of one layer take to be compiled, in all; and in a
search's part of it for each of its candidates, of which there are about a thousand, at some twenty
widths."""

MOST_PROGRAMS = 4000
"""Compiled programs that are kept; each takes memory mappings, of which a process may have
65,000."""


def pays(structure: Structure, examples: int, *, few: bool = False) -> bool:
    """Whether candidates are predicted to be scored faster so than all at full width together.

    On a CPU, if what depends on the masks is so much work that compiling its pieces takes less than
    scoring at full width, which computes the rest but once for all candidates. A rule of counts
    alone, so that a search always goes one way.

    Args:
      structure: the network's structure.
      examples: how many examples a candidate is scored on.
      few: whether there are so few candidates that most need pieces of their own to be compiled.
    """
    least = COMPILING if few else SEARCHING
    reading = {path for group in structure.groups for path in group.consumers}
    needed = examples * sum(layer.macs for layer in structure.layers if layer.path in reading)
    return jax.default_backend() == "cpu" and needed >= least * len(structure.layers)


def evaluator(
    apply: Callable[..., Array],
    structure: Structure,
    params: Any,
    x: Array,
    y: Array,
    *,
    importance: Any = None,
) -> Callable[[Any], Scores]:
    """What scores candidates on one batch, to be called outside of `jit`.

    Args:
      apply: `apply(params, x)` -> logits [B, classes].
      structure: the structure of `apply`.
      params: the dense parameters.
      x: [B, ...], as the network takes it.
      y: int [B], the labels.
      importance: [N]; candidates that lack the least important channels of a group are scored
        faster. None: not known.

    Returns:
      masks [..., N] -> scores [...]: those of `jaxprune.evaluate` up to the order in which floating
      point numbers are added. Masks may be any numbers. It is an `Evaluator`, or, if the network
      cannot be cut into stages, evaluates at full width.
    """
    staged = stages(apply, structure, params, x)
    if staged is not None:
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(x)]
        return Evaluator(staged, structure, leaves, y, importance=importance)
    masked_apply = masked(apply, structure)

    def whole(masks: Any) -> Scores:
        masks = jnp.asarray(masks, jnp.float32)
        flat = structure.unflatten(masks.reshape(-1, masks.shape[-1]))
        found = evaluate(masked_apply, params, flat, x, y)
        return Scores(*(column.reshape(masks.shape[:-1]) for column in found))

    return whole


class Evaluator:
    """Scores candidates on one batch.

    What a candidate scores depends on its mask alone, bit for bit, and not on what is scored with
    it or was scored before.

    Args:
      staged: the network in pieces.
      structure: its structure.
      inputs: its inputs.
      y: the labels.
      importance: as in `evaluator`.
    """

    def __init__(
        self,
        staged: Stages,
        structure: Structure,
        inputs: list[Array],
        y: Array,
        *,
        importance: Any = None,
    ):
        self.staged = staged
        self._ends = np.cumsum([group.size for group in structure.groups])
        self._slots = slots(staged.table)
        orders: list[np.ndarray | None] = [None] * len(structure.groups)
        if importance is not None:
            # Of equal channels the first goes first, as everywhere (`envs.groups.rank`).
            parts = np.split(np.asarray(importance), self._ends[:-1])
            orders = [np.argsort(part, kind="stable")[::-1] for part in parts]
        self._groups = [Choices(order) for order in orders]
        planner = Planner(staged, self._slots, inputs, y)
        self._score = planner.score
        (everything,) = self._read(np.ones((1, structure.num_channels), np.float32))
        self._separate = planner.separate(everything)
        self._shared = planner.shared(self._groups, everything)

    def __call__(self, masks: Any) -> Scores:
        """The scores of candidates, [..., N] with 0 = removed -> [...]."""
        masks = np.asarray(masks, np.float32)
        candidates = self._read(masks.reshape(-1, masks.shape[-1]))
        if run._cache_size() > MOST_PROGRAMS:  # type: ignore[attr-defined]
            run.clear_cache()  # type: ignore[attr-defined]
        suited: dict[bool, list[int]] = {True: [], False: []}
        for k, one in enumerate(candidates):
            suited[self._shared is not None and self._shared.suits(one)].append(k)
        scores: dict[int, Array] = {}
        for plan, some in ((self._shared, suited[True]), (self._separate, suited[False])):
            if plan is not None and some:
                scores |= self._run(plan, candidates, some)
        found: Any = np.stack(jax.device_get([scores[k] for k in range(len(candidates))]))
        loss, accuracy = (column.reshape(masks.shape[:-1]) for column in found.T)
        return Scores(loss, accuracy)

    def _read(self, masks: np.ndarray) -> list[Candidate]:
        return read(self._groups, masks, self._ends)

    def _run(
        self, plan: Plan, candidates: Sequence[Candidate], some: Sequence[int]
    ) -> dict[int, Array]:
        """The scores of some of the candidates, [2] each."""
        order = sorted(some, key=lambda k: candidates[k].key)
        families = self._families(plan, candidates, order)
        # The longest first, so that all threads end at about the same time.
        families.sort(key=lambda family: -sum(job.amount for job in family))
        scores: dict[int, Array] = {}
        for found in threads.each(functools.partial(self._follow, plan), families):
            scores |= found
        return scores

    def _families(
        self, plan: Plan, candidates: Sequence[Candidate], order: Sequence[int]
    ) -> list[list["_Job"]]:
        """What is to be done, one list for candidates that have something in common."""
        families: list[list[_Job]] = []
        common = [False] * len(plan.chains)
        for k, following in zip(order, [*order[1:], None], strict=True):
            one, then = candidates[k], None if following is None else candidates[following]
            ahead = [then is not None and one.agrees(then, chain.needs) for chain in plan.chains]
            at = Positions(self.staged, self._slots, one.selections, plan.layouts)
            new = [chain for chain, known in zip(plan.chains, common, strict=True) if not known]
            amount = sum(work(part.piece, at) for chain in new for part in chain.parts)
            if not any(common):
                families.append([])
            families[-1].append(_Job(k, one, at, ahead, amount))
            common = ahead
        return families

    def _follow(self, plan: Plan, jobs: Sequence["_Job"]) -> dict[int, Array]:
        """Does what is to be done; does not wait for the results."""
        values = dict(plan.given)
        common = [False] * len(plan.chains)  # what this candidate has in common with the last one
        scores: dict[int, Array] = {}
        for job in jobs:
            for chain, known in zip(plan.chains, common, strict=True):
                if known:
                    continue
                plan.evaluate(chain, job.candidate, job.at, values)
                for value in chain.done:
                    if not job.ahead[plan.made_by[value]]:
                        del values[value]
            scores[job.number] = values[self._score]
            common = job.ahead
        return scores


class _Job(NamedTuple):
    """What is to be done for a candidate.

    Attributes:
      number: its place among the candidates of a call.
      candidate: the candidate.
      at: where its channels lie.
      ahead: for each chain, whether the next candidate has its results in common with this one.
      amount: multiply-adds of what this one does not have in common with the last one.
    """

    number: int
    candidate: Candidate
    at: Positions
    ahead: list[bool]
    amount: float
