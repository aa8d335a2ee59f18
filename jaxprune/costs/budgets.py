"""Budgets: the cost that a pruned network may have.

A cost is `params`, `macs` or `neurons`, which follow from the mask alone and can be traced; or
`latency`, the time of one call on this device; or any Python function of the compact network. The
last two are measured on the host, once per network, and cached.
"""

import hashlib
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.costs import counting
from jaxprune.costs.limits import NO_LIMITS, Limits, allowed, check_leaves_room
from jaxprune.dependency import CompactNetwork, Structure, compact
from jaxprune.errors import UserError
from jaxprune.files import functions

UNITS: dict[str, str] = {
    "macs": "multiply-adds",
    "params": "parameters",
    "neurons": "neurons",
    "latency": "ms",
}
"""The unit of each named cost."""

NAMES: tuple[str, ...] = tuple(UNITS)
"""The named costs. Other costs are written module:function."""

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

CostFunction = Callable[..., float]
"""`function(network)` or `function(network, x)` -> a number >= 0, lower is better.

`network` is a `CompactNetwork`, with `params`, `widths` and `network(network.params, x)`. `x` is
the batch whose latency a run measures.
"""


class Limit(NamedTuple):
    """How much of a cost is allowed.

    Attributes:
      value: above 0; a fraction of the dense network's cost if relative, else in the cost's unit.
      relative: whether it is a fraction.
    """

    value: float
    relative: bool = True


def parse_limit(cost: str, text: str | float) -> Limit:
    """Parses a limit.

    A number in (0, 1] or a percentage is a fraction of the dense network's cost: `0.25`, `25%`. A
    time in milliseconds limits the latency: `0.4ms`. An amount in the unit of any cost follows an
    equals sign: `=200000`.

    Raises:
      UserError: it is none of these.
    """
    typed = text.strip() if isinstance(text, str) else f"{text:g}"
    if typed.startswith("=") or typed.endswith("ms"):
        if typed.endswith("ms") and cost != "latency":
            raise UserError(f"budget {typed} is a time, but the cost is {cost}, not latency")
        value = _number(typed.removeprefix("=").removesuffix("ms"))
        if value is None or not 0 < value < math.inf:
            raise UserError(f"budget {typed} must be a number above 0")
        return Limit(value, relative=False)
    value = text if isinstance(text, float | int) else _number(typed.removesuffix("%"))
    if value is None:
        raise UserError(
            f"budget {typed!r} is no number; give a part of the dense network's {cost} such as "
            "0.25 or 25%, a time such as 0.4ms, or an amount such as =200000"
        )
    share = value / 100 if typed.endswith("%") else value
    if not 0 < share <= 1:
        raise UserError(
            f"budget {typed} is outside (0, 1]; it is the part of the dense network's {cost} that "
            f"may remain. For an amount in the cost's own unit, write ={typed}"
        )
    return Limit(share)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@dataclass(frozen=True, eq=False)
class Budget:
    """A cost of one network and how much of it is allowed. Flat masks have N channels.

    Attributes:
      name: the cost, one of `NAMES` or "module:function".
      dense: the dense network's cost, in its own unit.
      limit: the fraction of it that is allowed; above 1 if an amount exceeds the dense cost.
      least: the fraction that remains at the smallest allowed widths.
      traced: [N] -> the cost as a fraction of the dense one, inside jit and vmap; None if the cost
        has to be measured.
      amount: the limit in the cost's own unit, if it was given so.
      meter: measures the cost on the host, in its own unit; None if it can be traced.
      target: the fraction that a search aims at, below `limit` by the margin for noise.
    """

    name: str
    dense: float
    limit: float
    least: float
    traced: Callable[[Array], Array] | None
    amount: float | None = None
    meter: "Meter | None" = None
    target: float = -1.0

    def __post_init__(self) -> None:
        if (self.traced is None) == (self.meter is None):
            raise ValueError(f"the cost {self.name} must be either traced or measured")
        if self.target < 0:
            object.__setattr__(self, "target", self.limit)

    @property
    def unit(self) -> str:
        """The unit of `dense`, "" for a user's cost function."""
        return UNITS.get(self.name, "")

    def shares(self, masks: Any) -> np.ndarray:
        """The cost of each candidate as a fraction of the dense one: [K, N] -> float32 [K]."""
        if self.traced is not None:
            return np.asarray(jax.vmap(self.traced)(jnp.asarray(masks, jnp.float32)))
        assert self.meter is not None
        return np.array([self.meter(np.asarray(mask)) / self.dense for mask in masks], np.float32)

    def allows(self, cost: float, dense: float) -> bool:
        """Whether a cost is within the limit, given the dense network's measured beside it."""
        return cost <= (self.limit * dense if self.amount is None else self.amount)

    def __str__(self) -> str:
        """The limit in words: "25% of macs", "0.4 ms latency"."""
        if self.amount is None:
            return f"{100 * self.limit:.4g}% of {self.name}"
        return f"{self.amount:.10g} {'ms ' if self.name == 'latency' else ''}{self.name}"


