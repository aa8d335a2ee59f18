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

from jaxprune.dependency import Structure, masked
from jaxprune.dependency.joints import slots
from jaxprune.scoring import threads
from jaxprune.scoring.evaluation import Scores, evaluate
from jaxprune.scoring.lowering import lower_known
from jaxprune.scoring.own_widths.candidates import Candidate, Choices, read
from jaxprune.scoring.own_widths.operands import work
from jaxprune.scoring.own_widths.plans import Plan, Planner, Prepared
from jaxprune.scoring.own_widths.positions import Positions
from jaxprune.scoring.own_widths.stages import Product, Stages, run, stages

SEARCHING = 40_000_000
COMPILING = 2_000_000_000
"""Multiply-adds in the time that the pieces of one layer take to be compiled, in all; and in a
search's part of it for each of its candidates, of which there are about a thousand, at some twenty
widths."""

LARGEST = 2**24
"""Bytes of an array above which a batch is divided: it would leave the caches before it is read,
and the system takes long to hand out so much memory, each time again."""

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
      masks [..., N] -> scores [...]: those of `scoring.evaluation` up to the order in which
      floating point numbers are added. Masks may be any numbers. It is an `Evaluator`, or, if the
      network cannot be cut into stages, evaluates at full width.
    """
    known = lower_known(apply)
    staged = stages(known, structure, params, x)
    if staged is not None:
        leaves, form = jax.tree.flatten(jax.tree.map(jnp.asarray, x))
        count = _batches(staged, apply, params, x, y)
        if count == 1:
            return Evaluator(staged, structure, [(leaves, y)], importance=importance)
        columns = [jnp.split(leaf, count) for leaf in (*leaves, y)]
        batches = [(inputs, labels) for *inputs, labels in zip(*columns, strict=True)]
        staged = stages(known, structure, params, jax.tree.unflatten(form, batches[0][0]))
        assert staged is not None
        return Evaluator(staged, structure, batches, importance=importance)
    masked_apply = masked(apply, structure)

    def whole(masks: Any) -> Scores:
        masks = jnp.asarray(masks, jnp.float32)
        flat = structure.unflatten(masks.reshape(-1, masks.shape[-1]))
        found = evaluate(masked_apply, params, flat, x, y)
        return Scores(*(column.reshape(masks.shape[:-1]) for column in found))

    return whole


def _batches(staged: Stages, apply: Callable[..., Array], params: Any, x: Any, y: Array) -> int:
    """Into how many equal batches a batch is divided, so that no array is too large."""
    products = (piece for piece in staged.pieces if isinstance(piece, Product))
    largest = max((piece.size * piece.known.array.itemsize for piece in products), default=0)
    examples = len(y)
    least = min(-(-largest // LARGEST), examples)
    fitting = range(least, min(4 * least, examples) + 1)
    count = next((count for count in fitting if examples % count == 0), 1)
    return count if count > 1 and _independent(apply, params, x, examples) else 1


def _independent(apply: Callable[..., Array], params: Any, x: Any, examples: int) -> bool:
    """Whether what a network computes for one example is the same beside any other one."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(x)]
    if any(leaf.shape[:1] != (examples,) for leaf in leaves):
        return False
    differs = [(leaf != leaf[:1]).reshape(examples, -1).any(1) for leaf in leaves]
    others = np.flatnonzero(np.any(differs, axis=0))
    if not len(others):
        return False
    pairs = [jax.tree.map(lambda leaf, k=k: leaf[np.array([0, k])], x) for k in (0, others[0])]
    # To be compiled quickly: it runs but twice.
    quickly: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}
    program = jax.jit(apply).lower(params, pairs[0]).compile(compiler_options=quickly)
    alone, beside = (program(params, pair)[0] for pair in pairs)
    return bool((alone == beside).all())


class Evaluator:
    """Scores candidates on one batch, which may be divided.

    What a candidate scores depends on its mask alone, bit for bit, and not on what is scored with
    it or was scored before.

    Args:
      staged: the network in pieces.
      structure: its structure.
      batches: its inputs and the labels, equally many each time.
      importance: as in `evaluator`.
    """

    def __init__(
        self,
        staged: Stages,
        structure: Structure,
        batches: Sequence[tuple[list[Array], Array]],
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
        planners = [Planner(staged, self._slots, x, y, len(batches)) for x, y in batches]
        self._score = planners[0].score
        (everything,) = self._read(np.ones((1, structure.num_channels), np.float32))
        self._separate = [planner.separate(everything) for planner in planners]
        shared = [planner.shared(self._groups, everything) for planner in planners]
        self._shared = [plan for plan in shared if plan is not None]

    def __call__(self, masks: Any) -> Scores:
        """The scores of candidates, [..., N] with 0 = removed -> [...]."""
        masks = np.asarray(masks, np.float32)
        candidates = self._read(masks.reshape(-1, masks.shape[-1]))
        if run._cache_size() > MOST_PROGRAMS:  # type: ignore[attr-defined]
            run.clear_cache()  # type: ignore[attr-defined]
        suited: dict[bool, list[int]] = {True: [], False: []}
        for k, one in enumerate(candidates):
            suited[any(plan.suits(one) for plan in self._shared[:1])].append(k)
        scores: dict[int, list[Array]] = {}
        for plans, some in ((self._shared, suited[True]), (self._separate, suited[False])):
            if some:
                scores |= self._run(plans, candidates, some)
        found: Any = np.array(jax.device_get([scores[k] for k in range(len(candidates))]))
        loss, accuracy = (c.reshape(masks.shape[:-1]) for c in found.mean(1).T)
        return Scores(loss, accuracy)

    def _read(self, masks: np.ndarray) -> list[Candidate]:
        return read(self._groups, masks, self._ends)

    def _run(
        self, plans: Sequence[Plan], candidates: Sequence[Candidate], some: Sequence[int]
    ) -> dict[int, list[Array]]:
        """The scores of some of the candidates, [2] for each batch."""
        order = sorted(some, key=lambda k: candidates[k].key)
        families = self._families(plans[0], candidates, order)
        # The longest first, so that all threads end at about the same time.
        families.sort(key=lambda family: -sum(job.amount for job in family))
        scores: dict[int, list[Array]] = {}
        for found in threads.each(functools.partial(self._follow, plans), families):
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

    def _follow(self, plans: Sequence[Plan], jobs: Sequence["_Job"]) -> dict[int, list[Array]]:
        """Does what is to be done, one batch after another; does not wait for the results."""
        values = [dict(plan.given) for plan in plans]
        common = [False] * len(plans[0].chains)  # what this candidate has in common with the last
        scores: dict[int, list[Array]] = {}
        for job in jobs:
            new = [number for number, known in enumerate(common) if not known]
            prepared: dict[int, Prepared] = {}
            for plan, own in zip(plans, values, strict=True):
                for number in new:
                    chain = plan.chains[number]
                    if number not in prepared:
                        prepared[number] = plan.prepare(chain, job.candidate, job.at, own)
                    plan.evaluate(chain, prepared[number], own)
                    for value in chain.done:
                        if not job.ahead[plan.made_by[value]]:
                            del own[value]
            scores[job.number] = [own[self._score] for own in values]
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
