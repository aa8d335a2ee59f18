"""What a search is given and what it returns."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxprune import importance
from jaxprune.costs.budgets import Budget, CostFunction, make_budgets
from jaxprune.costs.limits import NO_LIMITS, Allowed, Limits, allowed
from jaxprune.dependency import Structure, masked
from jaxprune.errors import UserError
from jaxprune.scoring import devices, own_widths
from jaxprune.scoring.evaluation import Scores, check_logits, evaluate


class Material(NamedTuple):
    """What a network is trained with, for methods that train it in their own way.

    Attributes:
      function: `(variables, masks, x)` -> logits [B, classes] and the changed collections, in
        training mode. Masks are flat, [N], and may be any numbers that channels are multiplied by.
      preprocess: uint8 images -> inputs of the network.
      train: the images, uint8 [n, H, W, C], and the labels, [n], of the training split.
      validation: the same of the validation split.
      recipe: how fresh weights are fitted, a `training.Recipe`.
      dense: the trained dense network's variables.
    """

    function: Callable[..., tuple[Array, Any]]
    preprocess: Callable[[Array], Array]
    train: tuple[Any, Any]
    validation: tuple[Any, Any]
    recipe: Any
    dense: Any


class Trainer(NamedTuple):
    """Fits the network's weights while a search goes on. Masks are flat, [K, N].

    Attributes:
      finetune: `(masks, steps, key)` -> scores on the batch of the training split and on the
        validation split, of each candidate after so many training steps from the dense weights.
        With `few=True` candidates may be compiled for, one by one, where that is predicted to take
        less time than training the whole network under each mask.
      initial: `(key)` -> fresh variables.
      train: `(variables, masks, steps, key)` -> variables after so many training steps, shared by
        all candidates: each step is made under one of the masks.
      evaluate: `(variables, masks)` -> scores on the batch of the training split.
      validate: `(variables, masks)` -> scores on the validation split.
      material: the data and the function behind all this.
    """

    finetune: Callable[..., tuple[Scores, Scores]]
    initial: Callable[[Array], Any]
    train: Callable[[Any, Array, int, Array], Any]
    evaluate: Callable[[Any, Array], Scores]
    validate: Callable[[Any, Array], Scores]
    material: Material | None = None


class Host(NamedTuple):
    """What scores candidates faster than a compiled search does; called from the host, not in jit.

    Attributes:
      evaluate: [..., N] -> the scores, [...], of `Problem.evaluate` up to the order in which
        floating point numbers are added. Candidates that agree on the first groups share work.
      validate: the same of `Problem.validate`.
      few: whether that pays for few candidates too, which are compiled for rather than scored.
    """

    evaluate: Callable[[Any], Scores]
    validate: Callable[[Any], Scores]
    few: bool = True


class Problem(NamedTuple):
    """A pruning problem over flat masks of N channels, 1 = keep, 0 = remove.

    Every network that a search scores has widths that `widths` allows. No search ever sees the test
    split.

    Attributes:
      structure: the network's channels.
      evaluate: [K, N] -> scores on a fixed batch of the training split; may be called inside jit.
      validate: [K, N] -> scores on the validation split; may be called inside jit.
      cost: [N] -> relative cost; may be called inside jit and vmap, unless it has to be measured
        (see `traceable`). With one budget it is the fraction of the dense network's cost, with
        several the part of its limit that the tightest budget takes up.
      budget: a mask is feasible if its cost is at most this: the limit of the only budget, or 1.
      importance: float32 [N], non-negative, larger means keep.
      budgets: each cost that is limited, on its own.
      trainer: what trains candidates, for the methods that do; None where there are no data to.
      evaluate_steps: [K, T, N] -> `evaluate`'s scores, [K, T], of networks after each step of being
        pruned group by group: the first group's mask is the same in all T, and what depends on
        nothing else is computed once. None: they are evaluated one by one.
      host: what a search should score its candidates with where it can leave compiled code; None
        where that does not pay.
      mesh: the devices that candidates are divided among; None: one.
      widths: which widths the groups may have (what the budgets allow is `limits`).
    """

    structure: Structure
    evaluate: Callable[[Any], Scores]
    validate: Callable[[Any], Scores]
    cost: Callable[[Array], Array]
    budget: float
    importance: Array
    budgets: tuple[Budget, ...] = ()
    trainer: Trainer | None = None
    evaluate_steps: Callable[[Array], Scores] | None = None
    host: Host | None = None
    mesh: Mesh | None = None
    widths: Limits = NO_LIMITS

    @property
    def allowed(self) -> Allowed:
        """The widths that the groups may have, one by one."""
        return allowed(self.structure, self.widths)

    @property
    def traceable(self) -> bool:
        """Whether `cost` may be called inside jit: no budget has to be measured."""
        return all(budget.traced is not None for budget in self.budgets)

    @property
    def limits(self) -> np.ndarray:
        """float32 [m]: the part of each dense cost that a search aims at."""
        if not self.budgets:
            return np.array([self.budget], np.float32)
        return np.array([budget.target for budget in self.budgets], np.float32)


def make_problem(
    apply: Callable[..., Array],
    structure: Structure,
    params: Any,
    train: tuple[Array, Array],
    validation: tuple[Array, Array],
    *,
    cost: str | CostFunction | Sequence[str | CostFunction] = "macs",
    budget: float | str | Sequence[float | str] = 0.5,
    limits: Limits = NO_LIMITS,
    chunk: int | None = None,
    host: bool | None = None,
    mesh: Mesh | None = None,
) -> Problem:
    """The problem of pruning a trained classifier to a budget.

    Args:
      apply: `apply(params, x) -> logits [B, classes]`.
      structure: the structure of `apply`.
      params: the trained parameters.
      train: (x, y), the batch of the training split that rewards are computed on; x may be a tree
        of arrays [B, ...].
      validation: (x, y), held out of the training split; decides between candidates.
      cost: one of `budgets.NAMES`, or a function of the compact network; or several of them.
      budget: what is allowed of each cost, as `budgets.parse_limit` takes it.
      limits: which widths the groups may have; every network that a search scores obeys them.
      chunk: how many candidates are evaluated at once, see `evaluate`.
      host: whether searches score candidates from the host, each at its own widths
        (`scoring.own_widths`); by default on one CPU if the network and its batch are large enough.
      mesh: the devices that candidates are divided among (`devices.make_mesh`); None: one.

    Raises:
      UserError: a budget is impossible or below what can be reached within the limits, these
        contradict each other, a cost is unknown, or the network has nothing to prune or does not
        return logits.
    """
    for x, y in (train, validation):
        check_logits(jax.eval_shape(apply, params, x), y)
    names = [cost] if isinstance(cost, str) or callable(cost) else list(cost)
    amounts = [budget] if isinstance(budget, float | int | str) else list(budget)
    if len(names) != len(amounts):
        raise UserError(f"{len(names)} costs need as many budgets, got {len(amounts)}")
    scores = importance.l1(structure, params)
    return assemble(
        structure,
        masked(apply, structure),
        params,
        train,
        validation,
        budgets=make_budgets(
            apply,
            structure,
            params,
            jax.tree.map(lambda leaf: leaf[:1], train[0]),
            list(zip(names, amounts, strict=True)),
            limits=limits,
        ),
        scores=scores,
        chunk=chunk,
        host=on_host(apply, structure, params, train, validation, scores, wanted=host, mesh=mesh),
        mesh=mesh,
        limits=limits,
    )


def assemble(
    structure: Structure,
    masked_apply: Callable[..., Array],
    params: Any,
    train: tuple[Array, Array],
    validation: tuple[Array, Array],
    *,
    budgets: tuple[Budget, ...],
    trainer: Trainer | None = None,
    scores: Array | None = None,
    chunk: int | None = None,
    host: Host | None = None,
    mesh: Mesh | None = None,
    limits: Limits = NO_LIMITS,
) -> Problem:
    """A problem from its parts; `make_problem` says what they are.

    `scores` is the importance of the channels, by default the L1 norm of their weights.
    """
    if scores is None:
        scores = importance.l1(structure, params)
    params, train, validation = devices.replicate((params, train, validation), mesh)
    score = functools.partial(evaluate, masked_apply, params, chunk=chunk, mesh=mesh)

    def on(x: Array, y: Array) -> Callable[[Array], Scores]:
        return lambda masks: score(structure.unflatten(masks.astype(jnp.float32)), x, y)

    def steps(masks: Array) -> Scores:
        of_steps = dict(structure.unflatten(masks.astype(jnp.float32)))
        first = structure.groups[0].name
        of_steps[first] = of_steps[first][:, 0]
        return score(of_steps, *train)

    cost, limit = _combined(budgets)
    return Problem(
        structure=structure,
        evaluate=on(*train),
        validate=on(*validation),
        cost=cost,
        budget=limit,
        importance=scores,
        budgets=budgets,
        trainer=trainer,
        evaluate_steps=steps,
        host=host,
        mesh=mesh,
        widths=limits,
    )


def on_host(
    apply: Callable[..., Array],
    structure: Structure,
    params: Any,
    train: tuple[Array, Array],
    validation: tuple[Array, Array],
    scores: Array,
    *,
    wanted: bool | None = None,
    mesh: Mesh | None = None,
) -> Host | None:
    """What scores candidates from the host; None if it does not pay, or is not wanted.

    Args:
      apply: what candidates are scored by, `apply(params, x) -> logits [B, classes]`.
      structure: the structure of its parameters.
      params: the trained parameters.
      train: (x, y), the batch of the training split.
      validation: (x, y), the same of the validation split.
      scores: [N], the importance of the channels: most candidates lose the least important ones.
      wanted: None: on a CPU, if the network and the batch are large enough.
      mesh: the devices that candidates are divided among; with several the host scores none.
    """
    if mesh is not None:
        return None
    if not (own_widths.pays(structure, len(train[1])) if wanted is None else wanted):
        return None

    def on(batch: tuple[Array, Array]) -> Callable[[Any], Scores]:
        @functools.cache
        def prepared() -> Callable[[Any], Scores]:
            found = own_widths.evaluator(apply, structure, params, *batch, importance=scores)
            # At full width a score may depend on what else is scored: nothing is remembered then.
            return (
                own_widths.Remembering(found) if isinstance(found, own_widths.Evaluator) else found
            )

        return lambda masks: prepared()(masks)

    few = bool(wanted) or own_widths.pays(structure, len(train[1]), few=True)
    return Host(on(train), on(validation), few)


def scores(problem: Problem, masks: Any) -> Scores:
    """Scores of a few candidates [K, N] on the batch of the training split; not inside jit."""
    evaluate = problem.host.evaluate if problem.host and problem.host.few else problem.evaluate
    known: Any = np.asarray(masks, np.float32)
    return evaluate(known)


def validation_scores(problem: Problem, masks: Any) -> Scores:
    """Scores of a few candidates [K, N] on the validation split; not inside jit."""
    validate = problem.host.validate if problem.host and problem.host.few else problem.validate
    known: Any = np.asarray(masks, np.float32)
    return validate(known)


def _combined(budgets: tuple[Budget, ...]) -> tuple[Callable[[Array], Array], float]:
    """One relative cost that is within one limit if all budgets are met."""
    measured = [budget.name for budget in budgets if budget.traced is None]
    if measured:

        def unknown(mask: Array) -> Array:
            raise UserError(
                f"the cost {measured[0]} is known only after it was measured, which this method "
                "cannot wait for; use another method, such as crl, magnitude or random"
            )

        return unknown, 1.0 if len(budgets) > 1 else budgets[0].target
    if len(budgets) == 1:
        assert budgets[0].traced is not None
        return budgets[0].traced, budgets[0].target

    def tightest(mask: Array) -> Array:
        parts = [budget.traced(mask) / budget.target for budget in budgets if budget.traced]
        return jnp.stack(parts).max()

    return tightest, 1.0


def shares(problem: Problem, masks: Any) -> np.ndarray:
    """The cost of candidates under each budget, as fractions of the dense costs.

    Args:
      problem: the problem.
      masks: [K, N], 1 = keep.

    Returns:
      float32 [K, m].
    """
    if not problem.budgets:
        return np.asarray(jax.vmap(problem.cost)(jnp.asarray(masks, jnp.float32)))[:, None]
    return np.stack([budget.shares(masks) for budget in problem.budgets], axis=-1)


def traced_costs(problem: Problem) -> tuple[Callable[[Array], Array], ...]:
    """What gives the cost of a flat mask `[N]` under each budget, inside jit and vmap.

    The same functions for the same problem, so that they can be static arguments; of budgets that
    are measured there are none.
    """
    if not problem.budgets:
        return _alone(problem.cost)
    return tuple(budget.traced for budget in problem.budgets if budget.traced)


@functools.lru_cache(maxsize=8)
def _alone(cost: Callable[[Array], Array]) -> tuple[Callable[[Array], Array], ...]:
    return (cost,)


def relative_cost(problem: Problem, parts: Any) -> Any:
    """`Problem.cost` from the shares of the budgets: [..., m] -> [...]."""
    return parts[..., 0] if parts.shape[-1] == 1 else (parts / problem.limits).max(-1)


class Archive(NamedTuple):
    """Every finished candidate that a search has evaluated, in order.

    Attributes:
      masks: uint8 [n, N].
      cost: float32 [n], as `Problem.cost` gives it.
      loss: float32 [n], on the batch of the training split.
      accuracy: float32 [n], on the batch of the training split.
      validation: float32 [n], accuracy on the validation split; NaN where it was not looked at.
    """

    masks: np.ndarray
    cost: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    validation: np.ndarray


def ranking(archive: Archive, budget: float) -> np.ndarray:
    """The indices of the feasible candidates, the best first.

    Higher validation accuracy is better, none is worst; among equals higher training accuracy, then
    lower loss, then the earlier candidate. Masks that occur again are left out.

    Returns:
      int [m], m >= 1.

    Raises:
      ValueError: no candidate is feasible.
    """
    order = _ordered(archive, budget)
    _, first = np.unique(archive.masks[order], axis=0, return_index=True)
    return order[np.sort(first)]


def best(archive: Archive, budget: float) -> int:
    """The index of the best feasible candidate: the first of `ranking`."""
    return int(_ordered(archive, budget)[0])


def _ordered(archive: Archive, budget: float) -> np.ndarray:
    """`ranking` with masks that occur again."""
    feasible = np.flatnonzero(archive.cost <= budget)
    if not len(feasible):
        raise ValueError(
            f"none of the {len(archive.cost)} candidates has a cost of at most {budget:g}"
        )
    validation = np.nan_to_num(archive.validation[feasible], nan=-1.0)
    return feasible[np.lexsort((archive.loss[feasible], -archive.accuracy[feasible], -validation))]


class SearchResult(NamedTuple):
    """What a search returns.

    Attributes:
      mask: uint8 [N], the best feasible candidate that was ever evaluated.
      archive: all candidates.
      episodes: how many episodes were played (for methods that have none: candidates tried).
      state: the search's last state.
      variables: the weights that the mask was found with, where the search trained the network
        itself; None if they are the dense network's.
    """

    mask: np.ndarray
    archive: Archive
    episodes: int
    state: Any
    variables: Any = None