class Meter:
    """Measures a cost of compact networks, once per network, so that a search sees no noise.

    Latency depends on the widths alone, so candidates of equal widths share one measurement; other
    costs are cached by mask.

    Attributes:
      values: {key of a mask: measured cost}, which another meter can start from.
    """

    def __init__(
        self,
        name: str,
        function: CostFunction,
        apply: Callable[..., Any],
        structure: Structure,
        params: Any,
        x: Any,
        values: dict[str, float] | None = None,
        repeats: int = 30,
    ) -> None:
        self._name, self._repeats = name, repeats
        self._function = function
        self._takes_input = _takes_input(function)
        self._dense: CompactNetwork | None = None
        self._apply, self._structure, self._params, self._x = apply, structure, params, x
        self.values: dict[str, float] = {} if values is None else values

    def __call__(self, mask: np.ndarray) -> float:
        """The cost of a flat mask [N], in its own unit.

        Latency is measured beside the dense network's and scaled by how that one has changed since
        it was first measured, so that a temporarily slow machine makes no network look slower.

        Raises:
          UserError: the function raises, or returns something else than a number of at least 0.
        """
        key = self._key(mask)
        if key not in self.values:
            masks = self._structure.unflatten(np.asarray(mask, np.uint8))
            network = compact(self._apply, self._structure, self._params, masks)
            dense = self.values.get(self._key(np.ones_like(mask)))
            if self._name == "latency" and dense is not None:
                now, dense_now = self.beside_dense(network)
                self.values[key] = now * dense / dense_now
            else:
                self.values[key] = self.of(network)
        return self.values[key]

    def beside_dense(self, network: CompactNetwork) -> tuple[float, float]:
        """The costs of a compact network and of the dense one, measured now, side by side.

        Nothing is cached.

        Raises:
          UserError: as `of`.
        """
        if self._name == "latency":
            pair: list[tuple[Callable[..., Any], Any]] = [
                (network, network.params),
                (self._apply, self._params),
            ]
            now, dense_now = counting.latencies(pair, self._x, repeats=self._repeats)
            return now, dense_now
        if self._dense is None:
            full = self._structure.full_masks()
            self._dense = compact(self._apply, self._structure, self._params, full)
        return self.of(network), self.of(self._dense)

    def of(self, network: CompactNetwork) -> float:
        """The cost of a compact network, measured now and not cached."""
        arguments = (network, self._x) if self._takes_input else (network,)
        try:
            value = self._function(*arguments)
        except Exception as error:  # the user's function may raise anything
            raise UserError(
                f"the cost function {self._name} raised {type(error).__name__}: {error} (for the "
                f"widths {dict(network.widths)})"
            ) from error
        return _checked(self._name, value, network)

    def _key(self, mask: np.ndarray) -> str:
        kept = np.asarray(mask) > 0
        if self._name == "latency":
            widths = np.bincount(self._structure.group_index, kept).astype(int)
            return "-".join(map(str, widths))
        return hashlib.sha256(np.packbits(kept).tobytes()).hexdigest()[:32]


