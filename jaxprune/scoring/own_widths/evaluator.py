"""Scores of candidates at a cost that follows what remains of the network.

Each candidate is evaluated in the pieces of `cutting`, at its own widths, rounded up. Several
threads dispatch the pieces without waiting for results. Candidates are sorted so that those that
agree on the first groups follow each other: what two neighbours have in common is computed once.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.dependency import Structure, masked
from jaxprune.scoring import threads
from jaxprune.scoring.evaluation import Scores, evaluate
from jaxprune.scoring.lowering import lower_known
from jaxprune.scoring.own_widths.cutting import cut
from jaxprune.scoring.own_widths.layout import Layout
from jaxprune.scoring.own_widths.operands import work
from jaxprune.scoring.own_widths.pieces import Pieces, run
from jaxprune.scoring.own_widths.plans import Plan, Planner, Prepared
from jaxprune.scoring.own_widths.widths import Candidate, Choices, agree, candidates

SEARCHING = 40_000_000
COMPILING = 2_000_000_000
"""Multiply-adds in the time that it takes to compile the pieces of one layer: for one candidate
whose pieces are all new (COMPILING), and for one of about a thousand that a search scores at some
twenty widths (SEARCHING)."""

LARGEST = 2**24
"""Bytes of an array above which a batch is divided: it would leave the caches before it is read,
and the system takes long to hand out so much memory each time."""

MOST_PROGRAMS = 4000
"""Compiled programs that are kept. Each takes memory mappings, of which a process may have 65,000.
"""


def pays(structure: Structure, examples: int, *, few: bool = False) -> bool:
    """Whether candidates should score faster this way than all at full width together.

    On a CPU, if what depends on the masks is so much work that compiling its pieces takes less than
    scoring at full width, where the rest is computed once for all candidates. The rule only counts,
    so that a search always goes one way.

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
    """A function that scores candidates on one batch, to be called outside of `jit`.

    Args:
      apply: `apply(params, x)` -> logits [B, classes].
      structure: the structure of `apply`.
      params: the dense parameters.
      x: [B, ...], the network's input.
      y: int [B], the labels.
      importance: [N]; candidates that lack the least important channels of each group are scored
        faster. None: not known.

    Returns:
      masks [..., N], any numbers -> scores [...], those of `scoring.evaluation` up to the order of
      floating point additions. It is an `Evaluator`; if the network cannot be cut into pieces, a
      function that evaluates at full width.
    """
    known = lower_known(apply)
    network = cut(known, structure, params, x)
    if network is None:
        return _at_full_width(apply, structure, params, x, y)
    leaves, form = jax.tree.flatten(jax.tree.map(jnp.asarray, x))
    count = _batches(network, apply, params, x, y)
    batches = [(leaves, y)]
    if count > 1:
        columns = [jnp.split(leaf, count) for leaf in (*leaves, y)]
        batches = [(inputs, labels) for *inputs, labels in zip(*columns, strict=True)]
        network = cut(known, structure, params, jax.tree.unflatten(form, batches[0][0]))
        assert network is not None
    return Evaluator(network, structure, batches, importance=importance)


def _at_full_width(
    apply: Callable[..., Array], structure: Structure, params: Any, x: Array, y: Array
) -> Callable[[Any], Scores]:
    masked_apply = masked(apply, structure)

    def score(masks: Any) -> Scores:
        masks = jnp.asarray(masks, jnp.float32)
        flat = structure.unflatten(masks.reshape(-1, masks.shape[-1]))
        found = evaluate(masked_apply, params, flat, x, y)
        return Scores(*(column.reshape(masks.shape[:-1]) for column in found))

    return score


