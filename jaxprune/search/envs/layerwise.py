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
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.costs import within_groups
from jaxprune.dependency import Structure

Strategy = Literal["coarse", "fine"]

OBSERVATION = ("layer", "input channels", "filters", "kernel size", "stride", "padding")
"""What is seen of a group: its number and the attributes of the first layer that produces it."""


@dataclass(frozen=True)
class Rules:
    """What defines the environment. Hashable, so that it can be a static argument.

    Attributes:
        sizes: channels of each group, in the order of the steps; channels lie group by group.
        observations: for each group the six numbers of `OBSERVATION`.
        strategy: what an action says.
    """

    sizes: tuple[int, ...]
    observations: tuple[tuple[float, ...], ...]
    strategy: Strategy

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


def rules(structure: Structure, strategy: Strategy = "coarse") -> Rules:
    """The rules for a network.

    Raises:
        ValueError: the strategy is unknown.
    """
    if strategy not in ("coarse", "fine"):
        raise ValueError(f"unknown strategy {strategy!r}; it is coarse or fine")
    return Rules(
        sizes=tuple(group.size for group in structure.groups),
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


def reset(rules: Rules) -> State:
    """The start of an episode: nothing is decided, every channel is there."""
    return State(jnp.int32(0), jnp.ones(sum(rules.sizes), jnp.float32))


def step(rules: Rules, rank: Array, state: State, action: Array, most: Array) -> Step:
    """Decides what is left of one group.

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
    group = within_groups.index(rules.sizes)
    action = jnp.clip(action, 0.0, 1.0)
    if rules.strategy == "coarse":
        size = jnp.asarray(within_groups.size(rules.sizes))
        removed = jnp.floor(jnp.minimum(action[0], most) * size + 0.5)
        decided = (rank >= jnp.minimum(removed, size - 1)).astype(jnp.float32)
    else:
        first = np.cumsum(rules.sizes) - np.asarray(rules.sizes)
        decided = action[np.arange(len(group)) - first[group]]
    values = jnp.where(group == state.step, decided, state.values)
    after = State(jnp.minimum(state.step + 1, rules.num_steps), values)
    return Step(after, observe(rules, after.step), after.step >= rules.num_steps)


def hard_mask(rules: Rules, values: Array) -> Array:
    """The channels that stay, uint8 `[N]`: those with at least 0.5, one in every group at least."""
    stays = values >= 0.5
    if rules.strategy == "fine":  # coarse steps leave a channel, and sorting for it takes long
        stays |= within_groups.rank(rules.sizes, values) == within_groups.size(rules.sizes) - 1
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


def largest_ratio(initial: float, rise: float, progress: Array) -> Array:
    """The largest part of a group that may be removed: eq. 5.1 of the thesis, at most 1.

    Args:
        initial: the value at the beginning.
        rise: what is added until the end (the thesis's "action clip gradient").
        progress: the part of all timesteps that is over, in [0, 1].
    """
    return jnp.minimum(initial + jnp.asarray(progress, jnp.float32) * rise, 1.0)
