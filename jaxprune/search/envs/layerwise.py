"""Pruning layer by layer: one action for each group of channels, in the network's order.

The environment of "Neural Network Pruning through Constrained Reinforcement Learning" (section 2.1)
and of the thesis behind it (Malik, LUMS 2021, sections 4.1 and 4.2). An episode has T steps, one
for each group; the action of step t says what is left of group t, and says it in one of two ways:

- **coarse**: one number, the part of the group that is removed. The least important channels go.
- **fine**: one number for each channel of the widest group, what the channel is multiplied by;
  surplus numbers are ignored. While the policy is scored these are *soft* masks; for the cost and
  for the final answer a channel stays if its number is at least 0.5.

Every function is pure, works under `jit` and `vmap`, and takes the `Rules` as a static argument.
Transitions do not depend on the actions, and nothing is evaluated here: finished masks are, all
episodes in one call.

Departures: a layer of the papers is a group here, the layers that must lose the same channels; all
prunable groups take part, dense layers too, not convolutions alone; and the last channel of a group
always stays (in the fine strategy the one with the largest number), since a network with an empty
layer computes nothing. The soft numbers multiply what a channel hands on, not its weights, which
BatchNorm would undo.

Where the widths are limited, what an action says is rounded to the nearest allowed width. Groups of
equal widths are decided together, by the action on the first of them; those on the others change
nothing. A group that must stay whole is not multiplied by soft numbers either.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.costs import within_groups
from jaxprune.costs.limits import Allowed, any_width
from jaxprune.dependency import Structure

Strategy = Literal["coarse", "fine"]

OBSERVATION = ("layer", "input channels", "filters", "kernel size", "stride", "padding")
"""What is seen of a group: its number and the attributes of the first layer that produces it."""


@dataclass(frozen=True)
class Rules:
    """What defines the environment. Hashable, so that it can be a static argument.

    Attributes:
        allowed: the widths that each group may have; groups are in the order of the steps.
        observations: for each group the six numbers of `OBSERVATION`.
        strategy: what an action says.
    """

    allowed: Allowed
    observations: tuple[tuple[float, ...], ...]
    strategy: Strategy

    @property
    def sizes(self) -> tuple[int, ...]:
        """Channels of each group; they lie group by group."""
        return self.allowed.sizes

    @property
    def num_steps(self) -> int:
        """Steps of an episode, T."""
        return len(self.sizes)

    @property
    def action_size(self) -> int:
        """Numbers of one action, A: 1, or the size of the widest group."""
        return 1 if self.strategy == "coarse" else max(self.sizes)


class State(NamedTuple):
    """Where an episode is.

    Attributes:
        step: the group that the next action is for, int32 `[]`; T when the episode is over.
        values: what each channel is multiplied by, float32 `[N]`; 1 where nothing was decided yet.
    """

    step: Array
    values: Array


class Step(NamedTuple):
    """What a step returns: the next state, what is seen of it, and whether the episode is over.

    After the last step the last group is seen again.
    """

    state: State
    observation: Array
    done: Array


def rules(
    structure: Structure, strategy: Strategy = "coarse", allowed: Allowed | None = None
) -> Rules:
    """The rules for a network.

    Args:
        structure: its groups.
        strategy: what an action says.
        allowed: the widths that the groups may have; None: any.

    Raises:
        ValueError: the strategy is unknown.
    """
    if strategy not in ("coarse", "fine"):
        raise ValueError(f"unknown strategy {strategy!r}; it is coarse or fine")
    return Rules(
        allowed=allowed or any_width([group.size for group in structure.groups]),
        observations=tuple(_observation(structure, g) for g in range(len(structure.groups))),
        strategy=strategy,
    )


def _observation(structure: Structure, group: int) -> tuple[float, ...]:
    size = structure.groups[group].size
    for layer in structure.layers:
        if layer.group == group:
            kernel, stride = max(layer.kernel), max(layer.stride)
            padding = max(before for before, _ in layer.padding)
            return (group, layer.inputs, size, kernel, stride, padding)
    return (group, size, size, 1, 1, 0)  # input features, which no layer produces


def observe(rules: Rules, step: Array) -> Array:
    """What is seen before a step, float32 `[6]`."""
    table = jnp.asarray(rules.observations, jnp.float32)
    return table[jnp.clip(step, 0, rules.num_steps - 1)]


def reset(rules: Rules, rank: Array) -> State:
    """The start of an episode: nothing is decided, and every channel is there that may be.

    Args:
        rules: the rules.
        rank: int32 `[N]`, the order of the channels of each group by importance, 0 goes first.
    """
    widest = _keeping(rules, rank, jnp.asarray(rules.allowed.greatest))
    return State(jnp.int32(0), widest.astype(jnp.float32))


def step(rules: Rules, rank: Array, state: State, action: Array, most: Array) -> Step:
    """Decides what is left of one group, or of all groups that must have its width.

    An episode that is over stays as it is.

    Args:
        rules: the rules.
        rank: int32 `[N]`, the order of the channels of each group by importance, 0 goes first.
        state: where the episode is.
        action: float32 `[A]`; numbers outside [0, 1] are moved to its ends.
        most: float32 `[]`, the largest part of a group that a coarse action may remove (eq. 5.1).

    Returns:
        The next state, what is seen of it, and whether the episode is over.
    """
    group, allowed = within_groups.index(rules.sizes), rules.allowed
    action = jnp.clip(action, 0.0, 1.0)
    if rules.strategy == "coarse":
        size = jnp.asarray(rules.sizes)
        removed = jnp.floor(jnp.minimum(action[0], most) * size + 0.5).astype(jnp.int32)
        width = jnp.asarray(allowed.nearest())[jnp.arange(len(size)), size - removed]
        decided = _keeping(rules, rank, width).astype(jnp.float32)
        decides = np.asarray(allowed.leaders)[group]
    else:
        first = np.cumsum(rules.sizes) - np.asarray(rules.sizes)
        whole = [
            widths == (size,) for widths, size in zip(allowed.widths, rules.sizes, strict=True)
        ]
        decided = jnp.where(np.array(whole)[group], 1, action[np.arange(len(group)) - first[group]])
        decides = group
    values = jnp.where(decides == state.step, decided, state.values)
    after = State(jnp.minimum(state.step + 1, rules.num_steps), values)
    return Step(after, observe(rules, after.step), after.step >= rules.num_steps)


def _keeping(rules: Rules, rank: Array, width: Array) -> Array:
    """The channels of highest rank, so many of each group: int `[T]` -> bool `[N]`."""
    group = within_groups.index(rules.sizes)
    return rank >= within_groups.size(rules.sizes) - width[group]


def hard_mask(rules: Rules, values: Array) -> Array:
    """The channels that stay, uint8 `[N]`.

    Of a finished coarse episode those are the channels that are there. Of a fine one, they are
    those of the largest numbers in each group: as many as have at least 0.5, or the nearest allowed
    width. Groups of equal widths have that of the first of them.
    """
    stays = values >= 0.5
    if rules.strategy == "fine":  # coarse steps leave allowed widths, and sorting takes long
        count = within_groups.total(rules.sizes, stays.astype(jnp.int32))
        width = jnp.asarray(rules.allowed.nearest())[jnp.arange(len(rules.sizes)), count]
        leaders = np.asarray(rules.allowed.leaders)
        stays = _keeping(rules, within_groups.rank(rules.sizes, values), width[leaders])
    return stays.astype(jnp.uint8)


def order(rules: Rules, rank: Array, actions: Array) -> Array:
    """When channels go as all actions grow in proportion: float32 `[N]`, the lowest first.

    What goes before 1 is what the actions remove. So removing in this order until a budget is met
    scales the actions of an episode to the budget.

    Args:
        rules: the rules.
        rank: int32 `[N]`, the order of the channels of each group by importance, 0 goes first.
        actions: float32 `[T, A]`, one for each group.
    """
    group = within_groups.index(rules.sizes)
    if rules.strategy == "coarse":
        place = (rank + 0.5) / jnp.asarray(within_groups.size(rules.sizes))
        return place / jnp.clip(actions[:, 0], 1e-6, 1.0)[group]
    first = np.cumsum(rules.sizes) - np.asarray(rules.sizes)
    return jnp.clip(actions[group, np.arange(len(group)) - first[group]], 0.0, 1.0) / 0.5


def largest_ratio(initial: float, rise: float, progress: float) -> np.float32:
    """The largest part of a group that may be removed: eq. 5.1 of the thesis, at most 1.

    Args:
        initial: the value at the beginning.
        rise: what is added until the end (the thesis's "action clip gradient").
        progress: the part of all timesteps that is over, in [0, 1].
    """
    part = np.float32(initial) + np.float32(progress) * np.float32(rise)
    return np.minimum(part, np.float32(1))