def _takes_input(function: CostFunction) -> bool:
    """Whether a function requires two arguments."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a builtin without a signature
        return False
    return sum(p.default is p.empty and p.kind in _POSITIONAL for p in parameters) > 1


def _checked(name: str, value: Any, network: CompactNetwork) -> float:
    if isinstance(value, np.ndarray | Array) and np.ndim(value) == 0:
        value = value.item()
    if not isinstance(value, Real) or isinstance(value, bool):
        wrong = f"{value!r:.60}, a {type(value).__name__}"
    elif not math.isfinite(value) or value < 0:
        wrong = f"{value}"
    else:
        return float(value)
    raise UserError(
        f"the cost function {name} returned {wrong}, for the widths {dict(network.widths)}; it "
        "must return a finite number of at least 0"
    )


def find(cost: str | CostFunction) -> tuple[str, CostFunction | None]:
    """The name of a cost, and its function if it is a user's.

    Args:
      cost: one of `NAMES`, "module:function", or a function.

    Raises:
      UserError: there is no such cost, module or function.
    """
    if not isinstance(cost, str):
        if not callable(cost):
            raise UserError(f"a cost is a name or a function, not {cost!r}")
        return getattr(cost, "__qualname__", repr(cost)), cost
    if cost in NAMES:
        return cost, None
    module, colon, attribute = cost.partition(":")
    if not (module and colon and attribute):
        raise UserError(
            f"unknown cost {cost!r}; the costs are: {', '.join(NAMES)}, or module:function"
        )
    return cost, functions.find("cost", cost)


def make_budgets(
    apply: Callable[..., Any],
    structure: Structure,
    params: Any,
    x: Any,
    wanted: Sequence[tuple[str | CostFunction, str | float | Limit]],
    *,
    limits: Limits = NO_LIMITS,
    margin: float = 0.0,
    repeats: int = 30,
    known: dict[str, dict[str, float]] | None = None,
) -> tuple[Budget, ...]:
    """Binds costs and limits to a network.

    Args:
      apply: `apply(params, x)` in inference mode; only measured costs call it.
      structure: its structure.
      params: its parameters.
      x: the batch whose latency is measured.
      wanted: (cost, limit) pairs; a limit as `parse_limit` takes it.
      limits: which widths the groups may have.
      margin: the fraction of a latency budget, in [0, 1), that a search leaves unused, because its
        result is measured again and times vary.
      repeats: number of calls whose median is a latency.
      known: {cost: {key: value}} measured earlier; new measurements are added.

    Raises:
      UserError: the network has nothing to prune, a cost or a budget is impossible, `limits`
        contradict each other, or no mask within them meets a budget; the smallest reachable value
        is named.
    """
    if not structure.groups:
        raise UserError(
            "the network has no channels that can be removed; print the structure to see why"
        )
    if not 0 <= margin < 1:
        raise UserError(f"the margin {margin:g} is outside [0, 1)")
    check_leaves_room(structure, limits)
    budgets = []
    for cost, text in wanted:
        name, function = find(cost)
        limit = text if isinstance(text, Limit) else parse_limit(name, text)
        meter = None
        if name not in counting.NAMES:
            function = function or _latency(repeats)
            values = None if known is None else known.setdefault(name, {})
            meter = Meter(name, function, apply, structure, params, x, values, repeats)
        budgets.append(_budget(structure, name, limit, limits, meter, margin))
    names = [budget.name for budget in budgets]
    if len(set(names)) < len(names):
        raise UserError(f"each cost can have one budget; got {', '.join(names)}")
    return tuple(budgets)


def _latency(repeats: int) -> CostFunction:
    def latency(network: CompactNetwork, x: Any) -> float:
        return counting.latency(network, network.params, x, repeats=repeats)

    return latency


def narrowest(structure: Structure, limits: Limits) -> np.ndarray:
    """A flat mask of the smallest allowed widths, uint8 [N]: the first channels of each group."""
    permitted = allowed(structure, limits)
    pairs = zip(permitted.sizes, permitted.least, strict=True)
    return np.concatenate([np.arange(size) < least for size, least in pairs]).astype(np.uint8)


def _budget(
    structure: Structure,
    name: str,
    limit: Limit,
    limits: Limits,
    meter: Meter | None,
    margin: float,
) -> Budget:
    def traced(mask: Array) -> Array:
        masks = structure.unflatten(jnp.asarray(mask, jnp.float32))
        return counting.get(name)(structure, masks) / dense

    smallest = narrowest(structure, limits)
    dense: float
    least: float
    if meter is None:
        dense = counting.dense(structure, name)
        least = counting.exact(structure, structure.unflatten(smallest), name)
    else:
        dense, least = meter(np.ones_like(smallest)), meter(smallest)
    if dense <= 0:
        raise UserError(f"the cost {name} of the dense network is {dense:g}; it must be above 0")
    share = limit.value if limit.relative else limit.value / dense
    target = share * (1 - margin) if name == "latency" else share
    _check_reachable(name, limit, limits, target, least / dense, dense)
    amount = None if limit.relative else limit.value
    cost_of = None if meter else traced
    return Budget(name, dense, share, least / dense, cost_of, amount, meter, target)


def _check_reachable(
    name: str, limit: Limit, limits: Limits, target: float, least: float, dense: float
) -> None:
    """Raises UserError if the smallest network costs more than the target; all are fractions."""
    if target >= least:
        return
    needed = least * limit.value / target  # in the unit of the limit
    unit = UNITS.get(name, "")
    if limit.relative:
        wanted, remains = f"{limit.value:g}", f"{least:.4g} of the {name} remain"
        advice = f"give a budget of at least {round_up(needed):g}"
        if needed > 1:
            advice = f"no part of {name} can be a budget, since removing channels does not lower it"
    else:
        wanted = f"{limit.value:g} {unit}".strip()
        remains = f"{least * dense:.4g} {unit}".strip() + " remain"
        counted = name in counting.NAMES
        at_least = f"{math.ceil(round(needed, 6))}" if counted else f"{round_up(needed):g}"
        advice = f"give a budget of at least ={at_least}"
    limited = limits != NO_LIMITS
    where = "at the least allowed widths" if limited else "with one channel left in every group"
    advice += " or loosen the limits" * limited
    raise UserError(f"budget {wanted} cannot be reached: {where} {remains}; {advice}")


def round_up(value: float) -> float:
    """Four decimals, not below the value."""
    rounded = round(value, 4)
    return rounded if rounded >= value else rounded + 1e-4