def _batches(network: Pieces, apply: Callable[..., Array], params: Any, x: Any, y: Array) -> int:
    """Into how many equal batches a batch is divided, so that no array is too large."""
    sizes = [
        piece.product.size * piece.known[0].array.itemsize
        for piece in network.pieces
        if piece.product
    ]
    examples = len(y)
    least = min(-(-max(sizes, default=0) // LARGEST), examples)
    fitting = range(least, min(4 * least, examples) + 1)
    count = next((count for count in fitting if count and examples % count == 0), 1)
    return count if count > 1 and _independent(apply, params, x, examples) else 1


def _independent(apply: Callable[..., Array], params: Any, x: Any, examples: int) -> bool:
    """Whether the network computes the same for an example whatever the others are."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(x)]
    if any(leaf.shape[:1] != (examples,) for leaf in leaves):
        return False
    differs = [(leaf != leaf[:1]).reshape(examples, -1).any(1) for leaf in leaves]
    others = np.flatnonzero(np.any(differs, axis=0))
    if not len(others):
        return False
    pairs = [jax.tree.map(lambda leaf, k=k: leaf[np.array([0, k])], x) for k in (0, others[0])]
    # It runs only twice: compiling must be quick.
    quickly: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}
    program = jax.jit(apply).lower(params, pairs[0]).compile(compiler_options=quickly)
    alone, beside = (program(params, pair)[0] for pair in pairs)
    return bool((alone == beside).all())


class _Job(NamedTuple):
    """What is computed for one candidate.

    Attributes:
      number: its place among the candidates of a call.
      candidate: the candidate.
      layout: its layout.
      new: the programs whose results the previous candidate of the family does not provide.
      kept: for each program, whether the next candidate needs its results.
      amount: multiply-adds of the new programs.
    """

    number: int
    candidate: Candidate
    layout: Layout
    new: list[int]
    kept: list[bool]
    amount: float


class Evaluator:
    """Scores candidates on one batch, which may be divided.

    A candidate's score depends on its mask alone, bit for bit, and not on what is scored with it or
    was scored before.

    Args:
      network: the network in pieces.
      structure: its structure.
      batches: inputs and labels of equally large parts of the batch.
      importance: as in `evaluator`.
    """

    def __init__(
        self,
        network: Pieces,
        structure: Structure,
        batches: Sequence[tuple[list[Array], Array]],
        *,
        importance: Any = None,
    ):
        self.network = network
        self._ends = np.cumsum([group.size for group in structure.groups])
        orders: list[np.ndarray | None] = [None] * len(structure.groups)
        if importance is not None:
            # Of equal channels the first goes first, as everywhere (`costs.within_groups.rank`).
            parts = np.split(np.asarray(importance), self._ends[:-1])
            orders = [np.argsort(part, kind="stable")[::-1] for part in parts]
        self._groups = [
            Choices(order, whole=group in network.pinned) for group, order in enumerate(orders)
        ]
        (everything,) = self._candidates(np.ones((1, structure.num_channels), np.float32))
        planners = [Planner(network, x, y, everything, len(batches)) for x, y in batches]
        self._score = planners[0].score
        self._separate = [planner.separate() for planner in planners]
        shared = [planner.shared(self._groups) for planner in planners]
        self._shared = [plan for plan in shared if plan is not None]

    def __call__(self, masks: Any) -> Scores:
        """The scores of candidates, [..., N] with 0 = removed -> [...]."""
        masks = np.asarray(masks, np.float32)
        found = self._candidates(masks.reshape(-1, masks.shape[-1]))
        if run._cache_size() > MOST_PROGRAMS:  # type: ignore[attr-defined]
            run.clear_cache()  # type: ignore[attr-defined]
        suited = [any(plan.suits(one) for plan in self._shared[:1]) for one in found]
        scores: dict[int, list[Array]] = {}
        for plans, wanted in ((self._shared, True), (self._separate, False)):
            numbers = [number for number, suits in enumerate(suited) if suits == wanted]
            families = self._families(plans[0], found, numbers) if numbers else []
            # The longest first, so that all threads end at about the same time.
            families.sort(key=lambda family: -sum(job.amount for job in family))
            for some in threads.each(functools.partial(self._compute, plans), families):
                scores |= some
        columns: Any = np.array(jax.device_get([scores[number] for number in range(len(found))]))
        loss, accuracy = (c.reshape(masks.shape[:-1]) for c in columns.mean(1).T)
        return Scores(loss, accuracy)

    def _candidates(self, masks: np.ndarray) -> list[Candidate]:
        return candidates(self._groups, masks, self._ends)

    def _families(
        self, plan: Plan, found: Sequence[Candidate], numbers: Sequence[int]
    ) -> list[list[_Job]]:
        """The jobs of some candidates: a list for each family that has something in common."""
        order = sorted(numbers, key=lambda number: [choice.key for choice in found[number]])
        families: list[list[_Job]] = []
        kept = [False] * len(plan.programs)
        for number, following in zip(order, [*order[1:], None], strict=True):
            one = found[number]
            if not any(kept):
                families.append([])
            new = [n for n, known in enumerate(kept) if not known]
            kept = [
                following is not None and agree(one, found[following], program.needs)
                for program in plan.programs
            ]
            layout = Layout(self.network, one, plan.shared)
            amount = sum(work(piece, layout) for n in new for piece in plan.programs[n].pieces)
            families[-1].append(_Job(number, one, layout, new, kept, amount))
        return families

    def _compute(self, plans: Sequence[Plan], jobs: Sequence[_Job]) -> dict[int, list[Array]]:
        """The scores [2] of a family on each batch, by number; does not wait for them."""
        values = [dict(plan.given) for plan in plans]
        scores: dict[int, list[Array]] = {}
        for job in jobs:
            prepared: dict[int, Prepared] = {}
            for plan, own in zip(plans, values, strict=True):
                for number in job.new:
                    program = plan.programs[number]
                    if number not in prepared:
                        found = plan.prepare(program, job.candidate, job.layout, own)
                        prepared[number] = found
                    plan.evaluate(program, prepared[number], own)
                    for value in plan.last_read[number]:
                        if not job.kept[plan.made_by[value]]:
                            del own[value]
            scores[job.number] = [own[self._score] for own in values]
        return scores
